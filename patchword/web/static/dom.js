// Small helpers to build elements. Text only ever becomes text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties, attributes (names with a dash, `role`, `for`) and children; no child where one is null. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A drawing of icons.svg; it says nothing to a screen reader. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  drawing.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `static/icons.svg#${name}`);
  drawing.append(use);
  return drawing;
}

/** A button that shows an icon and has a name. */
export function iconButton(name, label, onclick, properties = {}) {
  return el(
    "button",
    { type: "button", class: "plain", "aria-label": label, title: label, onclick, ...properties },
    icon(name),
  );
}

/** A name from outside with everything visible: control characters, and marks that turn the writing round. */
export function visible(name) {
  return String(name).replace(
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (letter) => {
      const code = letter.codePointAt(0);
      if (code < 0x20) return String.fromCodePoint(0x2400 + code);
      return code === 0x7f ? "\u2421" : `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
    },
  );
}

/** The last part of a path. */
export function fileName(path) {
  return visible(String(path).split("/").pop());
}

const whole = new Intl.NumberFormat("en");

/** A count with thousands marked. */
export function count(number) {
  return whole.format(number);
}

/** "1 picture", "2 pictures". */
export function many(number, thing) {
  return `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** A score with three decimals and a proper minus. */
export function score(value) {
  return value.toFixed(3).replace("-", "−");
}

/** A probability in percent; never 100 % unless it is 1. */
export function percent(value) {
  if (value > 0.99 && value < 1) return "> 99 %";
  if (value < 0.01 && value > 0) return "< 1 %";
  return `${Math.round(100 * value)} %`;
}

/** Whether the keyboard writes into this element. */
export function takesText(node) {
  return node instanceof HTMLElement && (node.isContentEditable || node.matches("input, textarea, select"));
}
