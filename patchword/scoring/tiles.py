"""The grid on which float32 scores are computed. It is fixed by the sets and the method, and by nothing else.

The last bits of a sum of products depend on how it was blocked. So every float32 score is computed as part of one tile
of one grid, by one call on one thread. A memory budget, threads, processes, a job that goes on after a kill and the
certified mode choose which tiles are computed, when and where; they never change a bit of a score, hence no rank and no
tie.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.types import Encoded


class Tiles(ABC):
    """Float32 scores of all pairs of N images and M captions, tile by tile.

    Row r of the grid holds the images ``image_cuts[r]:image_cuts[r + 1]``, column k the captions at the places
    ``caption_cuts[k]:caption_cuts[k + 1]`` of ``captions``.

    Attributes:
        image_cuts, caption_cuts: where rows and columns begin, with N and M at the end.
        captions: which caption stands at each place.
        tile_bytes: memory that computing one tile takes.
    """

    image_cuts: Sequence[int]
    caption_cuts: Sequence[int]
    captions: Int[Tensor, " M"]
    tile_bytes: int

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return len(self.image_cuts) - 1

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return len(self.caption_cuts) - 1

    def images_of(self, row: int) -> slice:
        """The images of a row of tiles."""
        return slice(self.image_cuts[row], self.image_cuts[row + 1])

    def places_of(self, column: int) -> slice:
        """The places of the captions of a column of tiles."""
        return slice(self.caption_cuts[column], self.caption_cuts[column + 1])

    def count(self, rows: range) -> int:
        """Number of images in neighbouring rows of tiles."""
        return self.image_cuts[rows.stop] - self.image_cuts[rows.start]

    @abstractmethod
    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile; always the same bits. Called from several threads at once."""


class PairTiles(Tiles):
    """Tiles of any method, from a function that scores all pairs of two collections.

    Captions of similar length share a tile, so that little is padded, but only captions that are near each other in
    their order: then the right pairs lie in few tiles. The last row and column of tiles reach back into those before
    them, so that all products have the same size: a product of another size rounds otherwise, and images or captions
    that are equal would not score equally.

    Args:
        score: images and captions to their scores.
        images, captions: N and M sets.
        sizes: images and captions of a tile.
        tile_bytes: memory that one tile takes.
    """

    def __init__(
        self,
        score: Callable[[Encoded, Encoded], Tensor],
        images: Encoded,
        captions: Encoded,
        sizes: tuple[int, int],
        tile_bytes: int,
    ) -> None:
        self._score, self._images, self._sets, self.tile_bytes = score, images, captions, tile_bytes
        self.image_cuts = cuts_of(len(images), sizes[0])
        self.caption_cuts = cuts_of(len(captions), sizes[1])
        self.captions = by_length_nearby(captions.lengths.cpu(), 4 * sizes[1])
        self._in_order = bool((self.captions == torch.arange(len(captions))).all())
        self._last = threading.local()

    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile."""
        rows, places = self.images_of(row), self.places_of(column)
        above, before = _reach(rows, self.image_cuts), _reach(places, self.caption_cuts)
        block = self._images.slice(rows.start - above, rows.stop)
        return self._score(block, self._words(column, before)).float()[above:, before:]

    def _words(self, column: int, before: int) -> Encoded:
        """The captions of a column, after some of those before it; each thread remembers its last ones."""
        places = self.places_of(column)
        places = slice(places.start - before, places.stop)
        if self._in_order:
            return self._sets.slice(*_ends(places))
        if getattr(self._last, "column", None) != column:
            self._last.words = None  # so that two columns are never held
            self._last.words = self._sets.select(self.captions[places].to(self._sets.lengths.device))
            self._last.column = column
        words: Encoded = self._last.words
        return words


def _reach(block: slice, cuts: Sequence[int]) -> int:
    """How many items a block lacks to be as large as the first one, as far as there are that many before it."""
    missing: int = cuts[1] - (block.stop - block.start)
    return min(int(block.start), missing)


def cuts_of(count: int, size: int) -> list[int]:
    """Where blocks of ``size`` begin, with ``count`` at the end.

    Example:
        >>> cuts_of(5, 2), cuts_of(4, 4)
        ([0, 2, 4, 5], [0, 4])
    """
    return [*range(0, count, size), count]


def cuts_by_rows(lengths: Int[Tensor, " N"], most: int) -> list[int]:
    """Where blocks of consecutive sets begin so that each has at most ``most`` rows (a larger set stands alone).

    Example:
        >>> cuts_by_rows(torch.tensor([3, 3, 9, 1, 1]), 6)
        [0, 2, 3, 5]
    """
    cuts, rows = [0], 0
    for item, size in enumerate(lengths.tolist()):
        if rows and rows + size > most:
            cuts.append(item)
            rows = 0
        rows += size
    return [*cuts, len(lengths)] if rows else cuts


def most_rows(lengths: Int[Tensor, " M"], size: int) -> int:
    """Rows of the fullest column of ``size`` captions, in the order of ``by_length_nearby``.

    Example:
        >>> most_rows(torch.tensor([3, 9, 3, 1, 1]), 2)
        12
    """
    ends = torch.nn.functional.pad(lengths[by_length_nearby(lengths, 4 * size)].cumsum(0), (1, 0))
    stops = torch.tensor(cuts_of(len(lengths), size)[1:], dtype=torch.long)
    return int((ends[stops] - ends[(stops - size).clamp(min=0)]).max()) if len(stops) else 0


def groups_of(cuts: Sequence[int], size: int) -> list[range]:
    """Neighbouring blocks joined until each group holds at least ``size`` items.

    Example:
        >>> groups_of([0, 2, 4, 5, 6], 3)
        [range(0, 2), range(2, 4)]
    """
    groups, first = [], 0
    for block in range(len(cuts) - 1):
        if cuts[block + 1] - cuts[first] >= size or block == len(cuts) - 2:
            groups.append(range(first, block + 1))
            first = block + 1
    return groups


def by_length_nearby(lengths: Int[Tensor, " M"], window: int) -> Int[Tensor, " M"]:
    """Captions in order of length, within windows of the original order."""
    count = len(lengths)
    places = torch.arange(count)
    return torch.argsort((places // window) * (int(lengths.max()) + 1) + lengths, stable=True) if count else places


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop
