// One picture, large: its words lit, its captions, what is known about it, and the ways on from it.

import * as api from "./api.js";
import { count, el, fileName, iconButton, percent, score, takesText, visible } from "./dom.js";
import { gone } from "./grid.js";
import { drawLight, heatOf, joinWords, named, strongest, VEIL } from "./lit.js";
import { partText } from "./query.js";
import { showSentence } from "./sentence.js";

const CAPTIONS = 5;
const PAUSE = 200; // ms between the last key in the field and the explanation

export class Viewer {
  /** @param told {closed(), turn(direction), similar(id), add(id, weight), find(words)} */
  constructor(dialog, told) {
    this.dialog = dialog;
    this.told = told;
    this.hit = null;
    this.hasCaptions = false;
    this.controller = new AbortController();
    this.#build();
    dialog.addEventListener("close", () => this.told.closed());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * Show a picture.
   *
   * @param hit as in /search; score and probability may be null
   * @param sentences parts of kind text: what can be lit
   * @param place {rank, total} among the results, or null
   */
  show(hit, sentences, place) {
    const isOther = this.hit?.id !== hit.id;
    this.hit = hit;
    this.place.textContent = place === null ? "" : `${count(place.rank)} of ${count(place.total)}`;
    this.previous.disabled = place === null || place.rank <= 1;
    this.next.disabled = place === null || place.rank >= place.total;
    this.#facts(hit);
    if (isOther || !this.dialog.open) {
      this.controller.abort();
      this.controller = new AbortController();
      this.title.textContent = fileName(hit.path);
      this.#picture(hit);
      this.#captions(hit.id);
      this.#sentences(sentences);
    }
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.title.focus({ preventScroll: true });
    }
    this.side.scrollTop = 0;
  }

  close() {
    this.controller.abort();
    this.hit = null;
    if (this.dialog.open) this.dialog.close();
  }

  #build() {
    this.title = el("h2", { id: "viewer-title", tabIndex: -1 });
    this.place = el("p", { class: "place" });
    this.previous = iconButton("left", "Previous picture (←)", () => this.told.turn(-1));
    this.next = iconButton("right", "Next picture (→)", () => this.told.turn(1));
    const close = iconButton("close", "Close (Esc)", () => this.dialog.close());
    const bar = el("div", { class: "bar" }, this.place, this.previous, this.next, close);
    this.frame = el("div", { class: "frame" });
    const stage = el("div", { class: "stage" }, this.frame);
    this.sentence = el("div", { class: "sentence" });
    this.choice = el("div", { class: "choice", role: "group", "aria-label": "Sentence to light", hidden: true });
    this.field = el("input", {
      id: "light",
      type: "text",
      maxLength: 1000,
      autocomplete: "off",
      spellcheck: false,
      placeholder: "Any words",
      oninput: () => this.#typed(),
    });
    this.plain = el("input", { id: "lights", type: "checkbox", checked: true, onchange: () => this.#switch() });
    this.captions = el("div", { class: "captions", hidden: true });
    this.facts = el("dl", { class: "facts" });
    const button = (text, act) => el("button", { type: "button", class: "quiet", onclick: act }, text);
    this.actions = el(
      "div",
      { class: "actions" },
      button("Similar", () => this.told.similar(this.hit.id)),
      button("More like this", () => this.told.add(this.hit.id, 1)),
      button("Less like this", () => this.told.add(this.hit.id, -0.5)),
    );
    this.side = el(
      "div",
      { class: "side" },
      this.title,
      this.actions,
      el(
        "section",
        { "aria-labelledby": "why-title" },
        el(
          "div",
          { class: "head" },
          el("h3", { id: "why-title" }, "Words on the picture"),
          el("label", { class: "switch", for: "lights" }, this.plain, "lit"),
        ),
        this.choice,
        this.sentence,
        el("label", { class: "field", for: "light" }, el("span", {}, "Light other words"), this.field),
      ),
      this.captions,
      el("section", { "aria-labelledby": "facts-title" }, el("h3", { id: "facts-title" }, "About"), this.facts),
    );
    this.dialog.append(bar, stage, this.side);
  }

  #picture(hit) {
    this.ratio = hit.width > 0 && hit.height > 0 ? hit.width / hit.height : 1;
    this.light = el("canvas", { class: "light", "aria-hidden": "true" });
    this.outlines = el("div", { class: "outlines", "aria-hidden": "true" });
    const image = el("img", { class: "whole", alt: fileName(hit.path) });
    const under = el("img", { class: "under", alt: "", src: api.thumb(hit.id, 256) });
    const fit = (ratio, width) => {
      this.ratio = ratio;
      this.frame.style.setProperty("--ratio", ratio.toFixed(4));
      this.frame.style.setProperty("--most", `${Math.max(480, 4 * width)}px`); // not blown up without end
    };
    const fail = () => {
      fit(1, 120);
      this.frame.replaceChildren(gone());
    };
    image.addEventListener("load", () => {
      under.remove();
      fit(image.naturalWidth / image.naturalHeight, image.naturalWidth);
    });
    image.addEventListener("error", fail);
    under.addEventListener("error", () => under.remove());
    fit(this.ratio, hit.width);
    if (hit.available === false) {
      fail();
      return;
    }
    image.src = api.picture(hit.id);
    this.frame.replaceChildren(under, image, this.light, this.outlines);
  }

  #facts(hit) {
    const facts = [];
    if (hit.score !== null) facts.push(["Score", score(hit.score)]);
    if (hit.probability !== null) facts.push(["Match", percent(hit.probability)]);
    facts.push(["File", visible(hit.path)]);
    if (hit.width > 0) facts.push(["Size", `${hit.width} × ${hit.height}`]);
    if (hit.taken) facts.push(["Taken", hit.taken.replace("T", " ")]);
    for (const [name, value] of Object.entries(hit.columns ?? {})) {
      if (value !== null && value !== "") facts.push([visible(name), visible(value)]);
    }
    const open = el("a", { href: api.picture(hit.id), target: "_blank", rel: "noopener" }, "Open the file");
    this.facts.replaceChildren(
      ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, value)))),
      ...(hit.available === false ? [] : [el("div", {}, el("dt", {}, "Original"), el("dd", {}, open))]),
    );
  }

  async #captions(id) {
    this.captions.hidden = true;
    if (!this.hasCaptions) return;
    const signal = this.controller.signal;
    try {
      const answer = await api.captions(id, CAPTIONS, signal);
      const row = (hit) =>
        el(
          "li",
          {},
          el(
            "button",
            { type: "button", class: "caption", title: "Light these words", onclick: () => this.#set(hit.caption) },
            hit.caption,
          ),
          el("span", { class: "figure" }, score(hit.score)),
        );
      this.captions.replaceChildren(el("h3", {}, "Captions that fit"), el("ol", {}, ...answer.hits.map(row)));
      this.captions.hidden = !answer.hits.length;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.captions.replaceChildren(el("h3", {}, "Captions that fit"), el("p", { class: "hint" }, error.message));
      this.captions.hidden = false;
    }
  }

  /** Offer the sentences of the query; the first one is lit. */
  #sentences(sentences) {
    this.choice.hidden = sentences.length < 2;
    this.choice.replaceChildren(
      ...sentences.map((part) =>
        el(
          "button",
          { type: "button", class: "tab", "aria-pressed": "false", onclick: () => this.#set(part.text) },
          partText(part),
        ),
      ),
    );
    this.#set(sentences[0]?.text ?? "");
  }

  #set(text) {
    this.field.value = text;
    this.#explain(text);
  }

  #typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#explain(this.field.value), PAUSE);
  }

  async #explain(text) {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.asked = new AbortController();
    const signal = AbortSignal.any([this.asked.signal, this.controller.signal]);
    [...this.choice.children].forEach((tab) =>
      tab.setAttribute("aria-pressed", String(tab.textContent.replace(/^not /, "") === text)),
    );
    if (!text.trim()) {
      this.#dark();
      this.sentence.replaceChildren(
        el("p", { class: "hint" }, "Type words below to see where they are in this picture."),
      );
      return;
    }
    try {
      const explained = await api.explain(this.hit.id, text.trim(), signal);
      if (signal.aborted) return;
      this.#lightUp(explained);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      this.#dark();
      this.sentence.replaceChildren(el("p", { class: "hint" }, error.message));
    }
  }

  #dark() {
    this.light.hidden = true;
    this.outlines.replaceChildren();
  }

  #lightUp(explained) {
    const words = joinWords(explained);
    const all = words.flatMap((word) => word.rows);
    const boxes = explained.boxes;
    showSentence(this.sentence, words, explained.score, (word) => {
      if (boxes === null) return;
      const heat = heatOf(explained.parts, word === null ? all : word.rows);
      this.light.hidden = !this.plain.checked;
      drawLight(this.light, heat, boxes, this.ratio, word === null ? VEIL.all : VEIL.word);
      const marks = word === null ? named(words, boxes) : strongest(heat).map((patch) => ({ patch, text: null }));
      this.outlines.replaceChildren(...marks.map((mark) => outline(boxes[mark.patch], mark.text)));
      this.outlines.hidden = !this.plain.checked;
      untangle(this.outlines);
    });
    if (boxes === null) {
      this.#dark();
      this.sentence.append(
        el(
          "p",
          { class: "hint" },
          "Where the patches of this model lie is not known: the words have their parts, and no light on the picture.",
        ),
      );
    }
  }

  #switch() {
    this.light.hidden = !this.plain.checked;
    this.outlines.hidden = !this.plain.checked;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || (takesText(event.target) && event.target.type !== "checkbox"))
      return;
    const acts = {
      ArrowLeft: () => !this.previous.disabled && this.told.turn(-1),
      ArrowRight: () => !this.next.disabled && this.told.turn(1),
      s: () => this.told.similar(this.hit.id),
      l: () => this.plain.click(),
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/** Move names that cover another one to the bottom of their boxes. */
function untangle(outlines) {
  const taken = [];
  for (const label of outlines.querySelectorAll(".label")) {
    const covers = (box) =>
      taken.some(
        (other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom,
      );
    if (covers(label.getBoundingClientRect())) label.parentElement.classList.add("is-low");
    taken.push(label.getBoundingClientRect());
  }
}

function outline([x0, y0, x1, y1], text) {
  const box = el(
    "span",
    { class: y0 < 0.08 ? "outline is-high" : "outline" },
    text === null ? null : el("span", { class: "label" }, text),
  );
  box.style.left = `${100 * x0}%`;
  box.style.top = `${100 * y0}%`;
  box.style.width = `${100 * (x1 - x0)}%`;
  box.style.height = `${100 * (y1 - y0)}%`;
  return box;
}
