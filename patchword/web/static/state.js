// What the page shows, as part of its address: it can be sent to somebody, and the back button works.
// words, parts (chips), filters [{column, how, value}], where (by hand), mode, threshold, open (id of the picture).

const MODES = ["auto", "exact", "fast"];
const HOWS = ["min", "max", "from", "until", "is", "has"];

export function emptyState() {
  return { words: "", parts: [], filters: [], where: "", mode: "auto", threshold: null, open: null };
}

/** The state of an address; what makes no sense is left out. */
export function readState(query) {
  const given = new URLSearchParams(query);
  const state = emptyState();
  state.words = given.get("q") ?? "";
  state.where = given.get("where") ?? "";
  state.mode = MODES.includes(given.get("mode")) ? given.get("mode") : "auto";
  state.threshold = number(given.get("threshold"));
  state.open = wholeNumber(given.get("open"));
  state.parts = given
    .getAll("part")
    .map(readPart)
    .filter((part) => part !== null);
  for (const [name, value] of given) {
    const [how, column] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1)];
    if (HOWS.includes(how) && column && isFit(how, value)) state.filters.push({ column, how, value });
  }
  return state;
}

function isFit(how, value) {
  if (how === "min" || how === "max") return number(value) !== null;
  if (how === "from" || how === "until") return /^\d{4}-\d{2}-\d{2}$/.test(value) && !Number.isNaN(Date.parse(value));
  return value !== "";
}

/** The address of a state, from its question mark on; "./" for the empty one. */
export function writeState(state) {
  const told = new URLSearchParams();
  if (state.words.trim()) told.set("q", state.words.trim());
  for (const part of state.parts) told.append("part", writePart(part));
  for (const { column, how, value } of state.filters) told.append(`${how}.${column}`, value);
  if (state.where.trim()) told.set("where", state.where.trim());
  if (state.mode !== "auto") told.set("mode", state.mode);
  if (state.threshold !== null) told.set("threshold", String(state.threshold));
  if (state.open !== null) told.set("open", String(state.open));
  const query = told.toString();
  return query ? `?${query}` : "./";
}

/** `weight:kind:rest`, such as `-0.5:text:a ball`. */
function writePart(part) {
  const rest = { text: part.text, item: part.id, file: `${part.key}:${part.name}` }[part.kind];
  return `${part.weight}:${part.kind}:${rest}`;
}

function readPart(told) {
  const found = /^(-?\d+(?:\.\d+)?):(text|item|file):(.+)$/s.exec(told);
  if (found === null) return null;
  const [weight, kind, rest] = [Number(found[1]), found[2], found[3]];
  if (weight === 0) return null;
  if (kind === "text") return { kind, text: rest, weight };
  if (kind === "item") return wholeNumber(rest) === null ? null : { kind, id: Number(rest), weight };
  const at = rest.indexOf(":");
  return at < 0 ? null : { kind, key: rest.slice(0, at), name: rest.slice(at + 1), weight };
}

function number(text) {
  return text === null || text.trim() === "" || !Number.isFinite(Number(text)) ? null : Number(text);
}

function wholeNumber(text) {
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
}
