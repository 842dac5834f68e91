// Asks the service: waits a moment while somebody types, drops answers that came too late, remembers the last ones.

import * as api from "./api.js";
import { find } from "./pictures.js";

const SHORTEST_WAIT = 30; // ms between the last key and the request
const LONGEST_WAIT = 80; // where the last query took long
const REMEMBERED = 24; // answers
const FRESH_MS = 60_000; // the folder may have changed after that

export class Search {
  /** @param told called with {state: "busy" | "answer" | "error", ...}; never for a question that has been replaced */
  constructor(told) {
    this.told = told;
    this.answers = new Map();
    this.controller = null;
    this.timer = null;
    this.took = 0;
  }

  /** Ask for the best `k` of a question {parts, where, mode, threshold}; at once, or when typing pauses. */
  ask(question, k, { isTyping = false } = {}) {
    this.stop();
    const key = JSON.stringify([question, k]);
    const known = this.answers.get(key);
    if (known && performance.now() - known.at < FRESH_MS) {
      this.told({ state: "answer", answer: known.answer, question, k });
      return;
    }
    const wait = isTyping ? Math.min(LONGEST_WAIT, Math.max(SHORTEST_WAIT, this.took)) : 0;
    const asked = performance.now();
    this.controller = new AbortController();
    const signal = this.controller.signal;
    if (wait) this.timer = setTimeout(() => this.#run(question, k, key, signal, asked), wait);
    else this.#run(question, k, key, signal, asked);
  }

  /** Forget the question that is on its way. */
  stop() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.controller = null;
  }

  /** Forget all answers: the index has changed. */
  forget() {
    this.answers.clear();
  }

  async #run(question, k, key, signal, asked) {
    this.told({ state: "busy" });
    const sent = performance.now();
    try {
      const answer = await ask(question, k, signal);
      if (signal.aborted) return;
      const came = performance.now();
      this.took = came - sent;
      this.answers.set(key, { answer, at: came });
      if (this.answers.size > REMEMBERED) this.answers.delete(this.answers.keys().next().value);
      this.told({ state: "answer", answer, question, k });
      measure(asked, sent, came);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      this.told({ state: "error", error, question, k });
    }
  }
}

/** The times of an interaction as performance entries: waiting before the request, the query, drawing after it. */
function measure(asked, sent, came) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel(); // runs after the frame has been drawn
    channel.port1.onmessage = () => {
      performance.measure("patchword.wait", { start: asked, end: sent });
      performance.measure("patchword.query", { start: sent, end: came });
      performance.measure("patchword.draw", { start: came, end: performance.now() });
    };
    channel.port2.postMessage(null);
  });
}

/** One answer of the service to a question. */
export async function ask(question, k, signal) {
  const { parts, where, mode, threshold } = question;
  const isAlike = parts.length === 1 && parts[0].kind === "item" && parts[0].weight > 0;
  if (isAlike && where === null && mode === "auto" && threshold === null) return api.similar(parts[0].id, k, signal);
  return api.search({ parts: await Promise.all(parts.map(sent)), k, mode, where, threshold }, signal);
}

/** A part as the service takes it. */
async function sent(part) {
  if (part.kind === "text") return { text: part.text, weight: part.weight };
  if (part.kind === "item") return { image_id: part.id, weight: part.weight };
  const picture = await find(part.key);
  if (picture === null) {
    throw new api.ApiError(
      `The picture “${part.name}” is not here: an address does not hold pictures that were dropped in. Drop it again.`,
      400,
    );
  }
  return { image: picture.base64, weight: part.weight };
}
