// What the captions of the index say about a picture that is asked with: each is a query of its own.

import * as api from "./api.js";
import { el } from "./dom.js";
import { find } from "./pictures.js";

const SHOWN = 3;
const place = document.getElementById("told");
let controller = new AbortController();
let shown = null; // of which picture

/** Show captions when the query is one picture and nothing else; `pick` is called with the one that was pressed. */
export async function showTold(parts, pick) {
  const picture = parts?.length === 1 && parts[0].kind !== "text" && parts[0].weight > 0 ? parts[0] : null;
  const name = picture === null ? null : `${picture.kind} ${picture.id ?? picture.key}`;
  if (name === shown) return;
  shown = name;
  controller.abort();
  controller = new AbortController();
  place.hidden = picture === null;
  place.replaceChildren(el("h2", {}, "In words")); // keeps its room while the captions come
  if (picture === null) return;
  try {
    const hits = await captionsOf(picture, controller.signal);
    place.append(
      ...hits.map((hit) =>
        el(
          "button",
          { type: "button", class: "quiet", title: hit.caption, onclick: () => pick(hit.caption) },
          hit.caption,
        ),
      ),
    );
    place.hidden = !hits.length;
  } catch {
    place.hidden = place.children.length < 2;
    // captions are an extra here: the results say what is wrong with the picture, or the service
  }
}

async function captionsOf(picture, signal) {
  if (picture.kind === "item") return (await api.captions(picture.id, SHOWN, signal)).hits;
  const held = await find(picture.key);
  return held === null ? [] : (await api.captionsOf(held.blob, SHOWN, signal)).hits;
}
