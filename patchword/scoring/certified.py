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
from jaxtyping import Float, Int
from torch import Tensor

from patchword.scoring.bounds import Screen
from patchword.scoring.cells import Cells
from patchword.scoring.counts import count_tiles
from patchword.scoring.jobs import Found, Job
from patchword.scoring.truth import Boundaries

_TOO_MANY = 0.5  # share of open pairs above which all tiles of a unit are computed


def count_screened(
    job: Job, screen: Screen, cells: Cells, boundaries: Boundaries, units: list[range], unit: int
) -> Found:
    """What ``count_tiles`` gives for a unit, from bounds."""
    rows = units[unit]
    cuts, total = cells.tiles.image_cuts, len(boundaries.captions)
    block = slice(cuts[rows.start], cuts[rows.stop])
    size = block.stop - block.start
    images, captions, low, high = _candidates(screen, boundaries, block)
    is_open = boundaries.are_open(images, captions, low, high)
    if int(is_open.sum()) > _TOO_MANY * size * total:
        return count_tiles(job, cells, boundaries, units, unit)
    # A right pair is never counted and is no candidate, so what is decided here is a negative. Of a decided pair the
    # lower bound is above a boundary exactly when the score is.
    narrowed = bounds_again(screen, images[is_open], captions[is_open])
    n_closer = 0
    if narrowed is not None:
        n_closer = len(narrowed[0])
        low[is_open], high[is_open] = narrowed
        is_open = boundaries.are_open(images, captions, low, high)
    values = low
    values[is_open], near, tiled = _score_open(screen, cells, boundaries, images[is_open], captions[is_open])
    at_image, at_caption = boundaries.images[images], boundaries.captions[captions]
    counts = [
        torch.bincount(items[chosen], minlength=length)
        for items, boundary, length in ((images - block.start, at_image, size), (captions, at_caption, total))
        for chosen in (values > boundary, (values == boundary) & is_open)
    ]
    job.advance(size * total)
    return {
        "i2t": torch.stack(counts[:2]),
        "t2i": torch.stack(counts[2:]),
        "odd": torch.zeros(4, dtype=torch.long),
        "screened": torch.tensor([n_closer, int(is_open.sum()), near, tiled]),
    }


def _candidates(
    screen: Screen, boundaries: Boundaries, block: slice
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Image, caption and bounds of the pairs that may be above or at a boundary, without the right pairs."""
    low, high = screen.strip(block)
    right = boundaries.pairs.within(block)
    rows, places = boundaries.pairs.images[right] - block.start, screen.places[boundaries.pairs.captions[right]]
    high[rows, places] = -torch.inf
    lowest = torch.minimum(boundaries.images[block][:, None], boundaries.captions[screen.captions])  # (n, M)
    rows, places = (high >= lowest).nonzero(as_tuple=True)
    return rows + block.start, screen.captions[places], low[rows, places], high[rows, places]


def _score_open(
    screen: Screen,
    cells: Cells,
    boundaries: Boundaries,
    images: Int[Tensor, " k"],
    captions: Int[Tensor, " k"],
) -> tuple[Float[Tensor, " k"], int, int]:
    """Numbers that compare with both boundaries as the float32 scores do, and how many tiles' pairs that took."""
    values, distance = score_again(screen, images, captions)
    is_near = torch.zeros(len(values), dtype=torch.bool)
    for boundary in (boundaries.images[images], boundaries.captions[captions]):
        is_near |= (values - boundary).abs() <= distance
    near, tiled = cells.values(images[is_near], captions[is_near])
    values[is_near] = near
    return values, len(near), tiled


def bounds_again(
    screen: Screen, images: Int[Tensor, " k"], captions: Int[Tensor, " k"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]] | None:
    """Narrower bounds of pairs, image by image, where the screen has them."""
    low, high = torch.empty(len(images)), torch.empty(len(images))
    for image, chosen in _by_image(images):
        found = screen.closer(image, captions[chosen])
        if found is None:
            return None
        low[chosen], high[chosen] = found
    return low, high


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
