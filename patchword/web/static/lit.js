// The words of a sentence lit on the patches of a picture. The numbers are those of /explain: one part for every word
// and patch, and all parts add up to the score.

const LETTERS = /[\p{L}\p{N}]/u;
const RESOLUTION = 256; // cells of the longer side of the light
export const VEIL = { word: 0.62, all: 0.5 }; // opacity of the dark over what is not lit
const COLD = 0.3; // opacity of the blue over what takes from the score
const LABELLED = 4; // words whose strongest patch is named on the picture
const SAME = 0.6; // patches that cover one another by this share get one name
const SHORTEST = 3; // letters of a word that is named there

/**
 * Words as they are written, from the tokens of the model: pieces of a word are joined, marks left out.
 *
 * @returns [{text, part, rows, patch, isWord}]: rows are token positions, patch the one that gives most
 */
export function joinWords(explained) {
  const words = [];
  explained.words.forEach((token, row) => {
    if (token.is_mark) return;
    const isPiece = token.text.startsWith("##") && words.length > 0;
    const text = token.text.replace(/^##|^\u2581|<\/w>$/gu, "");
    if (isPiece) {
      const last = words[words.length - 1];
      last.text += text;
      last.part += token.part;
      last.rows.push(row);
    } else words.push({ text, part: token.part, rows: [row] });
  });
  for (const word of words) {
    const heat = heatOf(explained.parts, word.rows);
    word.patch = heat.indexOf(Math.max(...heat));
    word.isWord = LETTERS.test(word.text);
  }
  return words;
}

/** Parts of all patches, added up over some words. */
export function heatOf(parts, rows) {
  return parts[0].map((_, patch) => rows.reduce((sum, row) => sum + parts[row][patch], 0));
}

/** Patches to outline for some words: those that give at least half of the strongest, three at most. */
export function strongest(heat) {
  const most = Math.max(...heat);
  if (most <= 0) return [];
  const order = heat.map((part, patch) => [part, patch]).sort((a, b) => b[0] - a[0]);
  return order
    .filter(([part]) => part >= most / 2)
    .slice(0, 3)
    .map(([, patch]) => patch);
}

/** The patches that are named when all words are lit, {patch, text}: words of (nearly) the same patch together. */
export function named(words, boxes) {
  const telling = words.filter((word) => word.part > 0 && word.isWord && [...word.text].length >= SHORTEST);
  const chosen = telling.sort((a, b) => b.part - a.part).slice(0, LABELLED);
  const labels = new Map();
  for (const word of chosen) {
    const same = [...labels.keys()].find((patch) => coverage(boxes[patch], boxes[word.patch]) > SAME) ?? word.patch;
    labels.set(same, [...(labels.get(same) ?? []), word]);
  }
  return [...labels].map(([patch, mine]) => ({
    patch,
    text: mine
      .sort((a, b) => a.rows[0] - b.rows[0])
      .map((word) => word.text)
      .join(" "),
  }));
}

/** Share of the smaller of two boxes that lies in the other one. */
function coverage(a, b) {
  const length = (from, to) => Math.max(0, to - from);
  const area = (box) => length(box[0], box[2]) * length(box[1], box[3]);
  const common =
    length(Math.max(a[0], b[0]), Math.min(a[2], b[2])) * length(Math.max(a[1], b[1]), Math.min(a[3], b[3]));
  return common / (Math.min(area(a), area(b)) || 1);
}

/**
 * Draw the light: dark where nothing adds to the score, clear where much does, blue where something takes from it.
 * A point is as bright as the parts of all patches that cover it, added up.
 *
 * @param boxes [[x0, y0, x1, y1], ...] in 0..1
 * @param veil opacity of the dark, from VEIL
 */
export function drawLight(canvas, heat, boxes, ratio, veil) {
  const width = Math.max(1, Math.round(ratio >= 1 ? RESOLUTION : RESOLUTION * ratio));
  const height = Math.max(1, Math.round(ratio >= 1 ? RESOLUTION / ratio : RESOLUTION));
  canvas.width = width;
  canvas.height = height;
  const cells = new Float32Array(width * height);
  boxes.forEach(([x0, y0, x1, y1], patch) => {
    const part = heat[patch];
    if (!part) return;
    const [left, right] = span(x0, x1, width);
    const [top, bottom] = span(y0, y1, height);
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) cells[y * width + x] += part;
  });
  const context = canvas.getContext("2d");
  context.putImageData(paint(cells, width, height, veil), 0, 0);
}

function span(from, to, length) {
  const first = Math.max(0, Math.min(length - 1, Math.round(from * length)));
  return [first, Math.max(first + 1, Math.min(length, Math.round(to * length)))];
}

function paint(cells, width, height, veil) {
  const image = new ImageData(width, height);
  let [most, least] = [0, 0];
  for (const part of cells) {
    if (part > most) most = part;
    if (part < least) least = part;
  }
  const largest = Math.max(most, -least) || 1;
  cells.forEach((part, k) => {
    const isCold = part < 0;
    const share = isCold ? -part / largest : most ? part / most : 0;
    const opacity = isCold ? veil / 2 + COLD * share : veil * (1 - Math.sqrt(share));
    const [red, green, blue] = isCold ? [38, 92, 200] : [10, 12, 18];
    image.data[4 * k] = red;
    image.data[4 * k + 1] = green;
    image.data[4 * k + 2] = blue;
    image.data[4 * k + 3] = Math.round(255 * opacity);
  });
  return image;
}
