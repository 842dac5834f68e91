"""Heat: what a word adds to the score, laid on the picture through the boxes of its patches; and the drawing as PNG.

A point of the picture is as warm as the parts of all patches that cover it, added up. Orange adds to the score, blue
takes away from it. All pictures of one drawing share one scale, but the first, of the whole caption, has its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from patchword.explain.lit_words import LitWord, lit_words, telling_patches
from patchword.types import Alignment

WARM, COLD = (226, 88, 16), (32, 96, 200)
INK, SOFT, PAPER, GROUND = (28, 32, 36), (89, 98, 108), (255, 255, 255), (228, 226, 220)
NUMBERED = ((31, 95, 191), (200, 82, 26), (15, 122, 85), (132, 56, 159), (138, 97, 0))
STRONGEST = 0.7  # opacity of the warmest point
PANEL, WIDE, MARGIN, COLUMNS = 220, 460, 20, 4  # pixels of a word's picture, of the first one, around them; per row
MOST_WORDS = 16  # pictures of single words


def heat_map(
    parts: Float[np.ndarray, " R"], boxes: Float[np.ndarray, "R 4"], width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """Sum of the parts of all patches that cover a point.

    Args:
        parts: what each patch adds.
        boxes: x1, y1, x2, y2 in 0..1; what lies outside is cut off, and every box covers a point at least.
        width, height: of the map in points.

    Example:
        >>> halves = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
        >>> heat_map(np.array([1.0, -2.0]), halves, 4, 1).tolist()
        [[1.0, 1.0, -2.0, -2.0]]
    """
    heat = np.zeros((height, width), dtype=np.float64)
    scaled = np.nan_to_num(boxes) * np.array([width, height, width, height])
    for part, (x1, y1, x2, y2) in zip(parts.tolist(), scaled.tolist(), strict=True):
        left, top = min(max(0, round(x1)), width - 1), min(max(0, round(y1)), height - 1)
        right, bottom = max(left + 1, min(round(x2), width)), max(top + 1, min(round(y2), height))
        heat[top:bottom, left:right] += part
    return heat


def warmed(
    picture: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "height width"], scale: float
) -> NDArray[np.uint8]:
    """A picture with its heat: orange where it is above 0, blue where below, the denser the farther."""
    share = np.clip(np.abs(heat) / (scale or 1.0), 0.0, 1.0)[..., None] * STRONGEST
    colour = np.where(heat[..., None] > 0, np.array(WARM), np.array(COLD))
    grey = picture.mean(axis=2, keepdims=True) * 0.5 + picture * 0.5  # half of its own colour, so that heat stands out
    mixed = grey * (1 - share) + colour * share
    pixels: NDArray[np.uint8] = np.round(mixed).clip(0, 255).astype(np.uint8)
    return pixels


def draw_png(alignment: Alignment, picture: Image.Image | None, caption: str, note: str) -> Image.Image:
    """The whole drawing: the caption, its picture with the boxes of its strongest words, and a picture for each word.

    Without boxes there is a matrix of words and patches instead of the words' pictures.

    Args:
        alignment: with words; boxes where they are known.
        picture: None draws on an empty ground.
        caption: its text.
        note: what stands below it.
    """
    words = lit_words(alignment)
    parts = alignment.parts.double().numpy()
    head = _heading(caption, note)
    body = [_first_picture(alignment, words, picture)] if alignment.boxes is not None or picture is not None else []
    if alignment.boxes is None:
        body.append(_matrix(words, parts))
    else:
        boxes = alignment.boxes.double().numpy()
        shown = [k for k, word in enumerate(words) if not word.is_mark and any(c.isalnum() for c in word.text)]
        shown = sorted(sorted(shown, key=lambda k: -abs(words[k].part))[:MOST_WORDS])
        base = _ground(picture, PANEL)
        maps = {k: heat_map(parts[k], boxes, base.width, base.height) for k in shown}
        scale = max((float(np.abs(m).max()) for m in maps.values()), default=0.0)
        tiles = [
            _labelled(_outlined(warmed(np.asarray(base), maps[k], scale), boxes[words[k].patch]), words[k])
            for k in shown
        ]
        body += _rows(tiles)
    return _stacked([head, *body])


def _ground(picture: Image.Image | None, side: int) -> Image.Image:
    """The picture with its longer side at ``side`` pixels, or an empty square."""
    if picture is None:
        return Image.new("RGB", (side, side), GROUND)
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _first_picture(alignment: Alignment, words: Sequence[LitWord], picture: Image.Image | None) -> Image.Image:
    """The picture with the heat of the whole caption and the numbered boxes of its strongest words."""
    base = _ground(picture, WIDE)
    if alignment.boxes is None:
        return base
    boxes = alignment.boxes.double().numpy()
    heat = heat_map(alignment.parts.double().sum(0).numpy(), boxes, base.width, base.height)
    drawing = Image.fromarray(warmed(np.asarray(base), heat, float(np.abs(heat).max())))
    pen, font = ImageDraw.Draw(drawing), ImageFont.load_default(15)
    patches = telling_patches(list(words), len(NUMBERED))
    legend = []
    for k, patch in enumerate(patches):
        colour, (x1, y1, x2, y2) = NUMBERED[k], _pixels(boxes[patch], drawing)
        pen.rectangle((x1, y1, x2, y2), outline=PAPER, width=5)
        pen.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline=colour, width=3)
        pen.ellipse((x1 + 3, y1 + 3, x1 + 25, y1 + 25), fill=colour, outline=PAPER, width=2)
        pen.text((x1 + 14, y1 + 14), str(k + 1), fill=PAPER, font=font, anchor="mm")
        chose = [word.text for word in words if word.is_telling and word.patch == patch]
        legend.append((f"{k + 1}  {', '.join(chose)}", colour))
    beside = Image.new("RGB", (drawing.width + 300, drawing.height), PAPER)
    beside.paste(drawing, (0, 0))
    pen = ImageDraw.Draw(beside)
    pen.text((drawing.width + MARGIN, 0), "all words together; boxes of the strongest", fill=SOFT, font=_font(13))
    for k, (line, colour) in enumerate(legend):
        short = textwrap.shorten(line, 34, placeholder=" ...")
        pen.text((drawing.width + MARGIN, 28 + 26 * k), short, fill=colour, font=_font(17))
    return beside


def _pixels(box: Float[np.ndarray, " 4"], drawing: Image.Image) -> tuple[int, int, int, int]:
    """A box in pixels, inside of the drawing and at least three wide and high."""
    w, h = drawing.size
    x1, y1, x2, y2 = (np.nan_to_num(box) * np.array([w, h, w, h])).tolist()
    left, top = min(max(0, round(x1)), max(0, w - 4)), min(max(0, round(y1)), max(0, h - 4))
    return left, top, max(left + 3, min(round(x2), w - 1)), max(top + 3, min(round(y2), h - 1))


def _outlined(pixels: NDArray[np.uint8], box: Float[np.ndarray, " 4"]) -> Image.Image:
    """A word's picture with the box that gave it most."""
    drawing = Image.fromarray(pixels)
    pen = ImageDraw.Draw(drawing)
    x1, y1, x2, y2 = _pixels(box, drawing)
    pen.rectangle((x1, y1, x2, y2), outline=PAPER, width=3)
    pen.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline=INK, width=1)
    return drawing


def _labelled(drawing: Image.Image, word: LitWord) -> Image.Image:
    """A word's picture with the word and its part below."""
    tile = Image.new("RGB", (PANEL, drawing.height + 30), PAPER)
    tile.paste(drawing, (0, 0))
    pen = ImageDraw.Draw(tile)
    pen.text((0, drawing.height + 6), textwrap.shorten(word.text, 20, placeholder="..."), fill=INK, font=_font(16))
    pen.text((PANEL, drawing.height + 8), f"{word.part:+.4f}", fill=SOFT, font=_font(13), anchor="ra")
    return tile


def _rows(tiles: Sequence[Image.Image]) -> list[Image.Image]:
    """Tiles side by side, a few in a row."""
    rows = []
    for start in range(0, len(tiles), COLUMNS):
        part = tiles[start : start + COLUMNS]
        width = sum(t.width for t in part) + MARGIN * (len(part) - 1)
        row = Image.new("RGB", (width, max(t.height for t in part)), PAPER)
        for k, tile in enumerate(part):
            row.paste(tile, (k * (PANEL + MARGIN), 0))
        rows.append(row)
    return rows


def _matrix(words: Sequence[LitWord], parts: Float[np.ndarray, "L R"]) -> Image.Image:
    """Words x patches, where no boxes are known."""
    row, left = 22, 150
    column = max(4, min(22, 740 // max(1, parts.shape[1])))
    drawing = Image.new("RGB", (left + column * parts.shape[1] + 90, row * len(words) + 26), PAPER)
    pen, scale = ImageDraw.Draw(drawing), float(np.abs(parts).max()) or 1.0
    pen.text((left, 2), f"{parts.shape[1]} patches, in the order of the file", fill=SOFT, font=_font(13))
    for k, word in enumerate(words):
        y = 24 + k * row
        pen.text((0, y + 2), textwrap.shorten(word.text, 18, placeholder="..."), fill=INK, font=_font(15))
        for r, part in enumerate(parts[k].tolist()):
            share, colour = abs(part) / scale, WARM if part > 0 else COLD
            fill = tuple(round(245 * (1 - share) + c * share) for c in colour)
            pen.rectangle((left + r * column, y, left + (r + 1) * column - 2, y + row - 3), fill=fill)
        pen.text((drawing.width, y + 3), f"{word.part:+.4f}", fill=SOFT, font=_font(13), anchor="ra")
    return drawing


def _heading(caption: str, note: str) -> Image.Image:
    """The caption and the note below it, in lines that fit the sheet."""
    width = COLUMNS * PANEL + (COLUMNS - 1) * MARGIN
    lines, notes = wrapped(caption, 22, width, most=6) or [""], wrapped(note, 14, width)
    drawing = Image.new("RGB", (width, 28 * len(lines) + 4 + 20 * len(notes)), PAPER)
    pen = ImageDraw.Draw(drawing)
    for k, line in enumerate(lines):
        pen.text((0, 28 * k), line, fill=INK, font=_font(22))
    for k, line in enumerate(notes):
        pen.text((0, 28 * len(lines) + 4 + 20 * k), line, fill=SOFT, font=_font(14))
    return drawing


def wrapped(text: str, size: int, width: int, *, most: int | None = None) -> list[str]:
    """A text cut into lines that are drawn no wider than ``width`` pixels.

    Args:
        text: any; a word wider than a line is cut.
        size: of the letters.
        width: in pixels.
        most: lines; what is beyond them becomes " ...".
    """
    font = _font(size)
    for letters in range(width * 2 // size, 8, -2):  # more than fit, then fewer until the widest line does
        lines = textwrap.wrap(text, letters, max_lines=most, placeholder=" ...")
        if all(font.getlength(line) <= width for line in lines):
            break
    return lines


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks below each other on one sheet."""
    width = max(block.width for block in blocks) + 2 * MARGIN
    sheet = Image.new("RGB", (width, sum(block.height + MARGIN for block in blocks) + MARGIN), PAPER)
    y = MARGIN
    for block in blocks:
        sheet.paste(block, (MARGIN, y))
        y += block.height + MARGIN
    return sheet
