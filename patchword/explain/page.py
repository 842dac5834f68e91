"""An explanation as one HTML file that asks nothing of the network: words, their heat on the picture, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from patchword.explain.lit_words import LitWord, lit_words
from patchword.explain.word_cards import lit_pair
from patchword.html.page import page, section, table, tag, text
from patchword.html.thumbnails import Thumbnail, embedded
from patchword.types import Alignment

SIDE = 480  # pixels of the picture's longer side
STRONGEST = 0.75  # opacity of the strongest part
FAINTEST = 0.02  # parts below this share of the strongest are not drawn
STYLE = """
<style>
.heats { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: 1.25rem 0; }
.heats figure { margin: 0; }
.heats svg { border-radius: 9px; background: var(--wash); }
.heats figcaption { display: flex; justify-content: space-between; font-size: .95rem; margin-top: .35rem; }
.heats figcaption small { color: var(--soft); font-variant-numeric: tabular-nums; }
rect.warm { fill: #e25810; } rect.cold { fill: #2060c8; }
</style>
"""


def explanation_page(alignment: Alignment, picture: Image.Image | None, caption: str, facts: Sequence[str]) -> str:
    """The whole page.

    Args:
        alignment: with words; boxes where they are known.
        picture: None draws on an empty ground.
        caption: its text.
        facts: lines about the model and the image.
    """
    words = lit_words(alignment)
    small = None if picture is None else embedded(picture, SIDE, quality=88)
    top = text("p", "explanation of one score", class_="over") + text("h1", caption)
    about = "".join(text("p", line, class_="soft") for line in facts)
    body = [STYLE, top, about, lit_pair(alignment, small, "")]
    if alignment.boxes is not None:
        body.append(_heats(alignment, words, small))
    body.append(_table(alignment, words))
    return page(f"patchword explain: {caption}", "".join(body))


def _heats(alignment: Alignment, words: Sequence[LitWord], small: Thumbnail | None) -> str:
    """The picture once for every word, with its parts on the patches; one scale for all."""
    assert alignment.boxes is not None
    width, height = (SIDE, SIDE) if small is None else (small.width, small.height)
    strongest = float(alignment.parts.abs().max()) or 1.0
    shared = "" if small is None else f'<image id="picture" href="{small.uri}" width="{width}" height="{height}"/>'
    hidden = f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{shared}</defs></svg>'
    figures = []
    for word, row in zip(words, alignment.parts.tolist(), strict=True):
        if not any(letter.isalnum() for letter in word.text):
            continue
        drawn = ['<use href="#picture"/>'] if small is not None else []
        for part, (x1, y1, x2, y2) in zip(row, alignment.boxes.tolist(), strict=True):
            share = abs(part) / strongest
            if share < FAINTEST:
                continue
            shape = f'x="{x1 * width:.1f}" y="{y1 * height:.1f}" width="{max(0.0, x2 - x1) * width:.1f}" '
            shape += f'height="{max(0.0, y2 - y1) * height:.1f}" opacity="{share * STRONGEST:.2f}"'
            drawn.append(f'<rect class="{"warm" if part > 0 else "cold"}" {shape}><title>{part:+.5f}</title></rect>')
        label = escape(f"heat of the word {word.text}", quote=True)
        svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
        figures.append(tag("figure", svg + tag("figcaption", escape(word.text) + text("small", f"{word.part:+.4f}"))))
    said = "Where each word looks: orange patches add to the score, blue ones take away, all on one scale."
    return section(
        "heat", "Word by word", hidden, text("p", said, class_="soft"), tag("div", "".join(figures), class_="heats")
    )


def _table(alignment: Alignment, words: Sequence[LitWord]) -> str:
    """Every word in numbers; the last row adds them up."""
    rows = []
    for k, word in enumerate(words):
        at = "not known"
        if alignment.boxes is not None:
            at = ", ".join(f"{100 * edge:.0f}" for edge in alignment.boxes[word.patch].tolist())
        best = float(alignment.parts[k, word.patch])
        rows.append(
            [word.text, f"{word.part:+.5f}", _share(word.part, alignment.score), str(word.patch), f"{best:+.5f}", at]
        )
    total = float(alignment.parts.double().sum())
    rows.append(["all words", f"{total:+.5f}", _share(total, alignment.score), "", "", ""])
    head = [
        "word",
        "adds to the score",
        "share",
        "strongest patch",
        "which adds",
        "its box (left, top, right, bottom in %)",
    ]
    said = f"The score is {alignment.score:.5f}; the parts of all words and patches add up to {total:.5f}."
    return section(
        "numbers", "In numbers", text("p", said, class_="soft"), table(head, rows, strong=len(rows) - 1, is_narrow=True)
    )


def _share(part: float, score: float) -> str:
    return f"{100 * part / score:.1f} %" if score else "-"
