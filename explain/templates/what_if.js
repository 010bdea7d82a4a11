/* What the model would say without some of its prototypes: its own formula, in float64, from the numbers on the page.
   Prototypes and nodes are called by their numbers; `silent` is a set of prototypes. */
(() => {
  "use strict";
  const model = JSON.parse(document.getElementById("what-if-data").textContent);
  const { nodes, formula, n_leaves: leaves, highest } = model;
  const { node: nodeOf, weight, activation, video } = model.prototypes;
  const off = new Set();
  const parents = [...new Set(nodes.map(one => one.parent))];
  const all = nodes.map((_, n) => n);
  const families = parents.map(parent => all.filter(n => nodes[n].parent === parent));
  const familyOf = n => families[parents.indexOf(nodes[n].parent)];
  const owned = nodes.map(() => []);
  nodeOf.forEach((n, p) => owned[n].push(p));
  const voice = p => weight[p] * activation[p];
  const similarity = p => activation[p] / highest;
  const loudest = some => [...some].sort((p, r) => voice(r) - voice(p) || p - r);

  /* ---- the formula */

  // Nats of every node: the largest voice of a class's prototypes, the sum of any other node's.
  function evidence(silent) {
    return all.map(n => owned[n].filter(p => !silent.has(p)).map(voice)
      .reduce((sum, one) => n < leaves ? Math.max(sum, one) : sum + one, 0));
  }

  function logSoftmax(scores) {
    const top = Math.max(...scores);
    const total = top + Math.log(scores.reduce((sum, one) => sum + Math.exp(one - top), 0));
    return scores.map(one => one - total);
  }

  // Hyperbolic distance of points at radii r and s whose directions differ by the square root of 4 q, in logarithms
  // where they are large: 2/sqrt(c) asinh sqrt(sinh^2((r - s)/2) + sinh r sinh s q), radii times sqrt(c).
  function distance(r, s, q, c) {
    const gap = Math.abs(r - s), exponent = Math.log(q) + 2 * Math.min(r, s), shift = Math.max(0, exponent);
    const terms = Math.expm1(-gap) ** 2 * Math.exp(-shift) +
      Math.exp(exponent - shift) * Math.expm1(-2 * r) * Math.expm1(-2 * s);
    const half = (gap + shift) / 2, root = Math.sqrt(Math.max(terms, Number.MIN_VALUE));
    return 2 / Math.sqrt(c) * (half < 30 ? Math.asinh(Math.exp(half) * root / 2) : half + Math.log(root));
  }

  // Scores of siblings in hyperbolic space: their evidence is the length of steps whose directions have these cosines.
  function hyperbolic({ lengths, cosines, temperature }, given) {
    const along = v => cosines.map(row => row.reduce((sum, one, i) => sum + one * v[i], 0));
    const square = v => Math.max(0, along(v).reduce((sum, one, i) => sum + one * v[i], 0));
    const length = Math.max(Math.sqrt(square(given)), 1e-12), way = given.map(one => one / length);
    const root = 2 * Math.sqrt(formula.c), own = square(way), shares = along(way);
    return lengths.map((radius, n) => {
      let apart = own - 2 * shares[n] + cosines[n][n];  // the squared chord between the two directions
      if (apart < 0.01) apart = square(way.map((one, i) => one - (i === n ? 1 : 0)));  // where that loses digits
      return -distance(root * length, root * radius, apart / 4, formula.c) / temperature;
    });
  }

  const branchings = formula.branchings || families.map(children => ({ children }));

  // log p of every node: a softmax among siblings, summed along the path; parents have larger numbers than children.
  function logProbs(silent) {
    const nats = evidence(silent), log = nodes.map(() => 0);
    for (const branching of branchings) {
      const given = branching.children.map(n => nats[n]);
      const scores = formula.name === "tree_hyperbolic" ? hyperbolic(branching, given) : given;
      logSoftmax(scores).forEach((one, i) => { log[branching.children[i]] = one; });
    }
    for (let n = nodes.length - 1; n >= 0; n--) if (nodes[n].parent !== null) log[n] += log[nodes[n].parent];
    return log;
  }

  /* ---- what follows from it */

  const above = n => n === null ? [] : [n, ...above(nodes[n].parent)];
  const before = logProbs(off).map(Math.exp);
  const top = (values, some) => some.reduce((best, n) => values[n] > values[best] ? n : best);
  const ofLevel = level => all.filter(n => nodes[n].level === level);

  // The siblings above two nodes of one level, between which the model decides for one of them.
  function parting(one, other) {
    const mine = above(one), theirs = above(other);
    let i = 0;
    while (i + 1 < mine.length && mine[i + 1] !== theirs[i + 1]) i++;
    return [mine[i], theirs[i]];
  }

  // Prototypes, beside those switched off, without which a node is the most probable of its level: always that one on
  // the way to the node ahead of it which costs its lead most, and in the end none that it wins with as well. null
  // where it cannot win.
  function toWin(n) {
    const level = ofLevel(nodes[n].level), silent = new Set(off);
    const wins = some => top(logProbs(some), [n, ...level]) === n;
    while (!wins(silent)) {
      const log = logProbs(silent), rivals = level.filter(one => one !== n).sort((a, b) => log[b] - log[a]);
      const choices = rivals.map(rival => [rival, above(rival).filter(one => !above(n).includes(one))
        .map(one => loudest(owned[one].filter(p => !silent.has(p) && voice(p) > 0))[0]).filter(p => p !== undefined)]);
      const [rival, some] = choices.find(([, some]) => some.length) || [];
      if (some === undefined) return null;
      const leads = some.map(p => logProbs(new Set([...silent, p]))).map(after => after[n] - after[rival]);
      silent.add(some[leads.indexOf(Math.max(...leads))]);
    }
    for (const p of loudest(silent).reverse().filter(p => !off.has(p))) {
      silent.delete(p);
      if (!wins(silent)) silent.add(p);
    }
    return [...silent].filter(p => !off.has(p)).sort((p, r) => p - r);
  }

  /* ---- the page */

  const thin = "\u202f";
  const nats = value => `${value.toFixed(2)}${thin}nats`;
  function percent(p) {
    const value = 100 * p;
    if (value < 0.1) return `<${thin}0.1${thin}%`;
    if (value >= 99.95) return `>${thin}99.9${thin}%`;
    return `${value.toFixed(value < 10 || value > 99 ? 1 : 0)}${thin}%`;
  }
  const change = (from, to) => percent(from) === percent(to) ? percent(to) : `${percent(from)} → ${percent(to)}`;
  const listed = some => some.length < 2 ? some.join("") : `${some.slice(0, -1).join(", ")} and ${some.at(-1)}`;
  const numbered = (some, named = false) => `prototype${some.length === 1 ? "" : "s"} ` +
    listed(some.map(p => named ? `${p} (${nodes[nodeOf[p]].name})` : p));
  const times = ratio => ratio < 10 ? ratio.toFixed(1) : ratio < 1e4 ? ratio.toFixed(0) : "more than 10 000";
  const plain = word => /^[\w.\/+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
  const at = id => document.getElementById(id);

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") made.addEventListener("click", value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }
  const button = (words, key, on, label) => element("button", { type: "button", "data-key": key, on,
    ...(label ? { "aria-label": label } : {}) }, words);

  const leaf = Number(at("what-if").dataset.leaf), path = above(leaf);
  const asked = new Map();  // by level, the node that is asked about

  function standsBy(p) {
    const mine = owned[nodeOf[p]].filter(one => !off.has(one));
    return nodeOf[p] < leaves && loudest(mine)[0] !== p;
  }
  function said(p) {
    return off.has(p) ? "switched off" : standsBy(p) ? `stands by (${nats(voice(p))})` : nats(voice(p));
  }
  function row(p, key) {
    const box = element("input", { type: "checkbox", "data-silence": p, "data-key": `${key}-${p}`,
      "aria-label": `Switch prototype ${p} of ${nodes[nodeOf[p]].name} off` });
    box.checked = off.has(p);
    return element("li", { class: off.has(p) ? "off" : "" }, element("label", {}, box,
      element("span", {}, element("b", {}, String(p)), " ", element("span", { class: "quiet" }, video[p] || "no video")),
      element("span", { class: "number" }, percent(similarity(p))), element("span", { class: "number" }, said(p))));
  }

  function probabilities(after) {
    const rows = [];
    for (const n of [...path].reverse()) {
      const siblings = familyOf(n).filter(one => one !== n).sort((a, b) => before[b] - before[a]);
      const shown = siblings.filter((one, i) => i < 10 || after[one] > 0.01);
      rows.push(element("tr", {}, element("th", { colspan: 3, scope: "colgroup", class: "kicker" },
        at("what-if").dataset[`level${nodes[n].level}`])));
      for (const one of [n, ...shown]) {
        const changed = Math.abs(after[one] - before[one]) >= 0.0005;
        const why = one === n ? "" : button("Why not?", `why-${one}`, () => ask(nodes[n].level, one),
          `Why not ${nodes[one].name}?`);
        rows.push(element("tr", { class: `${one === n ? "chosen" : ""} ${changed ? "changed" : ""}` },
          element("th", { scope: "row" }, nodes[one].name, " ", why),
          element("td", {}, percent(before[one])), element("td", {}, percent(after[one]))));
      }
      if (shown.length < siblings.length) {
        rows.push(element("tr", {}, element("td", { colspan: 3, class: "quiet" },
          `and ${siblings.length - shown.length} less probable ones`)));
      }
    }
    at("what-if-table").replaceChildren(...rows);
  }

  function lists() {
    const open = new Set([...at("what-if-lists").querySelectorAll("details[open]")].map(one => one.dataset.node));
    const total = evidence(off);
    at("what-if-lists").replaceChildren(...[...path].reverse().flatMap(n => {
      const siblings = familyOf(n).filter(one => one !== n).sort((a, b) => before[b] - before[a]);
      return [n, ...siblings].map(one => {
        const part = element("details", { "data-node": one }, element("summary", { "data-key": `list-${one}` },
          element("span", { class: one === n ? "chosen" : "" }, nodes[one].name),
          element("span", { class: "number" }, nats(total[one]))),
        element("ul", { class: "voices" }, ...loudest(owned[one]).map(p => row(p, "list"))));
        part.open = open.has(String(one));
        return part;
      });
    }));
  }

  function voices(n, key) {
    const mine = loudest(owned[n]), rest = mine.length - 6;
    return element("div", {}, element("h4", {}, `${nodes[n].name}: ${nats(evidence(off)[n])}`),
      element("ul", { class: "voices" }, ...mine.slice(0, 6).map(p => row(p, key))),
      rest > 0 ? element("p", { class: "small quiet" }, `and ${rest} that say less`) : "");
  }

  function ask(level, other) {
    asked.set(level, other);
    draw();
    const answer = at(`answer-${level}`) || at("what-if-answer");
    const contrast = document.querySelector(`[data-contrast="${other}"]`);
    if (contrast) contrast.open = true;
    answer.querySelector("h3").focus();
    answer.scrollIntoView({ block: "nearest" });
  }

  function answer(level, other, log) {
    const node = path[level], [mine, theirs] = parting(node, other), total = evidence(off);
    const more = total[mine] - total[theirs], ratio = Math.exp(Math.abs(log[mine] - log[theirs]));
    const [ahead, behind] = log[mine] >= log[theirs] ? [mine, theirs] : [theirs, mine];
    const name = n => nodes[n].name, set = toWin(other);
    const near = owned[theirs].filter(p => !off.has(p)).sort((p, r) => similarity(r) - similarity(p))[0];
    const parts = [element("h3", { tabindex: -1 }, `Why ${name(node)} and not ${name(other)}?`)];
    if (mine !== node) {
      parts.push(element("p", {}, `${name(node)} belongs to ${name(mine)} and ${name(other)} to ${name(theirs)}: ` +
        "the model decides between these two."));
    }
    parts.push(element("p", {}, `${name(mine)} has ${nats(total[mine])} of evidence, ${name(theirs)} ` +
      `${nats(total[theirs])}: ${nats(Math.abs(more))} ${more >= 0 ? "more" : "less"}. That makes ${name(ahead)} ` +
      `${times(ratio)} times as probable as ${name(behind)}.`));
    parts.push(element("div", { class: "sides" }, voices(mine, `mine-${level}`), voices(theirs, `theirs-${level}`)));
    if (near !== undefined) {
      parts.push(element("p", {}, `Of ${name(theirs)}, prototype ${near} comes nearest: ${percent(similarity(near))} ` +
        `like its patch in ${video[near] || "no video"}.`));
    }
    if (set === null) {
      parts.push(element("p", {}, `Whatever is switched off, ${name(other)} does not win: what the clip shows is too ` +
        "little like its own prototypes."));
    } else if (!set.length) {
      parts.push(element("p", {}, `${name(other)} wins now.`));
    } else {
      parts.push(element("p", {}, element("b", {}, `${name(other)} would win, as the most probable of its level, without ${numbered(set, true)}. `),
        button(set.length === 1 ? "Switch it off" : `Switch these ${set.length} off`, `win-${level}`,
          () => { set.forEach(p => off.add(p)); draw(); })));
    }
    parts.push(button("Close", `close-${level}`, () => {
      asked.delete(level);
      draw();
      (document.querySelector(`[data-why="${other}"]`) || document.querySelector(`[data-key="why-${other}"]`)).focus();
    }));
    return parts;
  }

  function draw() {
    const focused = document.activeElement && document.activeElement.dataset.key;
    const log = logProbs(off), after = log.map(Math.exp), gone = [...off].sort((p, r) => p - r);
    const now = top(after, ofLevel(0));
    for (const box of document.querySelectorAll("[data-silence]")) {
      box.checked = off.has(Number(box.dataset.silence));
      const card = box.closest(".card");
      if (card) card.classList.toggle("off", box.checked);
    }
    probabilities(after);
    lists();
    const inPanel = [];
    for (let level = 0; level < path.length; level++) {
      const own = at(`answer-${level}`), parts = asked.has(level) ? answer(level, asked.get(level), log) : [];
      if (own) {
        own.replaceChildren(...parts);
        own.hidden = !parts.length;
      } else inPanel.push(...parts);
    }
    at("what-if-answer").replaceChildren(...inPanel);
    at("what-if-answer").hidden = !inPanel.length;

    const outcome = `${nodes[leaf].name}: ${change(before[leaf], after[leaf])}. ` + (now === leaf ?
      "It stays the most probable class." : `The most probable class is now ${nodes[now].name}, ${percent(after[now])}.`);
    const status = gone.length ? `Without ${numbered(gone)}: ${outcome}` : "Every prototype is on.";
    if (at("what-if-status").textContent !== status) at("what-if-status").textContent = status;
    at("what-if-short").textContent = status;
    at("what-if-bar").hidden = !gone.length;
    document.documentElement.classList.toggle("barred", gone.length > 0);
    at("what-if-for-good").hidden = !gone.length;
    at("what-if-command").textContent =
      `python -m util_scripts.prune --resume_path ${plain(model.checkpoint)} --forbid ${gone.join(" ")}`;
    const bare = all.filter(n => owned[n].length && owned[n].every(p => off.has(p)));
    at("what-if-bare").textContent = bare.length ?
      `A node keeps one prototype at least: for good, leave one of ${listed(bare.map(n => nodes[n].name))} on.` : "";
    if (focused) {
      const again = document.querySelector(`[data-key="${focused}"]`);
      if (again && again !== document.activeElement) again.focus({ preventScroll: true });
    }
  }

  document.addEventListener("change", event => {
    const { silence } = event.target.dataset;
    if (silence === undefined) return;
    if (event.target.checked) off.add(Number(silence));
    else off.delete(Number(silence));
    draw();
  });
  for (const one of document.querySelectorAll("[data-why]")) {
    one.addEventListener("click", () => ask(Number(one.dataset.level), Number(one.dataset.why)));
  }
  for (const one of document.querySelectorAll("[data-reset]")) {
    one.addEventListener("click", () => {
      off.clear();
      draw();
      at("what-if-name").focus();
    });
  }
  at("what-if-copy").addEventListener("click", async () => {
    getSelection().selectAllChildren(at("what-if-command"));
    try {
      await navigator.clipboard.writeText(at("what-if-command").textContent);
      at("what-if-copied").textContent = "Copied.";
    } catch {
      at("what-if-copied").textContent = "Selected: copy it with the keyboard.";
    }
  });
  document.documentElement.classList.add("asking");
  draw();
  window.whatIf = { off, draw, probabilities: () => logProbs(off).map(Math.exp), toWin };
})();
