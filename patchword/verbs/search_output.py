"""How searches are printed: one answer, the lines of a file with those that were refused, captions, hits of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword.errors import PatchwordError
from patchword.verbs.one_line import note_line, say_line
from patchword.verbs.output import say_json

if TYPE_CHECKING:
    from patchword.model import Model
    from patchword.retrieve.query import Answer, FoundCaption
    from patchword.retrieve.query_file import QueryLine
    from patchword.search import Hit
    from patchword.store.catalog import Item


@dataclass(frozen=True)
class Searched:
    """What the printing of an answer needs to know about the index.

    Attributes:
        images: in it.
        has_many_roots: they come from several folders, in which names may be the same.
        is_filtered: the search has a filter.
    """

    images: int
    has_many_roots: bool
    is_filtered: bool


def say_answer(label: str, answer: Answer, searched: Searched, json: bool) -> None:
    """Print what was found for a query."""
    if json:
        say_json({"query": label, **_plain(answer)})
        return
    if searched.is_filtered and not answer.searched:
        say_line(label)
        say_line(f"  no image passes --where ({searched.images:,} in the index)")
        return
    say_line(f"{label}  ({answer.mode}: {answer.rescored:,} of {answer.searched:,} images, {answer.took_ms:.0f} ms)")
    for hit in answer.hits:
        chance = "" if hit.probability is None else f"  {hit.probability:6.1%}"
        say_line(f"  {hit.rank:>3}  {hit.score:8.4f}{chance}  {hit.id:>7}  {_name(hit.item, searched)}")
    if not answer.hits:
        say_line("  nothing found")


def _name(item: Item, searched: Searched) -> str:
    """The path of an image below its folder; its whole path where there are several folders."""
    return str(item.file) if searched.has_many_roots and item.file is not None else item.path


def note_unknown(model: Model, texts: Sequence[str]) -> None:
    """Say which words of the sentences of an answered query the model does not know."""
    from patchword.search import unknown_words

    for text in dict.fromkeys(texts):
        words = ", ".join(map(repr, unknown_words(model, [text])))
        if words:
            note_line(f"note: the model does not know {words} in {text!r}: read as an unknown word")


def say_lines(
    file: Path, lines: Sequence[tuple[QueryLine, Answer | PatchwordError]], searched: Searched, json: bool
) -> int:
    """Print what was found for the lines of a file, and why some were refused; returns the exit code."""
    if json:
        say_json(
            [
                {"query": line.written, "line": line.number}
                | ({"error": str(answer)} if isinstance(answer, PatchwordError) else _plain(answer))
                for line, answer in lines
            ]
        )
    for line, answer in lines:
        if not json and not isinstance(answer, PatchwordError):
            say_answer(line.label, answer, searched, json)
    return _note_refused(file, lines)


def say_split_lines(file: Path, lines: Sequence[tuple[QueryLine, list[Hit] | PatchwordError]], json: bool) -> int:
    """Print what the lines of a file find in a split, and why some were refused; returns the exit code."""
    if json:
        say_json(
            {
                line.label: {"error": str(found)}
                if isinstance(found, PatchwordError)
                else [asdict(hit) for hit in found]
                for line, found in lines
            }
        )
    else:
        say_hits({line.label: found for line, found in lines if not isinstance(found, PatchwordError)}, json)
    return _note_refused(file, lines)


def _note_refused(file: Path, lines: Sequence[tuple[QueryLine, object]]) -> int:
    """Say which lines were refused and why; returns the exit code."""
    refused = [(line.number, found) for line, found in lines if isinstance(found, PatchwordError)]
    for number, error in refused:
        note_line(f"'{file}' line {number}: {error}")
    if refused:
        note_line(f"{len(refused):,} of {len(lines):,} queries could not be answered")
    return 2 if refused else 0


def _plain(answer: Answer) -> dict[str, Any]:
    """An answer as plain values, with the files of the images."""
    found = answer.to_json()
    for hit, shown in zip(answer.hits, found["hits"], strict=True):
        shown["file"] = None if hit.item.file is None else str(hit.item.file)
    return found


def say_captions(found: Sequence[FoundCaption], json: bool) -> int:
    """Print the captions that were found."""
    if json:
        say_json([one.to_json() for one in found])
        return 0
    for one in found:
        chance = "" if one.probability is None else f"  {one.probability:6.1%}"
        say_line(f"  {one.rank:>3}  {one.score:8.4f}{chance}  {one.item.text}")
    return 0


def say_hits(found: Mapping[str, Sequence[Hit]], json: bool) -> int:
    """Print what was found in a split: images for sentences, captions for an image."""
    if json:
        say_json({q: [asdict(hit) for hit in hits] for q, hits in found.items()})
        return 0
    for q, hits in found.items():
        say_line(f"{q}")
        for hit in hits:
            image = hit.file or hit.image_id
            what = image if hit.caption is None else f"{hit.caption}  ({image})"
            say_line(f"  {hit.rank:>2}  {hit.score:8.4f}  {what}")
    return 0
