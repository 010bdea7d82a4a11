/* A page of a study: questions drawn by (seed, participant), answers kept in this browser, a CSV at the end. */
(() => {
  "use strict";
  const study = JSON.parse(document.getElementById("study-data").textContent);
  const at = id => document.getElementById(id);
  const rating = study.task === "agreement";
  const names = rating ? ["1", "2", "3", "4"] : ["A", "B", "C", "D"];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let moves = !still.matches, participant = "", drawn = [], place = 0, since = 0, answers = {};

  /* ---- numbers that depend on the seed and a text alone: FNV-1a, then mulberry32 */

  function random(text) {
    let state = 2166136261;
    for (const byte of new TextEncoder().encode(`${study.seed} ${text}`)) state = Math.imul(state ^ byte, 16777619);
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }
  function shuffled(some, next) {
    const order = [...some];
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  // The questions of a participant: levels in turn, then all mixed; checks between them, none at the beginning.
  function draw(who) {
    const next = random(who), byLevel = new Map();
    for (const one of shuffled(study.questions.filter(one => !one.check), next)) {
      byLevel.set(one.level, [...(byLevel.get(one.level) || []), one]);
    }
    const groups = [...byLevel.keys()].sort((a, b) => a - b).map(level => byLevel.get(level)), chosen = [];
    while (chosen.length < study.n && groups.some(group => group.length)) {
      for (const group of groups) if (group.length && chosen.length < study.n) chosen.push(group.pop());
    }
    const all = shuffled(chosen, next);
    shuffled(study.questions.filter(one => one.check), next).forEach((check, i, checks) => {
      const share = all.length / checks.length;
      all.splice(Math.min(all.length, 1 + Math.floor(i * share + next() * share)), 0, check);
    });
    return all;
  }
  const optionsOf = one => one.fixed ? one.options : shuffled(one.options, random(`${participant} ${one.id}`));

  /* ---- what is kept */

  const key = () => `hipe ${study.study} ${study.task} ${participant}`;
  function keep() {
    try {
      localStorage.setItem(key(), JSON.stringify({ place, answers }));
    } catch {
      at("hint").textContent = "This browser keeps nothing: do not close the page before you have downloaded.";
    }
  }
  function kept() {
    try {
      return JSON.parse(localStorage.getItem(key())) || {};
    } catch {
      return {};
    }
  }

  function csv() {
    const rows = drawn.map((one, i) => [study.study, study.task, participant, i + 1, one.id,
      (answers[one.id] || {}).answer, ((answers[one.id] || {}).seconds || 0).toFixed(1)]);
    return [["study", "task", "participant", "position", "question", "answer", "seconds"], ...rows]
      .filter(row => row[5] !== undefined).map(row => row.join(",")).join("\n") + "\n";
  }

  /* ---- the page */

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  function picture(name, alt) {
    const shown = element("img", { alt, "data-picture": name });
    shown.src = study.pictures[name][moves ? "moving" : "still"];
    return shown;
  }
  function show(id) {
    for (const step of ["intro", "asking", "done"]) at(step).hidden = step !== id;
    scrollTo(0, 0);
  }

  function choice(name, value, label, ...more) {
    const input = element("input", { type: "radio", name: "answer", value, "aria-keyshortcuts": name });
    input.checked = (answers[drawn[place].id] || {}).answer === value;
    input.addEventListener("change", () => answered(value));
    return element("label", { class: "choice" }, input, element("b", {}, name), label ? ` ${label}` : "", ...more);
  }

  function ask() {
    const one = drawn[place];
    at("count").textContent = `Question ${place + 1} of ${drawn.length}`;
    at("progress").max = drawn.length;
    at("progress").value = Object.keys(answers).length;
    at("prompt").textContent = one.prompt || (rating ? "How alike are the two marked parts?"
      : "Which explanation belongs to the right answer?");
    at("legend").textContent = rating ? "Look at the boxes and at what they hold, not at the rest."
      : "Left: the part of the video that counts. Right: what it is said to look like.";
    const choices = [at("legend")];
    if (rating) {
      at("stage").replaceChildren(element("div", { class: "pair" }, ...one.parts.map((part, i) => element("figure", {},
        element("figcaption", {}, i ? "Second video" : "First video"),
        picture(part[0], `${i ? "Second" : "First"} video, the part in a yellow box`),
        element("figcaption", { class: "small" }, "the marked part, enlarged"),
        picture(part[1], `The part in the box of the ${i ? "second" : "first"} video, enlarged`)))));
      names.forEach((name, i) => choices.push(choice(name, name, study.choices[i])));
    } else {
      at("stage").replaceChildren(element("figure", { class: "whole" }, element("figcaption", {}, "What happens here?"),
        picture(one.clip, "The video that is explained")));
      optionsOf(one).forEach((option, i) => {
        const part = one.parts[one.options.indexOf(option)];
        choices.push(choice(names[i], option, "", element("span", { class: "two" },
          element("span", {}, "this part", picture(part[0], `Explanation ${names[i]}: the video with a part in a box`)),
          element("span", {}, "looks like that", picture(part[1],
            `Explanation ${names[i]}: another video with a part in a box`)))));
      });
    }
    at("choices").classList.toggle("explanations", !rating);
    at("choices").replaceChildren(...choices);
    at("back").disabled = place === 0;
    at("next").disabled = !answers[one.id];
    at("next").textContent = place + 1 < drawn.length ? "Next" : "Finish";
    at("hint").textContent = "";
    show("asking");
    at("prompt").focus({ preventScroll: true });
    since = performance.now();
  }

  function spent() {
    const now = performance.now(), seconds = (now - since) / 1000;
    since = now;
    return seconds;
  }
  function answered(answer) {
    const one = drawn[place], before = answers[one.id] || { seconds: 0 };
    answers[one.id] = { answer, seconds: before.seconds + spent() };
    at("next").disabled = false;
    at("progress").value = Object.keys(answers).length;
    keep();
  }
  function go(to) {
    place = to;
    keep();
    if (place < drawn.length) ask();
    else finish();
  }
  function next() {
    if (!answers[drawn[place].id]) at("hint").textContent = `Choose ${names[0]} to ${names[3]} first.`;
    else go(place + 1);
  }
  function finish() {
    at("text").value = csv();
    show("done");
    at("done-name").focus();
  }

  at("who").addEventListener("submit", event => {
    event.preventDefault();
    participant = at("participant").value.trim();
    drawn = draw(participant);
    const before = kept();
    answers = Object.fromEntries(Object.entries(before.answers || {}).filter(([id]) => drawn.some(one => one.id === id)));
    const open = drawn.findIndex(one => !answers[one.id]);
    place = Math.min(before.place || 0, open < 0 ? drawn.length : open);
    go(place);
  });
  at("next").addEventListener("click", next);
  at("back").addEventListener("click", () => go(place - 1));
  at("review").addEventListener("click", () => go(0));
  at("download").addEventListener("click", () => {
    const link = element("a", { download: `${study.task}_${participant}.csv` });
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    at("saved").textContent = `Saved as ${link.download} where your browser puts downloads.`;
  });
  function motion(wanted) {
    moves = wanted;
    at("motion").setAttribute("aria-pressed", String(!moves));
    at("motion").textContent = moves ? "Stop the motion" : "Start the motion";
    for (const shown of document.querySelectorAll("[data-picture]")) {
      shown.src = study.pictures[shown.dataset.picture][moves ? "moving" : "still"];
    }
  }
  at("motion").addEventListener("click", () => motion(!moves));
  motion(moves);
  document.addEventListener("keydown", event => {
    if (at("asking").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = names.indexOf(event.key.toUpperCase()), boxes = [...document.querySelectorAll("#choices input")];
    if (number >= 0) {
      boxes[number].checked = true;
      boxes[number].focus();
      answered(boxes[number].value);
    } else if (event.key === "Enter" && document.activeElement.tagName !== "BUTTON") next();
    else if (event.key === "ArrowLeft" && document.activeElement.type !== "radio" && place) go(place - 1);
    else if (event.key.toLowerCase() === "m") motion(!moves);
    else return;
    event.preventDefault();
  });
  const asked = new URLSearchParams(location.search).get("participant");
  if (asked) at("participant").value = asked;
  at("participant").focus();
  window.study = { draw: who => draw(who).map(one => one.id), csv };
})();
