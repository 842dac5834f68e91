"""The verb that answers a query: over an index, or over a split of a data folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from patchword.errors import ConfigError, PatchwordError
from patchword.verbs.one_line import note_line
from patchword.verbs.options import (
    Device,
    OptionalCount,
    OptionalNumber,
    OptionalPath,
    OptionalText,
    Strings,
    device_of,
)
from patchword.verbs.search_output import (
    Searched,
    note_unknown,
    say_answer,
    say_captions,
    say_hits,
    say_lines,
    say_split_lines,
)

if TYPE_CHECKING:
    from patchword.retrieve.engine import Index
    from patchword.retrieve.query import Picture, Query
    from patchword.retrieve.query_file import QueryLine
    from patchword.retrieve.wanted import How

_MINUS = re.compile(r"-[^\W\d_][^=]+")  # a part to avoid; -k and -h are options
FEW = 5  # results for each query, unless said otherwise


@dataclass(frozen=True)
class Asked:
    """What is searched for, as the command line says it.

    Attributes:
        words: written parts; in a split, sentences.
        image: pictures or ids to be like.
        without: written parts to avoid.
        unlike: pictures or ids to avoid.
    """

    words: tuple[str, ...]
    image: tuple[str, ...]
    without: tuple[str, ...]
    unlike: tuple[str, ...]

    @property
    def is_something(self) -> bool:
        """Whether there is any of it."""
        return bool(self.words or self.image or self.without or self.unlike)

    @property
    def is_composed(self) -> bool:
        """Whether it only makes sense as parts of one query."""
        return bool(self.without or self.unlike) or len(self.image) > 1

    @property
    def label(self) -> str:
        """All of it in one line: ``a dog + snow:0.5 + cat.jpg - people``."""
        avoided = "".join(f" - {one}" for one in (*self.without, *self.unlike))
        return (" + ".join((*self.words, *self.image)) + avoided).lstrip()

    def query(self, index: Index) -> Query:
        """All of it as one query."""
        from patchword.retrieve.query import parse_image, parse_query

        pictures, others = ([parse_image(one, index.find) for one in some] for some in (self.image, self.unlike))
        return parse_query(self.words, pictures, without=(*self.without, *others))


def search(
    place: Annotated[Positional[Path], arg(metavar="INDEX|RUN")],
    query: Strings = (),
    *,
    image: UseAppendAction[tuple[str, ...]] = (),
    without: UseAppendAction[tuple[str, ...]] = (),
    unlike: UseAppendAction[tuple[str, ...]] = (),
    captions: bool = False,
    file: OptionalPath = None,
    k: Annotated[int | None, arg(aliases=["-k"], metavar="INT", help_behavior_hint="(default: 5)")] = None,
    where: Annotated[str | None, arg(metavar="FILTER", help_behavior_hint="")] = None,
    threshold: OptionalNumber = None,
    mode: Literal["auto", "exact", "fast"] = "auto",
    candidates: OptionalCount = None,
    model: OptionalPath = None,
    data: OptionalPath = None,
    split: str = "test",
    name: OptionalText = None,
    clip: OptionalPath = None,
    detector: OptionalText = None,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Search an index: weighted words and pictures find images. Or a split of a data folder, with a run and --data.

    Args:
        place: index, or run folder.
        query: parts "a dog" "snow:0.5" "-people"; in a split: sentences.
        image: picture or id to be like: cat.jpg, 12, 12:0.5; in a split: to find captions for.
        without: words to avoid, as "-words".
        unlike: picture or id to avoid.
        captions: find the indexed captions of --image.
        file: a query on each line; in .jsonl with parts.
        k: results for each query.
        where: filter, such as "width > 1000 and tag = 'beach'".
        threshold: least score; all images that have it, unless -k says fewer.
        mode: all images, or a shortlist's.
        candidates: of the shortlist.
        model: of the index, where it is now.
        data: data folder, to search a split of it.
        split: which one.
        name: data set name, when the folder does not say it.
        clip: CLIP model folder, for models that read it.
        detector: finds the regions of a new picture.
        device: auto (in an index the CPU), cpu or cuda:0.
        json: print JSON.
    """
    from patchword.store.layout import is_index

    asked, few = Asked(query, image, without, unlike), FEW if k is None else k
    if k is not None and k < 1:
        raise ConfigError(f"`k` is {k}. Expected 1 or more.")
    if file is not None and asked.is_something:
        raise ConfigError("--file holds the queries. Leave out the others.")
    in_index = is_index(place)
    if not in_index and data is None:
        raise ConfigError(_no_index(place))
    if file is None and not asked.is_something:
        raise ConfigError("nothing to search for. Give a sentence, or --image ID.")
    if not in_index:
        if where or captions or threshold is not None or detector or mode != "auto" or asked.is_composed:
            raise ConfigError("filters, modes and composed queries need an index. Make one with: patchword index build")
        opened = {"data": data, "split": split, "name": name}
        return _in_split(place, asked, file, opened, {"clip": clip, "device": device_of(device), "k": few}, json)
    if data is not None:
        raise ConfigError(f"'{place}' is an index, which holds its images itself. Leave out --data.")
    from patchword.retrieve.engine import Index
    from patchword.retrieve.query_file import read_queries

    lines = [] if file is None else read_queries(file)
    computes = "cpu" if device == "auto" else device_of(device)  # where an index scores, and a query is soon encoded
    with Index.open(place, model=model, clip=clip, device=computes, detector=detector) as index:
        if captions:
            found = index.captions_for(_only_picture(asked, where, index), few, mode=mode, threshold=threshold)
            return say_captions(found, json)
        if k is None and threshold is not None:  # all that reach it
            few, mode = max(1, len(index)), "exact" if mode == "auto" else mode
        wanted: How = {"mode": mode, "where": where, "threshold": threshold, "candidates": candidates}
        if file is not None:
            return _each_line(index, file, lines, few, wanted, json)
        parts = asked.query(index)
        answer = index.search(parts, few, **wanted)
        note_unknown(index.model, _texts(parts))
        say_answer(asked.label, answer, _searched(index, where), json)
        return 0


def prepare_words(words: Sequence[str]) -> list[str]:
    """The words of the command line, with ``-people`` as an option that the parser knows.

    Example:
        >>> prepare_words(["my.index", "a dog", "-wet grass:0.5", "-k", "3", "-people"])
        ['my.index', 'a dog', '-k', '3', '--without=wet grass:0.5', '--without=people']
    """
    kept: list[str] = []
    avoided: list[str] = []
    for word in words:
        (avoided if _MINUS.fullmatch(word) else kept).append(word)
    return [*kept, *(f"--without={word[1:]}" for word in avoided)]


search.prepare_words = prepare_words  # type: ignore[attr-defined]


def _no_index(place: Path) -> str:
    """What is wrong with a place that was given without data."""
    if not place.exists():
        return f"'{place}' does not exist. Expected an index, or a run and its data (--data DIR)."
    return (
        f"'{place}' is no index. Make one with: patchword index build; or name a data folder with --data DIR, to "
        "search a split with a run."
    )


def _each_line(index: Index, file: Path, lines: Sequence[QueryLine], k: int, how: How, json: bool) -> int:
    """Find the images of an index for every line of a file."""
    answers = iter(index.search_each([line.query for line in lines if line.query is not None], k, **how))
    found = [(line, line.error or next(answers)) for line in lines]
    for line, answer in found:
        if line.query is not None and not isinstance(answer, PatchwordError):
            note_unknown(index.model, _texts(line.query))
    return say_lines(file, found, _searched(index, how.get("where")), json)


def _searched(index: Index, where: str | None) -> Searched:
    """What the printing of its answers needs to know about an index."""
    return Searched(len(index), len(index.catalog.roots()) > 1, where is not None)


def _texts(query: Query) -> list[str]:
    """The written parts of a query."""
    return [part.text for part in query.parts if part.text is not None]


def _only_picture(asked: Asked, where: str | None, index: Index) -> Picture:
    """The picture whose captions are wanted.

    Raises:
        ConfigError: something else is asked for as well.
    """
    from patchword.retrieve.query import parse_image

    pictures = [parse_image(one, index.find) for one in asked.image]
    if len(pictures) != 1 or asked.words or asked.without or asked.unlike:
        raise ConfigError("--captions finds the captions of one picture. Give one --image and nothing else.")
    if where:
        raise ConfigError("--where filters images, and --captions finds captions. Leave one of them out.")
    (only,) = pictures
    if only.weight != 1:
        raise ConfigError(f"--captions finds the captions of one picture. Leave out its weight of {only.weight:g}.")
    assert only.image is not None
    return only.image


def _in_split(
    run: Path, asked: Asked, file: Path | None, where: dict[str, Any], how: dict[str, Any], json: bool
) -> int:
    """Search a split of a data folder. Pictures that do not decode are left out and named."""
    from patchword.evaluate.opening import open_for
    from patchword.loading import load
    from patchword.retrieve.query_file import read_queries
    from patchword.search import search as run_search
    from patchword.search import search_each

    for one in asked.words:
        _refuse_weights(one)
    lines = None if file is None else [_plain(line) for line in read_queries(file)]
    model = load(run, device=how["device"])
    opened = open_for(model, **where, skip_broken=True)
    for text in opened.notes:
        if "left out" in text:
            note_line(f"note: {text}")
    if file is None or lines is None:
        image = asked.image[0] if asked.image else None
        answers = run_search(model, asked.words, data=opened, image=image, **how)
        note_unknown(model, asked.words)
        return say_hits(answers, json)
    hits = iter(search_each(model, [line.label for line in lines if line.error is None], data=opened, **how))
    found = [(line, line.error or next(hits)) for line in lines]
    for line, hit in found:
        if not isinstance(hit, PatchwordError):
            note_unknown(model, [line.label])
    return say_split_lines(file, found, json)


def _plain(line: QueryLine) -> QueryLine:
    """A line as a split can be asked it: one sentence without a weight, or what is wrong."""
    if line.error is not None:
        return line
    try:
        if not isinstance(line.written, str):
            raise ConfigError("queries of several parts need an index. Make one with: patchword index build")
        _refuse_weights(line.written)
    except ConfigError as error:
        return replace(line, error=error)
    return line


def _refuse_weights(query: str) -> None:
    """Refuse a sentence for a split that only an index would read as it is meant.

    Raises:
        ConfigError: it has a weight, or a minus.
    """
    from patchword.retrieve.query import parse_part

    if parse_part(query).text != query.strip():
        raise ConfigError(
            f"weights need an index, and {query!r} has one. Make one with: patchword index build; or leave it out."
        )
