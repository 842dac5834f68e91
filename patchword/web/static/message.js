// What the page says: the line above the results, troubles with a way out, the first page, the voice for screen readers.

import { count, el, icon, many } from "./dom.js";

const QUIET = 500; // ms without a change before a number of results is spoken
const live = document.getElementById("live");
const box = document.getElementById("message");
let speaking = null;

/** Say something to screen readers, once things have settled. */
export function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    live.textContent = text;
  }, QUIET);
}

/** A trouble in words, with a button that may help; null takes it away. */
export function showMessage(text, action = null) {
  box.hidden = text === null;
  box.replaceChildren();
  if (text === null) return;
  box.append(el("p", {}, ...withCode(text)));
  if (action !== null) box.append(el("button", { type: "button", class: "quiet", onclick: action.act }, action.text));
}

/** Text with its `commands` as code. */
function withCode(text) {
  return text.split("`").map((piece, k) => (k % 2 ? el("code", {}, piece) : piece));
}

/** The line above the results. */
export function showStatus(answer, shown, total) {
  const found = document.getElementById("found");
  const how = document.getElementById("how");
  if (answer === null) {
    found.textContent = how.textContent = "";
    return;
  }
  const of =
    answer.searched < total
      ? `${many(answer.searched, "picture")} that pass the filters`
      : many(answer.searched, "picture");
  const isAll = shown === answer.searched;
  found.textContent = shown ? (isAll ? `All ${of}, the best first` : `The best ${count(shown)} of ${of}`) : "";
  const ways = { exact: "every picture scored", fast: `${count(answer.rescored)} pictures scored` };
  how.textContent = `${answer.mode} · ${answer.took_ms < 10 ? answer.took_ms.toFixed(1) : Math.round(answer.took_ms)} ms`;
  how.title = ways[answer.mode] ?? "";
}

/** What is seen before the first query. */
export function showHello(place, info) {
  if (info.images === 0) {
    place.replaceChildren(
      el("h2", {}, "This index is empty"),
      el(
        "p",
        { class: "lead" },
        "No picture has been indexed yet. Add a folder, and they appear here without a restart:",
      ),
      el("pre", { tabIndex: 0 }, "patchword index add my.index DIR"),
    );
    return;
  }
  const captions = info.captions > 0 ? ` and ${many(info.captions, "caption")}` : "";
  const way = (name, title, text) => el("li", {}, icon(name), el("h3", {}, title), el("p", {}, text));
  place.replaceChildren(
    el("h2", {}, "Find a picture by what is in it"),
    el(
      "p",
      { class: "lead" },
      `${many(info.images, "picture")}${captions}. What you ask goes to this service and nowhere else.`,
    ),
    el(
      "ul",
      { class: "ways" },
      way("search", "Say it", "A sentence works better than key words: who, what, where, which colour."),
      way("picture", "Show it", "Drop a picture on the page, paste one or choose one, and find others like it."),
      way(
        "filters",
        "Weigh it",
        "Join words and pictures, say what should not be there with a minus, and filter by date or size.",
      ),
    ),
  );
}
