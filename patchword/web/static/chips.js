// The parts of a query and the filters as chips: each can be weighed and removed.

import { thumb } from "./api.js";
import { el, icon, visible } from "./dom.js";
import { find } from "./pictures.js";
import { partText, step, weightText } from "./query.js";
import { conditionText } from "./where.js";

/**
 * Show the chips.
 *
 * @param state parts, filters and where
 * @param change called with {parts} or {filters} or {where} when a chip was changed
 */
export function showChips(list, state, change) {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.place : null;
  const parts = state.parts.map((part, k) => partChip(part, k, state.parts, change));
  const filters = state.filters.map((filter) => filterChip(filter, state.filters, change));
  const own = state.where.trim() ? [ownChip(state.where.trim(), change)] : [];
  list.replaceChildren(...parts, ...filters, ...own);
  list.hidden = !list.children.length;
  if (focused !== null) refocus(list, focused);
}

/** Keep the keyboard where it was; after a removal, on the chip that took the place. */
function refocus(list, place) {
  const same = list.querySelector(`[data-place="${CSS.escape(place)}"]`);
  const [last] = [...list.querySelectorAll("button[data-place]")].slice(-1);
  (same ?? last ?? document.getElementById("words")).focus();
}

function partChip(part, k, parts, change) {
  const name = visible(partText(part));
  const replaced = (next) => change({ parts: parts.map((other, j) => (j === k ? next : other)) });
  const weigh = (direction) => replaced({ ...part, weight: step(part.weight, direction) });
  const button = (drawing, said, direction) =>
    el(
      "button",
      {
        type: "button",
        "aria-label": `${said}: ${name}`,
        title: said,
        "data-place": `${drawing}${k}`,
        onclick: () => weigh(direction),
      },
      icon(drawing),
    );
  return el(
    "li",
    { class: part.weight < 0 ? "chip is-less" : "chip" },
    ...face(part),
    button("minus", "Less weight", -1),
    el("span", { class: "weight" }, el("span", { class: "unseen" }, "weight "), weightText(part.weight)),
    button("plus", "More weight", 1),
    remover(`Remove ${name}`, `close${k}`, () => change({ parts: parts.filter((_, j) => j !== k) })),
  );
}

/** What a chip shows: words, or a small picture. */
function face(part) {
  if (part.kind === "text") return [el("span", { class: "text" }, part.text)];
  const image = el("img", { alt: partText(part).replace(/^not /, ""), width: 32, height: 32 });
  image.addEventListener("error", () => image.replaceWith(icon("missing")));
  if (part.kind === "item") image.src = thumb(part.id, 128);
  else
    find(part.key).then((picture) =>
      picture === null ? image.replaceWith(icon("missing")) : (image.src = picture.url),
    );
  const text = part.kind === "item" ? "like this" : visible(part.name);
  return [image, el("span", { class: "text" }, part.kind === "item" && part.weight < 0 ? "unlike this" : text)];
}

function filterChip(filter, filters, change) {
  const text = conditionText(filter.column, filter.how, filter.value);
  const remove = () => change({ filters: filters.filter((other) => other !== filter) });
  return el(
    "li",
    { class: "chip is-filter" },
    el("span", { class: "text" }, text),
    remover(`Remove the filter ${text}`, `f${filter.how}${filter.column}`, remove),
  );
}

function ownChip(where, change) {
  return el(
    "li",
    { class: "chip is-filter" },
    el("code", { class: "text" }, where),
    remover("Remove the expression", "where", () => change({ where: "" })),
  );
}

function remover(label, place, onclick) {
  return el(
    "button",
    { type: "button", "aria-label": label, title: "Remove", "data-place": place, onclick },
    icon("close"),
  );
}
