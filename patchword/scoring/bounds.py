"""What a method must give so that ranks can be certified: cheap bounds that its float32 scores can not leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float, Int
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

    def strip(self, images: slice) -> tuple[Float[Tensor, "n M"], Float[Tensor, "n M"]]:
        """Bounds of some images with all captions, in the order of ``captions``."""
        low, high = (torch.empty(images.stop - images.start, len(self.captions)) for _ in range(2))
        for column, (first, last) in enumerate(pairwise(self.caption_cuts)):
            low[:, first:last], high[:, first:last] = self.bounds(images, column)
        return low, high


@dataclass(frozen=True)
class NoScreen:
    """There are bounds for the method, but for these sets it is better to score every pair.

    Attributes:
        about: why, for reports.
    """

    about: str


@dataclass(frozen=True)
class Screened:
    """What the certified mode did.

    Attributes:
        about: what was computed for every pair.
        pairs: of the job.
        closer: pairs that the first bounds left open and that got narrower ones.
        again: pairs that all bounds left open and that were scored in float32, one by one.
        near: those of them so close to a rank boundary that only the tile they belong to could tell.
        tiled: pairs of the tiles that were computed for these, for the right pairs, and where the bounds left too many
            pairs open to look at them one by one.
    """

    about: str
    pairs: int
    closer: int
    again: int
    near: int
    tiled: int

    @property
    def share(self) -> float:
        """Pairs scored in float32, as a share of all."""
        return (self.again + self.tiled) / max(1, self.pairs)
