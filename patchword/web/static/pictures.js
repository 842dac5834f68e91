// Pictures that the reader brings: dropped, pasted or chosen. They are kept for this visit, so that "back" and "reload"
// find them again; an address does not hold them.

import { ApiError } from "./api.js";

const LONGEST = 1024; // pixels that a large picture is reduced to before it is sent
const SMALL_BYTES = 1_500_000; // anything below goes as it is
const KEPT = "patchword.picture.";
const held = new Map(); // key -> Promise of {base64, blob, url}

/** Take a file in. Returns its part of a query. */
export async function take(file) {
  if (file.type && !file.type.startsWith("image/")) {
    throw new ApiError(`This file is no picture (${file.type}). Expected JPEG, PNG, WebP, GIF or BMP.`, 415);
  }
  const blob = await reduced(file);
  const base64 = await toBase64(blob);
  const key = await keyOf(base64);
  held.set(key, Promise.resolve({ base64, blob, url: URL.createObjectURL(blob) }));
  try {
    sessionStorage.setItem(KEPT + key, `${blob.type};${base64}`);
  } catch {
    // no room: it is kept until the page is left
  }
  return { kind: "file", key, name: file.name || "pasted picture", weight: 1 };
}

/** A picture taken in before; null when this visit does not know it. */
export function find(key) {
  if (!held.has(key)) {
    let stored = null;
    try {
      stored = sessionStorage.getItem(KEPT + key);
    } catch {
      // storage is switched off
    }
    if (stored === null) return Promise.resolve(null);
    held.set(key, Promise.resolve(restore(stored)));
  }
  return held.get(key);
}

function restore(stored) {
  const [type, base64] = [stored.slice(0, stored.indexOf(";")), stored.slice(stored.indexOf(";") + 1)];
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type });
  return { base64, blob, url: URL.createObjectURL(blob) };
}

/** The file itself, or a smaller JPEG of a large one; what the browser can not read goes as it is. */
async function reduced(file) {
  if (file.size <= SMALL_BYTES) return file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file;
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is transparent becomes white, not black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return blob ?? file;
}

function toBase64(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(new ApiError("The picture can not be read from this computer."));
    reader.readAsDataURL(blob);
  });
}

/** A short name of the bytes. `crypto.subtle` is missing on plain HTTP from another machine, so this is a plain hash. */
async function keyOf(base64) {
  let [a, b] = [0x811c9dc5, 0x01000193];
  for (let k = 0; k < base64.length; k++) {
    a = Math.imul(a ^ base64.charCodeAt(k), 0x01000193);
    b = Math.imul(b ^ base64.charCodeAt(k), 0x85ebca6b) ^ (b >>> 13);
  }
  return (a >>> 0).toString(36) + (b >>> 0).toString(36) + base64.length.toString(36);
}
