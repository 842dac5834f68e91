// The query: parts with weights. A part is {kind: "text", text, weight}, {kind: "item", id, weight} (a picture of the
// index) or {kind: "file", key, name, weight} (a picture that was dropped in; `key` finds it in pictures.js).

export const LESS = -1; // weight of a part that is said with a minus and no number, as on the command line
const HEAVIEST = 10;
const SIGNED = /(^|\s)([-+])(?:"([^"]+)"|([\p{L}\p{N}][^\s":]*))(?::(\d+(?:\.\d+)?))?(?=\s|$)/gu;
const WEIGHTED = /^(.*[^\s\d:])\s*:\s*(-?\d+(?:\.\d+)?)$/su;

/**
 * The parts of what was typed: `a dog:2 -ball +"the sea":0.5`.
 *
 * A word or quoted words after a minus or plus are a part of their own; `:number` at the end of a part is its weight.
 */
export function parseWords(typed) {
  const parts = [];
  const rest = typed.replace(SIGNED, (_, before, sign, quoted, word, weight) => {
    const size = weight === undefined ? (sign === "-" ? -LESS : 1) : Number(weight);
    parts.push(textPart(quoted ?? word, sign === "-" ? -size : size));
    return before;
  });
  const main = rest.replace(/\s+/g, " ").trim();
  if (main) {
    const found = WEIGHTED.exec(main);
    const weight = found === null ? 1 : Number(found[2]);
    parts.unshift(
      found !== null && weight !== 0 && Math.abs(weight) <= HEAVIEST ? textPart(found[1], weight) : textPart(main, 1),
    );
  }
  return parts.filter((part) => part.text && part.weight !== 0);
}

function textPart(text, weight) {
  return { kind: "text", text: text.trim(), weight: Math.max(-HEAVIEST, Math.min(HEAVIEST, weight)) };
}

/** All parts of a state: what is typed, then the chips. */
export function allParts(state) {
  return [...parseWords(state.words), ...state.parts];
}

/** The sentences of a query, the wanted ones first: what can be lit on a picture. */
export function sentences(state) {
  const texts = allParts(state).filter((part) => part.kind === "text");
  return [...texts.filter((part) => part.weight > 0), ...texts.filter((part) => part.weight < 0)];
}

/** A weight as it is shown: "2", "−0.5". */
export function weightText(weight) {
  return String(Number(weight.toFixed(2))).replace("-", "−");
}

/** One part in words, for titles and screen readers. */
export function partText(part) {
  const names = { text: part.text, item: `picture ${part.id}`, file: `your picture ${part.name ?? ""}`.trim() };
  return part.weight < 0 ? `not ${names[part.kind]}` : names[part.kind];
}

/** The query in words. */
export function queryText(parts) {
  return parts.map(partText).join(", ");
}

/** The next weight up or down: steps of a half, never zero. */
export function step(weight, direction) {
  const next = Math.round((weight + direction / 2) * 2) / 2;
  const kept = next === 0 ? direction / 2 : next;
  return Math.max(-3, Math.min(3, kept));
}
