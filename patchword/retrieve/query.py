"""What is asked of an index, and what it answers.

A query is a weighted sum of parts, each a text or an image; a part with a negative weight pushes away. Its score is
sum of weight * score of the part / sum of |weight|.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchword.errors import ConfigError, DataError
from patchword.store.catalog import CaptionItem, Item

Mode = Literal["auto", "exact", "fast"]
Picture = Path | str | int | NDArray[np.uint8]
_ID = re.compile(r"[0-9]{1,18}")
_NUMBER = r"-?[0-9]*\.?[0-9]+"
_WEIGHTED = re.compile(rf"(?P<minus>-)?(?P<text>.*?)(?:(?<![0-9]):(?P<weight>{_NUMBER}))?\s*", re.DOTALL)
_WEIGHTED_IMAGE = re.compile(rf"(?P<image>.+):(?P<weight>{_NUMBER})", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One part of a query: exactly one of a text and an image.

    Attributes:
        text: words.
        image: a picture file, the id of an indexed image or what `Index.find` knows it by, or a decoded picture
            ``(H, W, 3)`` RGB.
        weight: of this part; negative: unlike it.

    Raises:
        ConfigError: both or neither are given, or the weight is zero or no number.
    """

    text: str | None = None
    image: Picture | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise ConfigError("a part of a query needs a text or an image, and not both.")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ConfigError(f"the weight of a part of a query is {self.weight}. Expected a number other than 0.")


@dataclass(frozen=True, eq=False)
class Query:
    """Weighted parts.

    Raises:
        DataError: there are none.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError('the query is empty. Write a sentence such as "a man in an orange hat".')

    @classmethod
    def of(cls, query: str | Query) -> Query:
        """A query of one sentence, taken word for word; a query is left as it is."""
        return query if isinstance(query, Query) else cls((Part(text=query),))

    @property
    def total_weight(self) -> float:
        """What the sum is divided by."""
        return sum(abs(part.weight) for part in self.parts)

    @property
    def like(self) -> frozenset[int]:
        """Ids of the indexed images that are to be alike."""
        parts = (part for part in self.parts if part.weight > 0)
        return frozenset(int(part.image) for part in parts if isinstance(part.image, int | np.integer))

    @property
    def sentence(self) -> str | None:
        """The text of a query of one sentence; None for others."""
        only = self.parts[0]
        return only.text if len(self.parts) == 1 and only.weight > 0 else None


def parse_part(written: str) -> Part:
    """A part written as words: ``a dog``, ``a dog:1.5`` (its weight), ``-grass``, ``-grass:0.5`` or ``grass:-0.5``
    (unlike).

    A colon after a digit is none of these: ``a clock at 10:30``.

    Raises:
        ConfigError: the weight is zero.

    Example:
        >>> part = parse_part("-green grass:0.5")
        >>> part.text, part.weight, parse_part("at 10:30").text
        ('green grass', -0.5, 'at 10:30')
    """
    found = _WEIGHTED.fullmatch(written)
    assert found is not None  # the text may be anything
    weight = 1.0 if found["weight"] is None else float(found["weight"])
    return Part(text=found["text"].strip(), weight=-weight if found["minus"] else weight)


def parse_image(written: str, find: Callable[[str], int | None] | None = None) -> Part:
    """A part written as a picture file or the id of an indexed image: ``cat.jpg``, ``12``, and with a weight
    ``cat.jpg:0.5`` or ``12:-0.5`` (unlike).

    A file that has the whole of it as its name is that file, without a weight; so is a file whose name is a number.

    Args:
        written: one of these.
        find: gives the id of an indexed image by its name; see `Index.find`.

    Raises:
        DataError: there is no such file, and it is no id.
        ConfigError: the weight is zero.
    """
    picture = _picture(written, find)
    if picture is not None:
        return Part(image=picture)
    found = _WEIGHTED_IMAGE.fullmatch(written)
    picture = None if found is None else _picture(found["image"], find)
    if found is None or picture is None:
        raise DataError(
            f"{written!r} is neither a picture file nor the id of an image. Expected such as cat.jpg or 12, and with a "
            "weight cat.jpg:0.5 or 12:-0.5."
        )
    return Part(image=picture, weight=float(found["weight"]))


def _picture(written: str, find: Callable[[str], int | None] | None) -> Path | int | None:
    """The file or the id that a text names; None when it is neither."""
    if os.path.isfile(written):
        return Path(written)
    if _ID.fullmatch(written):
        return int(written)
    return None if find is None else find(written)


def parse_query(
    texts: str | Sequence[str], images: Iterable[Picture | Part] = (), *, without: Iterable[str | Part] = ()
) -> Query:
    """A query of written parts and of images.

    Args:
        texts: see ``parse_part``.
        images: pictures to be alike, or parts of them: see ``parse_image``.
        without: written parts, or parts, that push away, whatever the sign of their weight.

    Raises:
        DataError: there is nothing in it.
    """
    parts = [parse_part(text) for text in ([texts] if isinstance(texts, str) else texts)]
    turned = [one if isinstance(one, Part) else parse_part(one) for one in without]
    parts += [replace(part, weight=-abs(part.weight)) for part in turned]
    return Query((*parts, *(one if isinstance(one, Part) else Part(image=one) for one in images)))


@dataclass(frozen=True)
class Found:
    """One image found.

    Attributes:
        id: of the index, never used twice.
        score: of the method, or of the composition.
        probability: that image and sentence match, where the index is calibrated and the query is one sentence.
        item: what the catalog knows.
        rank: from 1.
    """

    id: int
    score: float
    probability: float | None
    item: Item
    rank: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        item = self.item
        return {
            "rank": self.rank,
            "id": self.id,
            "score": self.score,
            "probability": self.probability,
            "path": item.path,
            "root": item.root,
            "width": item.width,
            "height": item.height,
            "taken": item.taken,
            "columns": item.columns,
        }


@dataclass(frozen=True)
class FoundCaption:
    """One caption found.

    Attributes:
        id: of the caption in the index.
        item: its text, and the indexed image it was given for.
    """

    id: int
    score: float
    probability: float | None
    item: CaptionItem
    rank: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {
            "rank": self.rank,
            "id": self.id,
            "score": self.score,
            "probability": self.probability,
            "caption": self.item.text,
            "image_id": self.item.image_id,
        }


@dataclass(frozen=True)
class Answer:
    """The best images for a query.

    Attributes:
        hits: best first; of equal scores the smaller id.
        mode: what was done.
        searched: images that the filter leaves.
        rescored: images whose score was computed.
        took_ms: of the whole query; of a batch, its share.
    """

    hits: list[Found]
    mode: Literal["exact", "fast"]
    searched: int
    rescored: int
    took_ms: float

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {
            "hits": [hit.to_json() for hit in self.hits],
            "mode": self.mode,
            "searched": self.searched,
            "rescored": self.rescored,
            "took_ms": round(self.took_ms, 3),
        }
