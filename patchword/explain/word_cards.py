"""Lit words on a page: a caption with the part of every word, and the boxes that its strongest words looked at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from patchword.explain.lit_words import LitWord, lit_words, telling_patches
from patchword.html.page import COLOURS, tag, text
from patchword.html.thumbnails import Thumbnail
from patchword.types import Alignment

_SIDE = 320  # of the drawing; pictures are stretched to it
_BADGE = 12.0


def lit_pair(alignment: Alignment, small: Thumbnail | None, note: str) -> str:
    """One pair: the picture with boxes on the left, the words with their parts on the right.

    Args:
        alignment: with words; boxes where there are any.
        small: the picture; None draws the boxes on an empty ground.
        note: a line about the pair.
    """
    words = lit_words(alignment)
    patches = telling_patches(words, COLOURS) if alignment.boxes is not None else []
    picture = _drawing(alignment, patches, small) if small is not None or patches else ""
    said = text("p", note, class_="soft") if note else ""
    right = tag("div", said + _words(_chips(words, patches)) + _sum_line(alignment, words))
    return tag("div", (tag("div", picture) if picture else "") + right, class_="card pair" if picture else "card query")


def _chips(words: Sequence[LitWord], patches: Sequence[int]) -> str:
    """Every word with its part; the darker, the larger. Words of a drawn box have its colour and number."""
    strongest = max((abs(word.part) for word in words), default=0.0) or 1.0
    shown = []
    for word in words:
        number = patches.index(word.patch) + 1 if word.is_telling and word.patch in patches else 0
        colour = f"var(--c{number})" if number else "var(--soft)"
        share = round(6 + (34 if number else 14) * max(0.0, word.part) / strongest)
        mark = text("sup", str(number), style=f"color:{colour}") if number else ""
        shown.append(_chip(word, mark, f"{word.part:.3f}", f"{colour} {share}%"))
    return "".join(shown)


def _words(chips: str) -> str:
    """Words in a row, which begins where their script does. The browser sees that from the first letter it finds."""
    return tag("p", chips, class_="words", dir="auto")


def _chip(word: LitWord, mark: str, number: str, colour: str) -> str:
    """A word with its number below.

    What says its own direction is passed over by a browser that looks for that of the row: marks such as [CLS], whose
    Latin letters are in front of any caption, and numbers, whose sign is on the left in any script.
    """
    known = {"dir": "ltr"} if word.is_mark else {}
    style = f"background:color-mix(in srgb, {colour}, transparent)"
    label = escape(word.text) + mark + text("small", number, dir="ltr")
    return tag("span", label, class_="word", style=style, **known)


def _sum_line(alignment: Alignment, words: Sequence[LitWord]) -> str:
    """The proof: the parts add up to the score."""
    marks = sum(word.part for word in words if word.is_mark)
    inner = sum(word.part for word in words) - marks
    parts = f"words {inner:.4f}" + (f" + start and end marks {marks:.4f}" if any(w.is_mark for w in words) else "")
    total, off = inner + marks, abs(inner + marks - alignment.score)
    sentence = (
        f"{parts} = {total:.4f}; the score is {alignment.score:.4f} (off by {off:.0e}). "
        f"{alignment.parts.numel():,} parts, one for each of {len(words)} words and marks and "
        f"{alignment.parts.shape[1]} patches."
    )
    return text("p", sentence, class_="soft")


def _drawing(alignment: Alignment, patches: Sequence[int], small: Thumbnail | None) -> str:
    """The picture with the boxes of some patches, numbered, as SVG."""
    width, height = (_SIDE, _SIDE) if small is None else (_SIDE, max(1, round(_SIDE * small.height / small.width)))
    parts = []
    if small is not None:
        parts.append(f'<image href="{small.uri}" width="{width}" height="{height}" preserveAspectRatio="none"/>')
    badges: list[tuple[float, float]] = []
    boxes = [] if alignment.boxes is None else [alignment.boxes[patch].tolist() for patch in patches]
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        left, top = max(2.0, x1 * width), max(2.0, y1 * height)
        right, bottom = min(width - 2.0, x2 * width), min(height - 2.0, y2 * height)
        shape = (
            f'x="{left:.1f}" y="{top:.1f}" width="{max(2.0, right - left):.1f}" height="{max(2.0, bottom - top):.1f}"'
        )
        parts.append(f'<rect {shape} rx="5" style="fill:none;stroke:#fff;stroke-width:6;opacity:.75"/>')
        parts.append(f'<rect {shape} rx="5" style="fill:none;stroke:var(--b{k + 1});stroke-width:3"/>')
        badges.append(_free_place(left, top, width, height, badges))
    for k, (x, y) in enumerate(badges):
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_BADGE}" style="fill:var(--b{k + 1});stroke:#fff;stroke-width:2"/>'
            f'<text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle">{k + 1}</text>'
        )
    label = f"{len(boxes)} numbered boxes on the picture" if boxes else "the picture"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _free_place(
    left: float, top: float, width: int, height: int, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Where a badge goes: a box's upper left corner, moved along its edge off the badges that are there."""
    x = min(max(left, _BADGE + 2), width - _BADGE - 2)
    y = min(max(top, _BADGE + 2), height - _BADGE - 2)
    while any(abs(x - a) < 2 * _BADGE and abs(y - b) < 2 * _BADGE for a, b in taken) and x + 2 * _BADGE < width:
        x += 2 * _BADGE + 1
    return min(x, width - _BADGE - 2), y


def why_wrong(right: Alignment, wrong: Alignment) -> str:
    """Word by word, why a wrong picture scored higher: the same caption explained with both pictures."""
    pairs = list(zip(lit_words(right), lit_words(wrong), strict=True))
    largest = max((abs(b.part - a.part) for a, b in pairs), default=0.0) or 1.0
    chips = []
    for a, b in pairs:
        gap = b.part - a.part
        colour = "var(--wrong)" if gap > 0 else "var(--right)"
        share = round(45 * abs(gap) / largest)
        chips.append(_chip(a, "", f"{gap:+.4f}", f"{colour} {share}%"))
    gap = wrong.score - right.score
    said = (
        f"What decided it, word by word: part of the word with the winner minus part with the right picture. "
        f"Together {gap:+.4f}, the difference of the two scores. Orange words spoke for the wrong picture, "
        "green words for the right one."
    )
    return tag("div", text("p", said, class_="soft") + _words("".join(chips)), class_="why")
