"""Ranks of the right answers without ever holding a score matrix.

Three integers describe a query, as in ``patchword.evaluate.ranks``: negatives above its best positive, negatives equal
to it, positives equal to it. First the right pairs are scored, which gives every query's boundary; then the tiles go by
and are only counted. The counts are those of the full matrix, bit for bit the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from patchword.methods.base import Method
from patchword.scoring.bounds import Screen, Screened
from patchword.scoring.cells import Cells
from patchword.scoring.certified import count_screened
from patchword.scoring.counts import count_tiles, refuse_odd
from patchword.scoring.jobs import UNITS, Found, Job, Progress, digest, share
from patchword.scoring.matrix import MEMORY, HasMethod
from patchword.scoring.query_ranks import QueryRanks
from patchword.scoring.sweep import Precision, Sweep
from patchword.scoring.tiles import groups_of
from patchword.scoring.truth import Boundaries, RightPairs, Truth
from patchword.types import Encoded


@dataclass(frozen=True)
class StreamedRanks:
    """Ranks in both directions.

    Attributes:
        i2t: one query for each image.
        t2i: one query for each caption.
        screened: what the certified mode did; None in float32.
    """

    i2t: QueryRanks
    t2i: QueryRanks
    screened: Screened | None = None


def ranks(
    model: Method | HasMethod,
    images: Encoded,
    captions: Encoded,
    truth: Truth,
    *,
    precision: Precision = "float32",
    memory: int = MEMORY,
    progress: Progress | None = None,
    folder: Path | str | None = None,
) -> StreamedRanks:
    """Count, for every query of both directions, what scores above and what ties with its best right answer.

    The result is that of ``patchword.evaluate.ranks.rank_scores`` on ``score_matrix``, whatever the precision, memory,
    number of threads and number of processes (``torchrun``: call it with the same sets on each).

    Args:
        model: a model or a method, in evaluation mode.
        images, captions: N and M vector sets; they are scored in float32.
        truth: image of each caption ``(M,)``, a relevance matrix ``(N, M)``, or right pairs as two arrays.
        precision: ``float32`` scores every pair. ``certified`` computes bounds of every score and scores only the
            pairs whose bounds touch a rank boundary; the result is the same, always.
        memory: bytes that may be held besides the sets; tiles of right pairs are kept within it. The certified mode
            holds shortened copies of the sets as well, which are at most about half as large as the sets.
        progress: called with the number of pairs scored or decided since the last call, N x M in all. The tiles of the
            right pairs come first, and those that are kept are not counted again.
        folder: keep finished parts there, and go on with those that are there.

    Raises:
        ScoreError: a score is not finite, a query has no right answer, the memory is too small, the folder belongs to
            another job, or the method has no certified mode.

    Example:
        ``ranks(model, images, captions, split.owner, precision="certified").t2i.pessimistic``
    """
    pairs = RightPairs.of(truth, len(images), len(captions))
    known = digest(pairs.images, pairs.captions)
    sweep = Sweep.open(model, images, captions, precision=precision, memory=memory)
    place = sweep.place(folder, what="ranks", truth=known)
    tiles, cells = sweep.tiles, Cells(sweep.tiles, memory // 2)
    units = groups_of(tiles.image_cuts, -(-len(images) // UNITS))
    boundaries = find_boundaries(sweep.job("right", place, progress), cells, pairs, units)

    job, screen = sweep.job("counts", place, progress), sweep.screen(boundaries.open_share)
    if isinstance(screen, Screen):
        work = partial(count_screened, job, screen, cells, boundaries, units, sweep.bounds_memory)
    else:
        work = partial(count_tiles, job, cells, boundaries, units)
    totals = {
        "i2t": torch.zeros(2, len(images), dtype=torch.long),
        "t2i": torch.zeros(2, len(captions), dtype=torch.long),
        "odd": torch.zeros(len(units), 4, dtype=torch.long),
        "screened": torch.zeros(4, dtype=torch.long),
    }

    def left(unit: int) -> int:
        return tiles.count(units[unit]) * len(captions) - cells.kept_pairs(units[unit])

    for unit, found in job.run(len(units), work, left):
        first = tiles.image_cuts[units[unit].start]
        totals["i2t"][:, first : first + found["i2t"].shape[1]] = found["i2t"]
        totals["t2i"] += found["t2i"]
        totals["screened"] += found["screened"]
        totals["odd"][unit] = found["odd"]
        if found["odd"].any():
            break  # nothing can be ranked: the other processes learn of it when they are done
    share(totals)
    refuse_odd(totals["odd"], len(captions))
    screened = None
    if screen is not None:
        closer, again, near, tiled = (int(count) for count in totals["screened"])
        pairs_of_all, gave_up = len(images) * len(captions), not isinstance(screen, Screen)
        screened = Screened(screen.about, pairs_of_all, closer, again, near, tiled, gave_up)
    i2t, t2i = (
        QueryRanks(part[0].numpy(), part[1].numpy(), ties.numpy())
        for part, ties in zip((totals["i2t"], totals["t2i"]), boundaries.ties(), strict=True)
    )
    return StreamedRanks(i2t, t2i, screened)


def find_boundaries(job: Job, cells: Cells, pairs: RightPairs, units: list[range]) -> Boundaries:
    """Scores of the right pairs, from the tiles they lie in. These are kept as far as there is room.

    The pairs of kept tiles are progress: nothing is left to do for them but counting.
    """
    cuts = cells.tiles.image_cuts

    def members(unit: int) -> slice:
        return pairs.within(slice(cuts[units[unit].start], cuts[units[unit].stop]))

    def work(unit: int) -> Found:
        chosen = members(unit)
        return {"values": cells.values(pairs.images[chosen], pairs.captions[chosen], kept=job.advance)}

    values = torch.zeros(len(pairs.images))
    for unit, found in job.run(len(units), work, lambda unit: 0):
        values[members(unit)] = found["values"]
    share({"values": values.view(torch.int32)})
    return pairs.boundaries(values)
