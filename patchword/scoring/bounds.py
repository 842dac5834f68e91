"""What a method must give so that ranks can be certified: cheap bounds that its float32 scores can not leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Share of a sample of pairs (some images, some captions, their lower and upper bounds) that bounds leave open. It only
# decides which bounds are computed.
Judge = Callable[
    [Int[Tensor, " n"], Int[Tensor, " m"], Float[Tensor, "n m"], Float[Tensor, "n m"]],
    float,
]


class Screen(ABC):
    """Proven bounds of the scores that the method's tiles have, float32 rounding included.

    Captions stand in an order of the screen's own; column k holds the places ``caption_cuts[k]:caption_cuts[k + 1]`` of
    ``captions``.

    Attributes:
        captions: which caption stands at each place.
        caption_cuts: where columns begin, with M at the end.
        about: what is computed instead of the scores, for reports.
    """

    captions: Int[Tensor, " M"]
    caption_cuts: Sequence[int]
    about: str

    @abstractmethod
    def bounds(self, images: slice, column: int) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Lower and upper bounds of the scores of some images with the captions of a column.

        Every float32 score s of ``Tiles.tile`` obeys lower <= s <= upper. Called from several threads at once.
        """

    @abstractmethod
    def again(self, image: int, captions: Int[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Scores of one image with a few captions, and how far those of ``Tiles.tile`` can be from them at most."""

    def closer(self, image: int, captions: Int[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]] | None:
        """Narrower bounds of one image with a few captions; None when there are none."""
        return None

    @cached_property
    def places(self) -> Int[Tensor, " M"]:
        """Place at which each caption stands."""
        return torch.argsort(self.captions)

    def strip(self, images: slice, columns: range | None = None) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Bounds of some images with the captions of some neighbouring columns (all of them), in their order."""
        columns = range(len(self.caption_cuts) - 1) if columns is None else columns
        start = self.caption_cuts[columns.start]
        low, high = (torch.empty(images.stop - images.start, self.caption_cuts[columns.stop] - start) for _ in range(2))
        for column in columns:
            own = slice(self.caption_cuts[column] - start, self.caption_cuts[column + 1] - start)
            low[:, own], high[:, own] = self.bounds(images, column)
        return low, high

    def parts(self, images: slice, cells: int) -> Iterator[tuple[slice, range]]:
        """Some images and all captions in blocks of at most so many pairs, as far as columns are not cut.

        Yields:
            Images of a block and its columns; the blocks of the same images follow each other.
        """
        widest = max(last - first for first, last in pairwise(self.caption_cuts))
        most = max(1, cells // widest)
        for first in range(images.start, images.stop, most):
            some = slice(first, min(first + most, images.stop))
            for columns in self.column_groups(max(1, cells // (some.stop - some.start))):
                yield some, columns

    def column_groups(self, captions: int) -> Iterator[range]:
        """Neighbouring columns with at most so many captions together, or a single one."""
        first = 0
        for column in range(1, len(self.caption_cuts)):
            is_last = column == len(self.caption_cuts) - 1
            if is_last or self.caption_cuts[column + 1] - self.caption_cuts[first] > captions:
                yield range(first, column)
                first = column


@dataclass(frozen=True)
class BoundedPairs:
    """Some pairs, each with bounds of its score.

    Attributes:
        images, captions: of each pair.
        low, high: between which its score is.
    """

    images: Int[Tensor, " k"]
    captions: Int[Tensor, " k"]
    low: Float[Tensor, " k"]
    high: Float[Tensor, " k"]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, chosen: Bool[Tensor, " k"]) -> BoundedPairs:
        """Those of the pairs that are chosen."""
        return BoundedPairs(self.images[chosen], self.captions[chosen], self.low[chosen], self.high[chosen])

    @classmethod
    def joined(cls, parts: Sequence[BoundedPairs]) -> BoundedPairs:
        """All pairs of the parts, in their order."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class NoScreen:
    """There are bounds for the method, but for these sets it is better to score every pair.

    Attributes:
        about: why, for reports.
    """

    about: str


@dataclass(frozen=True)
class Screened:
    """What the certified mode did. A pair that was scored several times counts once.

    Attributes:
        about: what was computed for every pair.
        pairs: of the job.
        closer: pairs that the first bounds left open and that got narrower ones.
        again: pairs that all bounds left open and that were scored in float32, one by one.
        near: those of them so close to a rank boundary that only the tile they belong to could tell.
        tiled: other pairs of the tiles that were computed for these, for the right pairs, and where the bounds left too
            many pairs open to look at them one by one.
        gave_up: whether bounds do not pay for these sets, so that every pair was scored; ``about`` says why.
    """

    about: str
    pairs: int
    closer: int
    again: int
    near: int
    tiled: int
    gave_up: bool = False

    @property
    def share(self) -> float:
        """Pairs scored in float32, as a share of all."""
        return (self.again + self.tiled) / max(1, self.pairs)
