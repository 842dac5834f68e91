"""The best items of a query from bounds: the items are those of sorting all scores.

A pair whose upper bound is below the k-th largest lower bound of its query is not among the best. The others are scored
again in float32, each within a known distance of the tile's score. Where two of these stand so close that the tiles'
scores could be the other way round, the tiles themselves decide.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchword.scoring.best import Best, descending, places_within
from patchword.scoring.bounds import Screen
from patchword.scoring.cells import Cells
from patchword.scoring.certified import PAIR_BYTES, bounds_again, score_again
from patchword.scoring.jobs import Found, Job


def open_share(
    k: int,
    by_image: bool,
    sizes: tuple[int, int],
    images: Int[Tensor, " n"],
    captions: Int[Tensor, " m"],
    low: Float[Tensor, "n m"],
    high: Float[Tensor, "n m"],
) -> float:
    """Share of a sample of pairs whose bounds leave open whether they are among the best k of a query."""
    some, total = (len(captions), sizes[1]) if by_image else (len(images), sizes[0])
    among = max(1, round(k * some / total))  # the best k of all are about this many of the sample
    dim = int(by_image)
    least = low.topk(among, dim=dim).values.select(dim, -1).unsqueeze(dim)
    return float((high >= least).float().mean())


def top_screened(
    job: Job, screen: Screen, cells: Cells, k: int, by_image: bool, memory: int, blocks: range, queries: slice
) -> Found:
    """The best items of some queries: images, or the captions at places of the screen.

    Args:
        job: for its progress.
        screen, cells: bounds and scores.
        k: items of a query.
        by_image: whether images are asked with, or captions.
        memory: bytes of bounds that are held at a time.
        blocks, queries: of captions, columns of the screen and their places; of images, ``queries`` alone counts.
    """
    size = queries.stop - queries.start
    asked, others = _candidates(screen, k, by_image, blocks, queries, cells.tiles.image_cuts[-1], memory)
    job.advance(size * (len(screen.captions) if by_image else cells.tiles.image_cuts[-1]))

    def pairs() -> tuple[Tensor, Tensor]:
        if by_image:
            return asked + queries.start, screen.captions[others]
        return others, screen.captions[asked + queries.start]

    narrowed = bounds_again(screen, *pairs())
    if narrowed is not None:
        kept = narrowed.high >= _kth_largest(asked, narrowed.low, k, size)[asked]
        asked, others = asked[kept], others[kept]
    scores, distance = score_again(screen, *pairs())
    kept = scores + distance >= _kth_largest(asked, scores - distance, k, size)[asked]
    asked, others, scores, distance = asked[kept], others[kept], scores[kept], distance[kept]
    near = _near(asked, scores, distance)
    images, captions = pairs()
    scores[near] = cells.values(images[near], captions[near])
    best = Best(size, k)
    best.add(asked, captions if by_image else images, scores)
    return {"items": best.items, "scores": best.scores, "odd": torch.zeros(4, dtype=torch.long)}


def _candidates(
    screen: Screen, k: int, by_image: bool, blocks: range, queries: slice, images: int, memory: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Query and item of the pairs whose upper bound is not below the k-th largest lower bound of their query.

    The items go by in parts. A pair below the k-th largest lower bound so far is below that of all items.
    """
    size, most = queries.stop - queries.start, max(1, memory // PAIR_BYTES)
    if by_image:
        parts = [(queries, columns) for columns in screen.column_groups(max(1, most // size))]
    else:
        step = max(1, most // size)
        parts = [(slice(first, min(first + step, images)), blocks) for first in range(0, images, step)]
    lows = torch.full((size, k), -torch.inf)
    asked, items, highs = (torch.empty(0, dtype=kind) for kind in (torch.long, torch.long, torch.float32))
    for some, columns in parts:
        low, high = screen.strip(some, columns)
        low, high, first = (low, high, screen.caption_cuts[columns.start]) if by_image else (low.T, high.T, some.start)
        lows = torch.cat([lows, low], 1).topk(k, dim=1).values
        rows, places = (high >= lows[:, -1:]).nonzero(as_tuple=True)
        kept = highs >= lows[asked, -1]
        asked, items = torch.cat([asked[kept], rows]), torch.cat([items[kept], places + first])
        highs = torch.cat([highs[kept], high[rows, places]])
    order = torch.argsort(asked, stable=True)  # by query, then by item
    return asked[order], items[order]


def _kth_largest(queries: Int[Tensor, " n"], values: Float[Tensor, " n"], k: int, size: int) -> Float[Tensor, " Q"]:
    """The k-th largest value of each query; each has at least k."""
    order = descending(queries, queries, values)
    queries, values = queries[order], values[order]
    at_k = places_within(queries) == k - 1
    found = torch.full((size,), -torch.inf)
    found[queries[at_k]] = values[at_k]
    return found


def _near(queries: Int[Tensor, " n"], scores: Float[Tensor, " n"], distance: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Entries whose order with another entry of the same query is not certain.

    With d the largest distance of the query, scores more than 2 d apart stand the right way round. Of two that are
    not, all that lie between them are not either, so looking at neighbours is enough.
    """
    order = descending(queries, queries, scores)
    largest = torch.zeros(int(queries.max()) + 1).scatter_reduce(0, queries, distance, "amax")
    queries, scores = queries[order], scores[order]
    touches = (queries[1:] == queries[:-1]) & (scores[:-1] - scores[1:] <= 2.001 * largest[queries[1:]])
    near = torch.zeros(len(queries), dtype=torch.bool)
    near[order[1:][touches]] = True
    near[order[:-1][touches]] = True
    return near
