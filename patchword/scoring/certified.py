"""Ranks from bounds: every pair is screened, few are scored, and the result is that of scoring all of them.

A pair whose bounds lie on one side of both its image's and its caption's boundary is counted without knowing its score.
The others are scored in float32, in products of another shape than the tiles have; that is within a known distance of
the tile's score, and settles all but the nearest ones. For these the tile itself is computed. So every comparison that
``count_tiles`` makes is made here too, with the same outcome: either on the same bits, or on numbers that a proven
distance keeps on the same side.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchword.scoring.bounds import BoundedPairs, Screen
from patchword.scoring.cells import Cells
from patchword.scoring.counts import count_tiles
from patchword.scoring.jobs import Found, Job
from patchword.scoring.truth import Boundaries

PAIR_BYTES = 64  # of a pair whose bounds are looked at, at most: bounds, places, boundaries and what is made of them
_TOO_MANY = 0.5  # share of open pairs above which all tiles of a unit are computed


def count_screened(
    job: Job, screen: Screen, cells: Cells, boundaries: Boundaries, units: list[range], memory: int, unit: int
) -> Found:
    """What ``count_tiles`` gives for a unit, from bounds of ``memory`` bytes at a time."""
    counter = _Counter(screen, cells, boundaries, units[unit])
    most, waiting, n_open = max(1, memory // PAIR_BYTES), _Waiting(), 0
    for images, columns in screen.parts(counter.block, most):
        found = counter.candidates(images, columns)
        # A right pair is never counted and is no candidate, so what is decided here is a negative. Of a decided pair
        # the lower bound is above a boundary exactly when the score is.
        left = counter.count_decided(found)
        n_open += len(left)
        if n_open > _TOO_MANY * counter.pairs:
            return count_tiles(job, cells, boundaries, units, unit)
        waiting.add(left)
        if waiting.count > most:
            counter.settle(waiting.taken())
    if waiting.count:
        counter.settle(waiting.taken())
    job.advance(counter.pairs - cells.kept_pairs(units[unit]))
    return {
        "i2t": counter.i2t,
        "t2i": counter.t2i,
        "odd": torch.zeros(4, dtype=torch.long),
        "screened": torch.tensor([*counter.screened, counter.tiled()]),
    }


class _Waiting:
    """Pairs that wait until there are many."""

    def __init__(self) -> None:
        self._parts: list[BoundedPairs] = []
        self.count = 0

    def add(self, pairs: BoundedPairs) -> None:
        self._parts.append(pairs)
        self.count += len(pairs)

    def taken(self) -> BoundedPairs:
        """All of them; none are left."""
        found = BoundedPairs.joined(self._parts)
        self._parts, self.count = [], 0
        return found


class _Counter:
    """What is counted of the images of a unit.

    Attributes:
        block: the images.
        pairs: of the unit.
        i2t, t2i: see ``count_tiles``.
        screened: ``closer``, ``again`` and ``near`` of ``Screened``.
    """

    def __init__(self, screen: Screen, cells: Cells, boundaries: Boundaries, rows: range) -> None:
        self._screen, self._cells, self._boundaries = screen, cells, boundaries
        cuts, total = cells.tiles.image_cuts, len(boundaries.captions)
        self.block = slice(cuts[rows.start], cuts[rows.stop])
        self.pairs = (self.block.stop - self.block.start) * total
        self.i2t = torch.zeros(2, self.block.stop - self.block.start, dtype=torch.long)
        self.t2i = torch.zeros(2, total, dtype=torch.long)
        self.screened = torch.zeros(3, dtype=torch.long)
        right = boundaries.pairs.within(self.block)
        self._blocks = slice(rows.start * cells.tiles.columns, rows.stop * cells.tiles.columns)
        # Of each tile of the unit: whether it was computed, and how many of its pairs were scored one by one.
        self._is_scored = torch.zeros(self._blocks.stop - self._blocks.start, dtype=torch.bool)
        self._again = torch.zeros(self._blocks.stop - self._blocks.start, dtype=torch.long)
        self._is_scored[self._tiles_of(boundaries.pairs.images[right], boundaries.pairs.captions[right])] = True

    def _tiles_of(self, images: Int[Tensor, " k"], captions: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
        """Number of the tile of each pair among those of the unit."""
        return self._cells.blocks(images, captions) - self._blocks.start

    def tiled(self) -> int:
        """Pairs of the tiles that were computed, without those that were scored one by one."""
        return int((self._cells.sizes[self._blocks] - self._again)[self._is_scored].sum())

    def candidates(self, images: slice, columns: range) -> BoundedPairs:
        """The pairs of a block that may be above or at a boundary, without the right pairs."""
        screen, boundaries = self._screen, self._boundaries
        low, high = screen.strip(images, columns)
        first, last = screen.caption_cuts[columns.start], screen.caption_cuts[columns.stop]
        right = boundaries.pairs.within(images)
        rows, places = boundaries.pairs.images[right] - images.start, screen.places[boundaries.pairs.captions[right]]
        here = (places >= first) & (places < last)
        high[rows[here], places[here] - first] = -torch.inf
        chosen = screen.captions[first:last]
        lowest = torch.minimum(boundaries.images[images][:, None], boundaries.captions[chosen])  # (n, m)
        rows, places = (high >= lowest).nonzero(as_tuple=True)
        return BoundedPairs(rows + images.start, chosen[places], low[rows, places], high[rows, places])

    def count_decided(self, pairs: BoundedPairs) -> BoundedPairs:
        """Count the pairs that their bounds decide; the others are given back."""
        is_open = self._boundaries.are_open(pairs)
        self._count(pairs.images[~is_open], pairs.captions[~is_open], pairs.low[~is_open], exact=False)
        return pairs.where(is_open)

    def settle(self, pairs: BoundedPairs) -> None:
        """Count open pairs by narrower bounds, and what these leave open by scores."""
        narrowed = bounds_again(self._screen, pairs.images, pairs.captions)
        if narrowed is not None:
            self.screened[0] += len(pairs)
            pairs = self.count_decided(narrowed)
        images, captions = pairs.images, pairs.captions
        values, is_near = _score_open(self._screen, self._cells, self._boundaries, images, captions)
        self._count(images, captions, values, exact=True)
        tiles = self._tiles_of(images, captions)
        self._is_scored[tiles[is_near]] = True
        self._again += torch.bincount(tiles, minlength=len(self._again))
        self.screened += torch.tensor([0, len(images), int(is_near.sum())])

    def _count(
        self, images: Int[Tensor, " k"], captions: Int[Tensor, " k"], values: Float[Tensor, " k"], *, exact: bool
    ) -> None:
        """Count the pairs above the boundaries of their image and caption, and those at them if values are exact."""
        at_image, at_caption = self._boundaries.images[images], self._boundaries.captions[captions]
        for counts, items, boundary in (
            (self.i2t, images - self.block.start, at_image),
            (self.t2i, captions, at_caption),
        ):
            counts[0] += torch.bincount(items[values > boundary], minlength=counts.shape[1])
            if exact:
                counts[1] += torch.bincount(items[values == boundary], minlength=counts.shape[1])


def _score_open(
    screen: Screen,
    cells: Cells,
    boundaries: Boundaries,
    images: Int[Tensor, " k"],
    captions: Int[Tensor, " k"],
) -> tuple[Float[Tensor, " k"], Bool[Tensor, " k"]]:
    """Numbers that compare with both boundaries as the float32 scores do, and which of them took a tile."""
    values, distance = score_again(screen, images, captions)
    is_near = torch.zeros(len(values), dtype=torch.bool)
    for boundary in (boundaries.images[images], boundaries.captions[captions]):
        is_near |= (values - boundary).abs() <= distance
    values[is_near] = cells.values(images[is_near], captions[is_near])
    return values, is_near


def bounds_again(screen: Screen, images: Int[Tensor, " k"], captions: Int[Tensor, " k"]) -> BoundedPairs | None:
    """Narrower bounds of pairs, image by image, where the screen has them."""
    low, high = torch.empty(len(images)), torch.empty(len(images))
    for image, chosen in _by_image(images):
        found = screen.closer(image, captions[chosen])
        if found is None:
            return None
        low[chosen], high[chosen] = found
    return BoundedPairs(images, captions, low, high)


def score_again(
    screen: Screen, images: Int[Tensor, " k"], captions: Int[Tensor, " k"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Float32 scores of pairs, image by image, and how far the tiles' scores can be from them."""
    values, distance = torch.empty(len(images)), torch.empty(len(images))
    for image, chosen in _by_image(images):
        values[chosen], distance[chosen] = screen.again(image, captions[chosen])
    return values, distance


def _by_image(images: Int[Tensor, " k"]) -> Iterator[tuple[int, Int[Tensor, " n"]]]:
    """Each image with the positions of its pairs."""
    order = torch.argsort(images, stable=True)
    found, counts = torch.unique_consecutive(images[order], return_counts=True)
    yield from zip(found.tolist(), order.split(counts.tolist()), strict=True)
