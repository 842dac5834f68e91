"""The verb that answers a query: over an index, or over a split of a data folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from patchword.errors import ConfigError, DataError
from patchword.verbs.options import (
    Device,
    OptionalCount,
    OptionalNumber,
    OptionalPath,
    OptionalText,
    Strings,
    device_of,
)
from patchword.verbs.output import say, say_json

if TYPE_CHECKING:
    from patchword.index.engine import Index
    from patchword.index.query import Answer, FoundCaption, Query
    from patchword.search import Hit

_MINUS = re.compile(r"-[^\W\d_][^=]+")  # a part to avoid; -k and -h are options


FEW = 5  # results for each query, unless said otherwise


def search(
    place: Annotated[Positional[Path], arg(metavar="INDEX|RUN")],
    query: Strings = (),
    *,
    image: UseAppendAction[tuple[str, ...]] = (),
    without: UseAppendAction[tuple[str, ...]] = (),
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
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Search an index: weighted words and pictures find images. Or a split of a data folder, with a run and --data.

    Args:
        place: index, or run folder.
        query: parts "a dog" "snow:0.5" "-people"; in a split: sentences.
        image: picture or id to be like; in a split: to find captions for.
        without: words to avoid, as "-words".
        captions: find the indexed captions of --image.
        file: a query on each line.
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
        device: auto (in an index the CPU), cpu or cuda:0.
        json: print JSON.
    """
    from patchword.index.layout import is_index
    from patchword.search import search as run_search

    if k is not None and k < 1:
        raise ConfigError(f"`k` is {k}. Expected 1 or more.")
    if file is not None and (query or image or without):
        raise ConfigError("--file holds the queries. Leave out the others.")
    lines = [] if file is None else _lines(file)
    in_index = is_index(place)
    if not in_index and data is None:
        if not place.exists():
            raise ConfigError(f"'{place}' does not exist. Expected an index, or a run and its data (--data DIR).")
        raise ConfigError(
            f"'{place}' is no index. Make one with: patchword index build; or name a data folder with --data DIR, to "
            "search a split with a run."
        )
    if not (query or image or without or lines):
        raise ConfigError("nothing to search for. Give a sentence, or --image ID.")
    if not in_index:
        assert data is not None
        if where or without or captions or len(image) > 1 or threshold is not None or mode != "auto":
            raise ConfigError("filters, modes and composed queries need an index. Make one with: patchword index build")
        _refuse_weights((*query, *lines))
        found = run_search(
            place,
            (*query, *lines),
            data=data,
            split=split,
            name=name,
            image=image[0] if image else None,
            k=FEW if k is None else k,
            clip=clip,
            device=device_of(device),
        )
        return _say_hits(found, json)
    if data is not None:
        raise ConfigError(f"'{place}' is an index, which holds its images itself. Leave out --data.")
    from patchword.index.engine import Index
    from patchword.index.query import parse_query

    computes = "cpu" if device == "auto" else device_of(device)  # where an index scores, and a query is soon encoded
    with Index.open(place, model=model, clip=clip, device=computes) as index:
        pictures = [_picture(index, one) for one in image]
        if captions:
            if len(pictures) != 1 or query or without:
                raise ConfigError("--captions finds the captions of one picture. Give one --image and nothing else.")
            if where:
                raise ConfigError("--where filters images, and --captions finds captions. Leave one of them out.")
            count = FEW if k is None else k
            return _say_captions(index.captions_for(pictures[0], count, mode=mode, threshold=threshold), json)
        if lines:
            queries: list[Query] = [parse_query(line) for line in lines]
        else:
            queries = [parse_query(query, pictures, without=without)]
        if k is None and threshold is not None:
            k, mode = max(1, len(index)), "exact" if mode == "auto" else mode
        answers = index.search_batch(
            queries, FEW if k is None else k, mode=mode, where=where, threshold=threshold, candidates=candidates
        )  # fmt: skip
        labels = lines or [" ".join([*query, *(f"-{one}" for one in without), *image])]
        return _say_answers(index, labels, answers, json)


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


def _lines(file: Path) -> list[str]:
    """The queries of a file."""
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' can not be read as a text file: {error}.") from None
    if not found:
        raise DataError(f"'{file}' holds no queries. Expected one on each line.")
    return found


def _picture(index: Index, written: str) -> Path | int:
    """A picture file, or the id of an indexed image."""
    path = Path(written)
    if path.is_file():
        return path
    if written.isdecimal():
        return int(written)
    raise DataError(f"'{written}' is neither a picture file nor the id of an image of '{index.folder}'.")


def _say_answers(index: Index, labels: Sequence[str], answers: Sequence[Answer], json: bool) -> int:
    """Print what was found."""
    if json:
        whole: list[dict[str, Any]] = []
        for label, answer in zip(labels, answers, strict=True):
            found = answer.to_json()
            for hit, shown in zip(answer.hits, found["hits"], strict=True):
                shown["file"] = None if hit.item.file is None else str(hit.item.file)
            whole.append({"query": label, **found})
        say_json(whole[0] if len(whole) == 1 else whole)
        return 0
    for label, answer in zip(labels, answers, strict=True):
        say(f"{label}  ({answer.mode}: {answer.rescored:,} of {answer.searched:,} images, {answer.took_ms:.0f} ms)")
        for hit in answer.hits:
            chance = "" if hit.probability is None else f"  {hit.probability:6.1%}"
            say(f"  {hit.rank:>3}  {hit.score:8.4f}{chance}  {hit.id:>7}  {hit.item.path}")
        if not answer.hits:
            say("  nothing found")
    return 0


def _say_captions(found: Sequence[FoundCaption], json: bool) -> int:
    """Print the captions that were found."""
    if json:
        say_json([one.to_json() for one in found])
        return 0
    for one in found:
        chance = "" if one.probability is None else f"  {one.probability:6.1%}"
        say(f"  {one.rank:>3}  {one.score:8.4f}{chance}  {one.item.text}")
    return 0


def _refuse_weights(queries: Sequence[str]) -> None:
    """Refuse sentences for a split that only an index would read as they are meant.

    Raises:
        ConfigError: one has a weight, or a minus.
    """
    from patchword.index.query import parse_part

    for query in queries:
        if parse_part(query).text != query.strip():
            raise ConfigError(
                f"weights need an index, and {query!r} has one. Make one with: patchword index build; or leave it out."
            )


def _say_hits(found: Mapping[str, Sequence[Hit]], json: bool) -> int:
    """Print what was found in a split: images for sentences, captions for an image."""
    if json:
        say_json({q: [asdict(hit) for hit in hits] for q, hits in found.items()})
        return 0
    for q, hits in found.items():
        say(f"{q}")
        for hit in hits:
            what = hit.caption if hit.caption is not None else (hit.file or hit.image_id)
            say(f"  {hit.rank:>2}  {hit.score:8.4f}  {what}")
    return 0
