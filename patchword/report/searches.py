"""Sections of a report that show single searches: hits, near misses, failures, and captions with lit words."""

from __future__ import annotations

from html import escape
from math import isinf

from patchword.data.table import Split
from patchword.explain.word_cards import lit_pair, why_wrong
from patchword.html.page import tag, text
from patchword.html.thumbnails import Thumbnails, picture_tile
from patchword.report.examples import Examples, Found
from patchword.report.picture_examples import FoundSentences, PictureExamples
from patchword.report.rows import ReportRun

TWINS_FROM = 0.9  # correlation of two pictures' scores from which the page calls them twins


def searches_section(main: ReportRun, split: Split, chosen: Examples, pictures: Thumbnails) -> str:
    """Best, nearly right and worst searches."""
    lines = [
        f"{main.name} answers sentences with pictures: the right one on the left, the first five of "
        f"{split.n_images:,} beside it. Chosen by rank and score alone, at most one caption of an image in a group."
    ]
    if split.files is None:
        lines.append("This data set has no pictures on disk, so image ids are shown in their place.")
    body = [text("p", line) for line in lines]
    body.append(text("h3", "The clearest hits"))
    body += [_search(split, one, pictures, _ahead(one.lead, "picture")) for one in chosen.best]
    body.append(text("h3", "Near misses: a twin wins"))
    for twin in chosen.twins:
        winner = twin.found.top[0]
        note = (
            f"The right picture came second, {-twin.found.lead:.4f} behind. Over all {split.n_captions:,} captions the "
            f"scores of the two pictures correlate {twin.likeness:.2f}"
            + (": near twins to the model." if twin.likeness >= TWINS_FROM else ".")
        )
        right, wrong = (main.light(split, image, twin.found.caption) for image in (twin.found.right, winner))
        why = "" if right is None or wrong is None else why_wrong(right, wrong)
        body.append(_search(split, twin.found, pictures, note, why))
    body.append(text("h3", "The worst misses"))
    body += [
        _search(split, one, pictures, f"The right picture came in place {one.rank:,} of {split.n_images:,}.")
        for one in chosen.worst
    ]
    for group, name in ((chosen.best, "hit"), (chosen.twins, "near miss"), (chosen.worst, "miss")):
        if not group:
            body.append(text("p", f"There is no {name} in this split.", class_="note"))
    return "".join(body)


def _ahead(lead: float, what: str) -> str:
    """How clear a hit is."""
    if isinf(lead):
        return f"There is no other {what} with a score."
    return f"Ahead of the best wrong {what} by {lead:.3f}."


def _search(split: Split, found: Found, pictures: Thumbnails, note: str, more: str = "") -> str:
    """One search as a card."""
    own = picture_tile(
        pictures.get(found.right),
        split.image_ids[found.right],
        f"✓ right picture\nplace {found.rank:,} · {found.right_score:.3f}",
        kind="right",
    )
    hits = "".join(
        picture_tile(
            pictures.get(image),
            split.image_ids[image],
            f"{place} · {score:.3f}" + (" ✓" if image == found.right else ""),
            kind="right" if image == found.right else "",
        )
        for place, (image, score) in enumerate(zip(found.top, found.scores, strict=True), start=1)
    )
    quote = tag("blockquote", f"“{escape(split.captions[found.caption])}”", dir="auto")
    grid = tag("div", own + tag("div", hits, class_="hits"), class_="found")
    return tag("article", quote + text("p", note, class_="soft") + grid + more, class_="card query")


def pictures_section(main: ReportRun, split: Split, chosen: PictureExamples, pictures: Thumbnails) -> str:
    """Best, nearly right and worst searches of pictures for sentences."""
    count = f"{split.n_captions:,}"
    said = (
        f"{main.name} answers pictures with sentences: the picture on the left, the first five of {count} sentences "
        "beside it, ✓ before its own. Chosen by rank and score alone."
    )
    hits = [(one, _ahead(one.lead, "sentence")) for one in chosen.best]
    near = [(one, f"Its own best sentence came second, {-one.lead:.4f} behind.") for one in chosen.near]
    worst = [(one, f"Its own best sentence came in place {one.rank:,} of {count}.") for one in chosen.worst]
    groups = (
        ("The clearest hits", "hit", hits),
        ("Near misses", "near miss", near),
        ("The worst misses", "miss", worst),
    )
    body = [text("p", said)]
    for title, name, group in groups:
        body.append(text("h3", title))
        body += [_asking(split, one, pictures, note) for one, note in group]
        if not group:
            body.append(text("p", f"There is no {name} in this split.", class_="note"))
    return "".join(body)


def _asking(split: Split, found: FoundSentences, pictures: Thumbnails, note: str) -> str:
    """One picture with the sentences that it found, as a card; its own best one below where they lack it."""
    own = picture_tile(pictures.get(found.image), split.image_ids[found.image], split.image_ids[found.image])

    def line(caption: int, score: float) -> str:
        mark = "✓ " if split.owner[caption] == found.image else ""
        return f"{mark}{text('bdi', split.captions[caption])} · {score:.3f}"

    told = "".join(tag("li", line(j, score)) for j, score in zip(found.top, found.scores, strict=True))
    below = ""
    if found.best not in found.top:
        below = tag("p", f"Place {found.rank:,}: {line(found.best, found.best_score)}", class_="note")
    grid = tag("div", own + tag("div", tag("ol", told) + below), class_="found")
    return tag("article", text("p", note, class_="note") + grid, class_="card query")


def words_section(main: ReportRun, split: Split, chosen: Examples, pictures: Thumbnails) -> str:
    """Captions whose words are coloured by their part of the score, with the boxes they chose."""
    if main.model is None:
        said = f"No words are lit for {main.name}: a score matrix alone does not say why."
        return text("p", said, class_="note")
    lit = [(one, main.light(split, one.right, one.caption)) for one in chosen.lit]
    shown = [(one, alignment) for one, alignment in lit if alignment is not None]
    lines = [
        f"The score of {main.name} is a sum of parts, one for every word and region. Under each word is what it adds; "
        "the darker, the more. Words with a number lie in the colour of the box that gave them most."
    ]
    if any(alignment.boxes is None for _, alignment in shown):
        lines.append("Boxes of the regions are not known here, so words are lit without them.")
    if split.files is None:
        lines.append("There are no pictures on disk; boxes are drawn on an empty ground.")
    cards = [
        lit_pair(alignment, pictures.get(one.right), f"{split.image_ids[one.right]}, found in place {one.rank:,}")
        for one, alignment in shown
    ]
    return "".join(text("p", line) for line in lines) + "".join(cards)
