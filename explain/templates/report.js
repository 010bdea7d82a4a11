"use strict";
document.documentElement.classList.add("scripted");

const wordsOf = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (item, words) => words.every((word) => item.dataset.find.includes(word));

const unfolded = new Map(); /* what was, while a search unfolds what it finds */

function rememberFolds(forest, searching) {
  if (searching === unfolded.size > 0) return;
  if (searching) for (const part of forest.querySelectorAll("details")) unfolded.set(part, part.open);
  else {
    for (const [part, open] of unfolded) part.open = open;
    unfolded.clear();
  }
}

/* A node stays where its own path matches, where a training video of its prototypes does, and above all that stays. */
function filterTree(forest, status, words) {
  const nodes = [...forest.querySelectorAll(".node")];
  let found = 0;
  rememberFolds(forest, words.length > 0);
  for (const node of nodes.reverse()) { /* those below come after those above: now first */
    const details = node.querySelector(":scope > details");
    const own = node.querySelectorAll(":scope > details > .protos > .proto, :scope > details > .own .proto");
    const named = matches(node, words);
    const pictured = [...own].filter((proto) => words.length > 0 && matches(proto, words));
    const below = [...node.querySelectorAll(":scope > details > .nodes > .node")].some((child) => !child.hidden);
    node.hidden = !(named || pictured.length || below);
    for (const proto of own) proto.hidden = words.length > 0 && !named && !pictured.includes(proto);
    const inner = node.querySelector(":scope > details > .own");
    if (inner && words.length) inner.open = !named && pictured.length > 0;
    if (words.length) details.open = below || pictured.length > 0;
    if (words.length && (named || pictured.length)) found += 1;
  }
  status.textContent = words.length ? `${found} of ${nodes.length} nodes` : "";
}

function filterStories(list, status, words, only, most, more) {
  let found = 0;
  for (const item of list.children) {
    const kept = matches(item, words) && (!only || item.dataset.verdict === only);
    if (kept) found += 1;
    item.hidden = !kept || found > most;
  }
  status.textContent = words.length || only ? `${found} of ${list.children.length} videos` : "";
  more.hidden = found <= most;
  more.firstElementChild.textContent = `Show all ${found}`;
}

for (const form of document.querySelectorAll(".search")) {
  const target = document.getElementById(form.dataset.for);
  const [input, status] = [form.querySelector("input[type=search]"), form.querySelector("[role=status]")];
  const only = form.querySelector("[data-only]");
  const more = document.querySelector(`[data-more="${form.dataset.for}"]`);
  let most = Number(form.dataset.shown);
  const refresh = () => {
    if (!more) filterTree(target, status, wordsOf(input.value));
    else filterStories(target, status, wordsOf(input.value), only.checked ? only.dataset.only : "", most, more.parentElement);
  };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (more) {
    more.addEventListener("click", () => {
      const next = [...target.children].filter((item) => !item.hidden).length;
      most = Infinity;
      refresh();
      [...target.children].filter((item) => !item.hidden)[next].querySelector("summary").focus();
    });
    refresh();
  }
  for (const button of form.querySelectorAll("[data-fold]")) {
    button.addEventListener("click", () => {
      for (const part of target.querySelectorAll("details")) {
        if (!part.classList.contains("own")) part.open = button.dataset.fold === "open";
      }
    });
  }
}
