// The page: one state (state.js), shown by its parts; every change goes through `go`.

import * as api from "./api.js";
import { listen } from "./bring.js";
import { showChips } from "./chips.js";
import { many, takesText } from "./dom.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { announce, showHello, showMessage, showStatus } from "./message.js";
import { take } from "./pictures.js";
import { allParts, parseWords, queryText, sentences } from "./query.js";
import { ask as askOnce, Search } from "./search.js";
import { emptyState, readState, writeState } from "./state.js";
import { showTold } from "./told.js";
import { Viewer } from "./viewer.js";
import { expression } from "./where.js";

const PAGE = 48; // results asked for at a time
const PATIENCE = 600; // ms before a trouble with half-typed words is shown
const AGAIN = 2000; // ms between two looks whether the service is back

const at = (id) => document.getElementById(id);
const words = at("words");
let state = readState(location.search);
let info = null;
let asked = null; // JSON of the question whose answer is shown or on its way
let wanted = PAGE;
let isTyping = false;
let scrollTo = null;
let patience = null;
let retry = null;

const grid = new Grid(at("grid"), {
  open: (id) => go({ open: id }, "push", { opened: true }),
  similar: (id) => lookAlike(id),
  more: () => more(),
  address: (id) => writeState({ ...state, open: id }),
});
const viewer = new Viewer(at("viewer"), {
  closed: () => closeViewer(),
  turn: (direction) => turn(direction),
  similar: (id) => lookAlike(id),
  add: (id, weight) => add({ kind: "item", id, weight }),
});
const filters = new Filters((change) => go(change));
const nearEnd = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), {
  rootMargin: "300px",
});
const search = new Search(hear);

/** Change the state. "push" makes a step that the back button undoes, "replace" does not. */
function go(change, how = "push", kept = {}) {
  const next = { ...state, ...change };
  const isSame = writeState(next) === writeState(state);
  state = next;
  const address = writeState(state);
  if (how === "push" && !isSame) {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
    history.pushState(kept, "", address);
  } else history.replaceState({ ...history.state, ...kept }, "", address);
  show();
}

/** Show the state. */
function show() {
  if (document.activeElement !== words || words.value.trim() !== state.words.trim()) words.value = state.words;
  showChips(at("chips"), state, (change) => go(change));
  filters.show(state);
  const parts = allParts(state);
  document.title = parts.length ? `${queryText(parts)} · patchword` : "patchword";
  at("keep").hidden = !parseWords(state.words).length;
  ask(parts);
  showViewer();
}

function ask(parts) {
  const question = {
    parts,
    where: expression(state.filters, state.where),
    mode: state.mode,
    threshold: state.threshold,
  };
  const told = JSON.stringify(question);
  if (told === asked) return;
  asked = told;
  wanted = PAGE;
  clearTimeout(retry);
  if (!parts.length || info?.images === 0) {
    search.stop();
    clear();
    return;
  }
  search.ask(question, wanted, { isTyping });
}

/** Nothing is asked: the first page. */
function clear() {
  clearTimeout(patience);
  showMessage(null);
  filters.showError(null);
  grid.show([]);
  showStatus(null);
  showTold(null);
  document.body.classList.remove("is-busy");
  at("more").hidden = true;
  at("results").hidden = true;
  at("hello").hidden = info === null;
}

/** What the search says. */
function hear(told) {
  clearTimeout(patience);
  document.body.classList.toggle("is-busy", told.state === "busy");
  if (told.state === "answer") answered(told);
  if (told.state === "error")
    patience = setTimeout(() => failed(told), isTyping && isRefused(told.error) ? PATIENCE : 0);
}

function answered({ answer, question, k }) {
  filters.showError(null);
  at("hello").hidden = true;
  at("results").hidden = false;
  grid.show(answer.hits);
  const shown = answer.hits.length;
  showStatus(answer, shown, info?.images ?? Infinity);
  showMessage(shown ? null : nothing(question, answer));
  showTold(info?.captions > 0 ? question.parts : null, (text) => go({ words: text, parts: [] }));
  at("more").hidden = !(shown >= k && shown < answer.searched && k < most());
  nearEnd.unobserve(at("more"));
  nearEnd.observe(at("more")); // tells anew whether it is in sight
  announce(shown ? `${many(shown, "result")} for ${queryText(question.parts)}` : ""); // an alert says the rest
  showViewer();
  if (scrollTo !== null) scrollToSaved();
  else if (k === PAGE && scrollY > at("results").offsetTop) window.scrollTo(0, 0);
}

function scrollToSaved() {
  window.scrollTo(0, scrollTo);
  scrollTo = null;
}

function nothing(question, answer) {
  if (answer.searched === 0 && question.where !== null) return "No picture passes the filters.";
  if (question.threshold !== null) return `No picture scores ${question.threshold} or more.`;
  return "Nothing was found.";
}

function failed({ error, question, k }) {
  if (error.status === 0) {
    showMessage(error.message, { text: "Try again", act: again });
    waitForService();
    return;
  }
  if (error.status === 429 || error.status === 503) {
    showMessage(`${error.message} Trying again in a moment.`, { text: "Try now", act: again });
    retry = setTimeout(again, AGAIN);
    return;
  }
  if (isRefused(error) && question.where !== null) blame(error, question);
  else showMessage(error.message);
  showStatus(null);
  at("more").hidden = true;
  if (k === PAGE) grid.show([]);
}

/** Whether it was the question that was wrong. */
function isRefused(error) {
  return error.status === 400 || error.status === 422;
}

/** A filter and words were refused together: ask without the filter to learn which of them it was. */
async function blame(error, question) {
  const isFilter = await askOnce({ ...question, where: null }, 1).then(
    () => true,
    () => false,
  );
  if (JSON.stringify(question) !== asked) return; // another one is asked by now
  filters.showError(isFilter ? error.message : null);
  const isSeen = isFilter && !at("filters").hidden;
  showMessage(
    isSeen ? null : error.message,
    isFilter ? { text: "Open the filters", act: () => filters.toggle(true) } : null,
  );
}

function again() {
  clearTimeout(retry);
  asked = null;
  if (info === null) start();
  else show();
}

function waitForService() {
  clearTimeout(retry);
  retry = setTimeout(async () => ((await api.isHealthy()) ? again() : waitForService()), AGAIN);
}

function most() {
  return info?.limits.k ?? PAGE;
}

function more() {
  if (at("more").hidden || document.body.classList.contains("is-busy")) return;
  wanted = Math.min(most(), wanted + PAGE);
  search.ask(JSON.parse(asked), wanted);
}

function showViewer() {
  if (state.open === null) {
    viewer.close();
    return;
  }
  const hit = grid.hits.find((one) => one.id === state.open);
  const texts = sentences(state);
  if (hit) viewer.show(hit, texts, { rank: hit.rank, total: grid.hits.length });
  else if (viewer.hit?.id !== state.open && info !== null) showAlone(state.open, texts);
}

/** A picture that is not among the results: from an address that somebody sent. */
async function showAlone(id, texts) {
  try {
    const item = await api.getItem(id);
    if (state.open === id && viewer.hit?.id !== id)
      viewer.show({ score: null, probability: null, available: true, ...item }, texts, null);
  } catch (error) {
    go({ open: null }, "replace");
    showMessage(error.message);
  }
}

function closeViewer() {
  if (state.open === null) return;
  const id = state.open;
  if (history.state?.opened) history.back();
  else go({ open: null }, "replace");
  viewer.hit = null;
  grid.focus(id);
}

function turn(direction) {
  const next = grid.beside(state.open, direction);
  if (next !== null) go({ open: next.id }, "replace");
  if (grid.beside(next?.id ?? state.open, 3) === null) more();
}

function lookAlike(id) {
  go({ words: "", parts: [{ kind: "item", id, weight: 1 }], open: null });
  window.scrollTo(0, 0);
}

function add(...added) {
  isTyping = false;
  go({ parts: added.reduce(joined, state.parts), open: null });
}

/** The parts with one more at their end, each once. */
function joined(parts, part) {
  const others = parts.filter((other) => !(other.kind === part.kind && other.id === part.id && other.key === part.key));
  return [...others, part];
}

/** Pictures become parts in their order, all in one step, however long each takes to read. */
async function bring(pictures, how) {
  const taken = await Promise.allSettled(
    pictures.map(({ file, id }) => (file ? take(file) : { kind: "item", id, weight: 1 })),
  );
  const parts = taken.filter((one) => one.status === "fulfilled").map((one) => one.value);
  const refused = taken.find((one) => one.status === "rejected");
  if (parts.length && how === "replace") go({ words: "", parts: parts.reduce(joined, []), open: null });
  else if (parts.length) add(...parts);
  if (refused) showMessage(refused.reason.message);
}

function typed() {
  isTyping = true;
  const how = history.state?.typing ? "replace" : "push";
  go({ words: words.value, open: null }, how, { typing: true });
}

/** The words are finished: the next ones are a new step of the back button. */
function settle() {
  isTyping = false;
  if (history.state?.typing) history.replaceState({ ...history.state, typing: false }, "");
}

function keep() {
  const parts = parseWords(words.value);
  if (!parts.length) return;
  settle();
  words.value = "";
  go({ words: "", parts: [...state.parts, ...parts] });
  words.focus();
}

words.addEventListener("input", typed);
words.addEventListener("blur", settle);
words.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.shiftKey) {
    event.preventDefault();
    keep();
  } else if (event.key === "ArrowDown" && grid.hits.length) {
    event.preventDefault();
    grid.focus();
  } else if (event.key === "Escape") words.blur();
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  settle();
  go({ words: words.value });
});
at("keep").addEventListener("click", keep);
at("more").addEventListener("click", more);
at("home").addEventListener("click", (event) => {
  event.preventDefault();
  settle();
  go(emptyState());
  words.focus();
});
at("help-button").addEventListener("click", () => at("help").showModal());
at("help").addEventListener("click", (event) => event.target === at("help") && at("help").close());
document.addEventListener("keydown", (event) => {
  const isElsewhere =
    takesText(event.target) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]");
  if (isElsewhere) return;
  const acts = { "/": () => words.select(), f: () => filters.toggle(), "?": () => at("help").showModal() };
  const act = acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
addEventListener("popstate", () => {
  isTyping = false;
  state = readState(location.search);
  scrollTo = history.state?.scroll ?? null;
  show();
  if (scrollTo !== null && asked !== null && !document.body.classList.contains("is-busy")) scrollToSaved();
});
document.addEventListener("visibilitychange", async () => {
  if (document.hidden || info === null) return;
  const now = await api.getInfo().catch(() => null);
  if (now === null || now.generation === info.generation) return;
  search.forget();
  learn(now);
});
listen({ bring, refuse: (text) => showMessage(text), hasQuery: () => allParts(state).length > 0 });

/** Take in what the service says about its index. */
function learn(told) {
  info = told;
  filters.setColumns(info.columns ?? {});
  viewer.hasCaptions = info.captions > 0;
  showHello(at("hello"), info);
  asked = null;
  show();
}

async function start() {
  try {
    learn(await api.getInfo());
    showMessage(null);
  } catch (error) {
    failed({ error, question: { where: null }, k: 0 });
  }
}

history.scrollRestoration = "manual";
history.replaceState(history.state, "", writeState(state)); // a token in the address is not kept there
words.value = state.words;
if (!takesText(document.activeElement) && matchMedia("(pointer: fine)").matches) words.focus();
start();
