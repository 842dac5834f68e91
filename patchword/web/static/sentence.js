// A sentence whose words are buttons: point at one, move to it with the arrow keys or press it, and its patches are lit.

import { el, score } from "./dom.js";

/**
 * Show the words of an explanation.
 *
 * @param place element to fill
 * @param words from joinWords
 * @param total the score
 * @param light called with the word to light, or null for all of them
 */
export function showSentence(place, words, total, light) {
  const most = Math.max(...words.map((word) => Math.abs(word.part)), 1e-9);
  let pinned = null;
  const said = el("p", { class: "said" });
  const list = el("div", { class: "words", role: "toolbar", "aria-label": "Words of the sentence" });

  const say = (word) => {
    said.textContent =
      word === null ? `Together ${score(total)}. Point at a word to see its patches.` : inNumbers(word, total);
  };
  const show = (word) => {
    light(word);
    say(word);
    for (const button of list.querySelectorAll("button"))
      button.classList.toggle("is-lit", word !== null && button === buttons.get(word));
  };
  const pin = (word) => {
    pinned = pinned === word ? null : word;
    for (const [other, button] of buttons) button.setAttribute("aria-pressed", String(other === pinned));
    show(pinned);
  };

  const buttons = new Map();
  for (const word of words) {
    if (!word.isWord) {
      list.append(el("span", { class: "sign" }, word.text));
      continue;
    }
    const button = el(
      "button",
      {
        type: "button",
        class: word.part < 0 ? "word is-cold" : "word",
        "aria-pressed": "false",
        "aria-label": inNumbers(word, total),
        tabIndex: buttons.size ? -1 : 0,
        onpointerenter: (event) => event.pointerType === "mouse" && show(word),
        onpointerleave: (event) => event.pointerType === "mouse" && show(pinned),
        onfocus: (event) => {
          for (const other of buttons.values()) other.tabIndex = other === event.target ? 0 : -1;
          if (event.target.matches(":focus-visible")) show(word);
        },
        onblur: () => show(pinned),
        onclick: () => pin(word),
      },
      word.text,
    );
    button.style.setProperty("--share", (Math.abs(word.part) / most).toFixed(3));
    buttons.set(word, button);
    list.append(button);
  }
  list.addEventListener("keydown", (event) => move(event, [...buttons.values()]));
  place.replaceChildren(list, said);
  show(null);
}

function move(event, buttons) {
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  event.stopPropagation(); // outside of the words, arrows turn to another picture
  buttons[Math.max(0, Math.min(buttons.length - 1, to))].focus();
}

function inNumbers(word, total) {
  const amount = score(Math.abs(word.part));
  const share = total > 0 ? `, ${Math.round((100 * Math.abs(word.part)) / total)} % of the score` : "";
  return word.part < 0 ? `“${word.text}” takes ${amount}` : `“${word.text}” adds ${amount}${share}`;
}
