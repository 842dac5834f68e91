// Calls of the service. What went wrong is said in words.

/** An answer that is no result: `status` is 0 when no answer came at all. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const SAID = {
  401: "This page needs the service's token. Open the address that `patchword serve` printed.",
  413: "The picture is too large for this service.",
  429: "The service is busy.",
  503: "The service is busy or is stopping.",
  504: "The search took too long and was stopped.",
};

/** GET, or POST when there is a body: an object goes as JSON, a Blob as its bytes. */
export async function call(path, { body = null, signal = null } = {}) {
  const options = { signal, headers: { Accept: "application/json" }, credentials: "same-origin" };
  if (body instanceof Blob) {
    options.method = "POST";
    options.body = body;
    options.headers["Content-Type"] = body.type || "application/octet-stream";
  } else if (body !== null) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service does not answer. Is `patchword serve` still running?");
  }
  const answer = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && answer !== null) return answer;
  const reason = answer !== null && typeof answer.error === "string" ? answer.error : null;
  throw new ApiError(worded(response.status, reason), response.status);
}

function worded(status, reason) {
  if (status === 401) return SAID[401];
  return reason ?? SAID[status] ?? `The service answered with error ${status}.`;
}

export const getInfo = () => call("info");
export const search = (request, signal) => call("search", { body: request, signal });
export const similar = (id, k, signal) => call(`similar/${id}?k=${k}`, { signal });
export const explain = (id, words, signal) => call(`explain?id=${id}&q=${encodeURIComponent(words)}`, { signal });
export const captions = (id, k, signal) => call(`captions/${id}?k=${k}`, { signal });
export const captionsOf = (picture, k, signal) => call(`captions?k=${k}`, { body: picture, signal });
export const getItem = (id, signal) => call(`items/${id}`, { signal });
export const isHealthy = () =>
  call("health").then(
    () => true,
    () => false,
  );

/** Address of a small picture. */
export const thumb = (id, size = 256) => `thumb/${id}?size=${size}`;
/** Address of the whole picture. */
export const picture = (id) => `images/${id}`;
