"""The best captions of every image, or the best images of every caption, without ever holding a score matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.errors import ScoreError
from patchword.methods.base import Method
from patchword.scoring.best import Best
from patchword.scoring.bounds import Screen
from patchword.scoring.cells import Cells
from patchword.scoring.certified_top_k import open_share, top_screened
from patchword.scoring.counts import note_odd, refuse_odd
from patchword.scoring.jobs import UNITS, Found, Job, Progress, share
from patchword.scoring.matrix import MEMORY, HasMethod, require_one_of
from patchword.scoring.sweep import Precision, Sweep
from patchword.scoring.tiles import Tiles, cuts_of, groups_of
from patchword.types import Encoded

_CAPTIONS, _IMAGES = 1024, 256  # that are looked at together, at least
_SCREENED = 32  # images that are screened together


@dataclass(frozen=True)
class TopK:
    """The k best items of each of Q queries, best first; of equal scores the item that comes first.

    Attributes:
        items: captions of each image, or images of each caption.
        scores: float32.
    """

    items: Int[Tensor, "Q k"]
    scores: Float[Tensor, "Q k"]


def top_k(
    model: Method | HasMethod,
    images: Encoded,
    captions: Encoded,
    k: int,
    *,
    queries: Literal["images", "captions"] = "images",
    precision: Precision = "float32",
    memory: int = MEMORY,
    progress: Progress | None = None,
    folder: Path | str | None = None,
) -> TopK:
    """The k best captions of every image (``queries="images"``) or the k best images of every caption.

    The items are those of sorting ``score_matrix``, whatever the precision, memory, number of threads and processes.
    The scores are its scores bit for bit, but in the certified mode only to the rounding of float32.

    Args:
        model: a model or a method, in evaluation mode.
        images, captions: N and M vector sets; they are scored in float32.
        k: a whole number, at least 1; cut to the number of items there are.
        queries: what is asked with.
        precision: ``certified`` computes bounds of every score and scores only pairs that may be among the best.
        memory, progress, folder: as for ``ranks``.

    Raises:
        ScoreError: k is no whole number, or below 1, a score is not finite, the memory is too small, the folder belongs
            to another job, or the method has no certified mode.
    """
    if not isinstance(k, Integral) or k < 1:
        raise ScoreError(f"the best {k!r} were asked for. Expected a whole number, at least 1.")
    require_one_of("queries", queries, ("images", "captions"))
    by_image = queries == "images"
    k = min(k, len(captions) if by_image else len(images))
    sweep = Sweep.open(model, images, captions, precision=precision, memory=memory)
    tiles = sweep.tiles
    screen = sweep.screen(partial(open_share, k, by_image, (len(images), len(captions))))
    if isinstance(screen, Screen):
        cuts, places = cuts_of(len(images), _SCREENED) if by_image else screen.caption_cuts, screen.captions
    else:
        cuts, places = tiles.image_cuts if by_image else tiles.caption_cuts, tiles.captions
    asked = torch.arange(len(images)) if by_image else places
    # Which queries lie in which part depends on the screen that was chosen.
    place = sweep.place(folder, torch.as_tensor(cuts), asked, what="top_k", queries=queries, k=k)
    job = sweep.job("top", place, progress)
    if isinstance(screen, Screen):
        find = partial(top_screened, job, screen, Cells(tiles, 0), k, by_image, sweep.bounds_memory)
    else:
        find = partial(_top_scored, job, tiles, k, by_image)
    # Screened captions are scored again image by image, which is slow for few captions at a time.
    units = groups_of(cuts, -(-len(asked) // (UNITS if screen is None or by_image else max(1, UNITS // 4))))
    items, scores = torch.zeros(len(asked), k, dtype=torch.long), torch.zeros(len(asked), k)
    odd = torch.zeros(len(units), 4, dtype=torch.long)
    pairs_of_query = len(captions) if by_image else len(images)

    def queries_of(unit: int) -> slice:
        return slice(cuts[units[unit].start], cuts[units[unit].stop])

    def pairs(unit: int) -> int:
        return len(asked[queries_of(unit)]) * pairs_of_query

    for unit, found in job.run(len(units), lambda unit: find(units[unit], queries_of(unit)), pairs):
        mine = asked[queries_of(unit)]
        items[mine], scores[mine], odd[unit] = found["items"], found["scores"], found["odd"]
    share({"items": items, "scores": scores.view(torch.int32), "odd": odd})
    refuse_odd(odd, len(captions))
    return TopK(items, scores)


def _top_scored(job: Job, tiles: Tiles, k: int, by_image: bool, blocks: range, queries: slice) -> Found:
    """The best items of some queries (those of a few blocks of the grid), from the scores of all their pairs."""
    best, odd = Best(queries.stop - queries.start, k), torch.zeros(4, dtype=torch.long)
    cuts = tiles.image_cuts if by_image else tiles.caption_cuts
    for group in groups_of(tiles.caption_cuts, _CAPTIONS) if by_image else groups_of(tiles.image_cuts, _IMAGES):
        for block in blocks:
            rows, columns = (range(block, block + 1), group) if by_image else (group, range(block, block + 1))
            scores = torch.cat([torch.cat([tiles.tile(r, c).cpu() for c in columns], 1) for r in rows])
            images = torch.arange(tiles.image_cuts[rows.start], tiles.image_cuts[rows.stop])
            captions = tiles.captions[tiles.caption_cuts[columns.start] : tiles.caption_cuts[columns.stop]]
            note_odd(odd, scores, int(images[0]), captions, len(tiles.captions))
            first = cuts[block] - queries.start
            best.add_block(first, captions if by_image else images, scores if by_image else scores.T)
            job.advance(scores.numel())
    return {"items": best.items, "scores": best.scores, "odd": odd}
