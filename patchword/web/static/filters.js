// The filter form, made from the columns of /info.

import { el, visible } from "./dom.js";
import { kindOf } from "./where.js";

const PAUSE = 250; // ms between the last key in a field and the search

export class Filters {
  /** @param changed called with {filters, where, mode, threshold} when the reader changed something */
  constructor(changed) {
    this.changed = changed;
    this.panel = document.getElementById("filters");
    this.button = document.getElementById("filters-button");
    this.fields = document.getElementById("fields");
    this.where = document.getElementById("where");
    this.mode = document.getElementById("mode");
    this.threshold = document.getElementById("threshold");
    this.error = document.getElementById("where-error");
    this.columns = "";
    this.button.addEventListener("click", () => this.toggle());
    this.panel.addEventListener("keydown", (event) => event.key === "Escape" && this.toggle(false));
    const form = document.getElementById("filters-form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#tell();
    });
    form.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#tell(), PAUSE);
    });
    document.getElementById("filters-clear").addEventListener("click", () => {
      clearTimeout(this.timer);
      this.changed({ filters: [], where: "", mode: "auto", threshold: null });
    });
  }

  /** Open or close the panel; the keyboard goes into it, and back. */
  toggle(isOpen = this.panel.hidden) {
    this.panel.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.panel.querySelector("input, select").focus();
    else this.button.focus();
  }

  /** Make the fields of {name: type}; nothing happens when they are the same as before. */
  setColumns(columns) {
    const told = JSON.stringify(columns);
    if (told === this.columns) return;
    this.columns = told;
    const order = { number: 1, date: 2, text: 0 };
    const known = Object.entries(columns)
      .map(([name, type]) => [name, kindOf(name, type)])
      .filter(([, kind]) => kind !== null);
    known.sort((a, b) => order[a[1]] - order[b[1]]);
    this.fields.replaceChildren(...known.map(([name, kind]) => fieldset(name, kind)));
    document.getElementById("where-names").textContent = Object.keys(columns).map(visible).join(", ");
  }

  /** Show a state; a field that is being written into is left alone. */
  show(state) {
    const values = new Map(state.filters.map((filter) => [`${filter.how}.${filter.column}`, filter.value]));
    for (const field of this.fields.querySelectorAll("[data-how]")) {
      set(field, values.get(`${field.dataset.how}.${field.dataset.column}`) ?? "");
    }
    for (const choice of this.fields.querySelectorAll("select")) {
      const field = choice.parentElement.querySelector("[data-how]");
      const other = field.dataset.how === "is" ? "has" : "is";
      if (!field.value && values.has(`${other}.${field.dataset.column}`)) {
        choice.value = field.dataset.how = other;
        set(field, values.get(`${other}.${field.dataset.column}`));
      }
    }
    set(this.where, state.where);
    set(this.threshold, state.threshold === null ? "" : String(state.threshold));
    this.mode.value = state.mode;
    const active = state.filters.length + (state.where.trim() ? 1 : 0) + (state.threshold === null ? 0 : 1);
    const badge = document.getElementById("filters-count");
    badge.textContent = String(active);
    badge.hidden = active === 0;
    this.button.setAttribute("aria-label", active ? `Filters, ${active} in use` : "Filters");
  }

  /** What the service says against the expression; null when nothing. */
  showError(message) {
    this.error.textContent = message ?? "";
    this.where.setAttribute("aria-invalid", String(message !== null));
  }

  #tell() {
    clearTimeout(this.timer);
    const filters = [...this.fields.querySelectorAll("[data-how]")]
      .filter((field) => field.value.trim() && field.validity.valid)
      .map((field) => ({ column: field.dataset.column, how: field.dataset.how, value: field.value.trim() }));
    const lowest = this.threshold.value === "" ? null : Number(this.threshold.value);
    this.changed({ filters, where: this.where.value, mode: this.mode.value, threshold: lowest });
  }
}

function set(field, value) {
  if (field !== document.activeElement) field.value = value;
  else if (value === "" && field.value.trim() === "") field.value = "";
}

function fieldset(name, kind) {
  const shown = name === "size" ? "size in bytes" : visible(name);
  const field = (how, type, label) =>
    el("input", {
      type,
      "aria-label": label,
      placeholder: { min: "from", max: "to" }[how] ?? "",
      step: type === "number" ? "any" : null,
      "data-how": how,
      "data-column": name,
    });
  const pair = (type, [first, last], said) => [
    field(first, type, `${shown} ${said[0]}`),
    el("span", { class: "dash", "aria-hidden": "true" }, "–"),
    field(last, type, `${shown} ${said[1]}`),
  ];
  const inner = {
    number: () => pair("number", ["min", "max"], ["at least", "at most"]),
    date: () => pair("date", ["from", "until"], ["from", "until"]),
    text: () => {
      const input = field("has", "text", shown);
      const choice = el(
        "select",
        { "aria-label": `${shown}: how it is compared`, onchange: () => (input.dataset.how = choice.value) },
        el("option", { value: "has" }, "contains"),
        el("option", { value: "is" }, "is"),
      );
      return [choice, input];
    },
  }[kind]();
  return el("fieldset", { class: `of-${kind}` }, el("legend", {}, shown), ...inner);
}
