// The results: rows of small pictures in their own shapes. One stop for the Tab key; arrows go from picture to picture.

import { thumb } from "./api.js";
import { DRAGGED } from "./bring.js";
import { el, fileName, icon, percent, score, visible } from "./dom.js";

// A tile without its picture and its texts: copied for each hit, which is faster than making it anew.
const blank = el(
  "li",
  { class: "tile" },
  el(
    "a",
    { class: "card", tabIndex: -1 },
    el("span", { class: "frame" }),
    el("span", { class: "line" }, el("bdi", { class: "name" }), el("span", { class: "figure" })),
  ),
  el("button", { type: "button", class: "alike", tabIndex: -1, title: "Similar pictures (S)" }),
);

export class Grid {
  /** @param told {open(id), similar(id), more(), address(id)}: what a tile does, and the address of its picture */
  constructor(list, told) {
    this.list = list;
    this.told = told;
    this.hits = [];
    this.tiles = new Map(); // id -> li; kept between answers, so that a picture that stays does not flicker
    this.current = null; // id of the tile that Tab goes to
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("dragstart", (event) => {
      const tile = event.target.closest(".card") && event.target.closest(".tile");
      if (!tile) return;
      event.dataTransfer.setData(DRAGGED, tile.dataset.id);
      event.dataTransfer.effectAllowed = "copy";
    });
    list.addEventListener("focusin", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) this.#stop(Number(tile.dataset.id));
    });
  }

  /** Show an answer's hits in their order. */
  show(hits) {
    const hadFocus = this.list.contains(document.activeElement);
    const tiles = new Map(hits.map((hit) => [hit.id, this.tiles.get(hit.id) ?? this.#tile(hit)]));
    this.hits = hits;
    this.tiles = tiles;
    hits.forEach((hit) => this.#figures(tiles.get(hit.id), hit));
    const wanted = [...tiles.values()];
    const isSame =
      wanted.length === this.list.children.length && wanted.every((tile, k) => tile === this.list.children[k]);
    const isLonger =
      wanted.length > this.list.children.length && [...this.list.children].every((tile, k) => tile === wanted[k]);
    if (isLonger) this.list.append(...wanted.slice(this.list.children.length));
    else if (!isSame) this.list.replaceChildren(...wanted);
    const stays = (hadFocus || isSame || isLonger) && tiles.has(this.current); // else the keyboard begins at the best
    this.#stop(stays ? this.current : (hits[0]?.id ?? null));
    if (hadFocus && !this.list.contains(document.activeElement)) this.focus();
  }

  /** Put the keyboard on a tile: that of `id`, or the one that Tab would go to. */
  focus(id = this.current) {
    const card = this.tiles.get(id)?.querySelector(".card");
    card?.focus();
    card?.scrollIntoView({ block: "nearest" });
  }

  /** The hit before or after that of `id`; null at the ends. */
  beside(id, direction) {
    const at = this.hits.findIndex((hit) => hit.id === id);
    return at < 0 ? null : (this.hits[at + direction] ?? null);
  }

  #tile(hit) {
    const tile = blank.cloneNode(true);
    const [card, alike] = tile.children;
    const [frame, line] = card.children;
    const ratio = hit.width > 0 && hit.height > 0 ? Math.min(3, Math.max(0.4, hit.width / hit.height)) : 1;
    tile.dataset.id = String(hit.id);
    tile.style.setProperty("--ratio", ratio.toFixed(4));
    card.title = visible(hit.path);
    frame.append(hit.available === false ? gone() : small(hit));
    line.firstChild.textContent = fileName(hit.path);
    alike.setAttribute("aria-label", `Similar to ${fileName(hit.path)}`);
    return tile;
  }

  #click(event) {
    const tile = event.target.closest(".tile");
    if (tile === null) return;
    const id = Number(tile.dataset.id);
    if (event.target.closest(".alike")) this.told.similar(id);
    else if (event.target.closest(".card")) {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // a new tab or window
      event.preventDefault();
      this.told.open(id);
    }
  }

  /** What changes from answer to answer: rank, score, probability and address. */
  #figures(tile, hit) {
    const card = tile.querySelector(".card");
    const figure = tile.querySelector(".figure");
    const lost = hit.available === false ? ", the file is gone" : "";
    const said = hit.probability === null ? "" : `, match ${percent(hit.probability)}`;
    card.setAttribute("aria-label", `${hit.rank}: ${fileName(hit.path)}, score ${score(hit.score)}${said}${lost}`);
    card.href = this.told.address(hit.id);
    const match =
      hit.probability === null ? [] : [el("b", {}, percent(hit.probability)), el("span", { class: "dot" }, " · ")];
    figure.replaceChildren(...match, el("span", { class: "score" }, score(hit.score)));
    figure.title = hit.probability === null ? "score" : "probability of a match · score";
  }

  #stop(id) {
    if (this.current !== null) this.#tabs(this.current, -1);
    this.current = id;
    if (id !== null) this.#tabs(id, 0);
  }

  #tabs(id, index) {
    this.tiles
      .get(id)
      ?.querySelectorAll(".card, .alike")
      .forEach((node) => (node.tabIndex = index));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.hits.findIndex((hit) => hit.id === this.current);
    if (event.key === "s" || event.key === "S") {
      event.preventDefault();
      this.told.similar(this.current);
      return;
    }
    const moves = {
      ArrowLeft: () => at - 1,
      ArrowRight: () => at + 1,
      ArrowUp: () => this.#below(at, -1),
      ArrowDown: () => this.#below(at, 1),
      Home: () => 0,
      End: () => this.hits.length - 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = moves[event.key]();
    if (next >= this.hits.length) this.told.more();
    else if (next < 0) document.getElementById("words").focus();
    else this.focus(this.hits[next].id);
  }

  /** Position of the tile above or below: in the next row, the nearest by its middle. */
  #below(at, direction) {
    const boxes = this.hits.map((hit) => this.tiles.get(hit.id).getBoundingClientRect());
    const here = boxes[at];
    const rows = boxes.map((box) => box.top).filter((top) => (direction > 0 ? top > here.top + 4 : top < here.top - 4));
    if (!rows.length) return direction > 0 ? this.hits.length : -1;
    const row = direction > 0 ? Math.min(...rows) : Math.max(...rows);
    const middle = (box) => (box.left + box.right) / 2;
    let best = -1;
    boxes.forEach((box, k) => {
      if (Math.abs(box.top - row) > 4) return;
      if (best < 0 || Math.abs(middle(box) - middle(here)) < Math.abs(middle(boxes[best]) - middle(here))) best = k;
    });
    return best;
  }
}

function small(hit) {
  const image = el("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
  image.addEventListener("load", () => image.classList.add("is-here"));
  image.addEventListener("error", () => image.replaceWith(gone()));
  image.sizes = "(max-width: 40rem) 50vw, 20rem";
  image.srcset = `${thumb(hit.id, 256)} 256w, ${thumb(hit.id, 512)} 512w`;
  image.src = thumb(hit.id, 256);
  return image;
}

/** In the place of a picture that can not be shown. */
export function gone() {
  return el("span", { class: "gone" }, icon("missing"), el("span", {}, "can not be shown"));
}
