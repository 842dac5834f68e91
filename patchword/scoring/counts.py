"""Counting what lies above and at the boundaries of the queries, tile by tile."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchword.errors import ScoreError
from patchword.scoring.cells import Cells
from patchword.scoring.jobs import Found, Job
from patchword.scoring.tiles import groups_of
from patchword.scoring.truth import Boundaries

_GROUP = 1024  # captions that are counted together, at least
_BYTE = 255  # rows whose True are counted in a byte


def count_tiles(job: Job, cells: Cells, boundaries: Boundaries, units: list[range], unit: int) -> Found:
    """Score every pair of a unit (neighbouring rows of tiles) in float32, and count.

    Returns:
        ``i2t`` (2, n): captions above the best right one of each image of the unit, and wrong ones equal to it; ``t2i``
        (2, M): likewise the images of the unit for each caption; ``odd`` (4,): see ``refuse_odd``; ``screened`` (4,):
        ``closer``, ``again``, ``near`` and ``tiled`` of ``Screened``.
    """
    tiles, rows = cells.tiles, units[unit]
    first, size = tiles.image_cuts[rows.start], tiles.count(rows)
    i2t = torch.zeros(2, size, dtype=torch.long)
    t2i = torch.zeros(2, len(tiles.captions), dtype=torch.long)
    odd = torch.zeros(4, dtype=torch.long)
    for columns in groups_of(tiles.caption_cuts, _GROUP):
        chosen = tiles.captions[tiles.caption_cuts[columns.start] : tiles.caption_cuts[columns.stop]]
        best_image = boundaries.captions[chosen]
        for row in rows:
            block = tiles.images_of(row)
            scores = cells.group(row, columns)
            note_odd(odd, scores, block.start, chosen, len(tiles.captions))
            best_caption = boundaries.images[block][:, None]
            mine = slice(block.start - first, block.stop - first)
            i2t[0, mine] += (scores > best_caption).sum(1)
            i2t[1, mine] += (scores == best_caption).sum(1)
            t2i[0, chosen] += count_columns(scores > best_image)
            t2i[1, chosen] += count_columns(scores == best_image)
            job.advance(scores.numel() - cells.kept_pairs(range(row, row + 1), columns))
    # No right pair is above the best one, and the right pairs that equal it are not negatives.
    ties_of_images, ties_of_captions = boundaries.ties(slice(first, first + size))
    i2t[1] -= ties_of_images[first : first + size]
    t2i[1] -= ties_of_captions
    return {"i2t": i2t, "t2i": t2i, "odd": odd, "screened": torch.tensor([0, 0, 0, size * len(tiles.captions)])}


def count_columns(mask: Bool[Tensor, "n m"]) -> Int[Tensor, " m"]:
    """Number of True in each column; counted in bytes, which is three times faster than in long integers."""
    parts = [part.view(torch.uint8).sum(0, dtype=torch.uint8) for part in mask.split(_BYTE)]
    return torch.stack(parts).sum(0, dtype=torch.long)


def note_odd(
    odd: Int[Tensor, " 4"],
    scores: Float[Tensor, "n m"],
    first_image: int,
    captions: Int[Tensor, " m"],
    n_captions: int,
) -> None:
    """Remember the scores of a tile that are not finite."""
    finite = torch.isfinite(scores)
    if finite.all():
        return
    row, column = (int(k) for k in (~finite).nonzero()[0])
    if not odd.any():
        odd[3] = 1 + (first_image + row) * n_captions + int(captions[column])
    odd[0] += scores.isnan().sum()
    odd[1] += scores.isposinf().sum()
    odd[2] += scores.isneginf().sum()


def refuse_odd(odd: Int[Tensor, "U 4"], n_captions: int) -> None:
    """Refuse scores that can not be ranked.

    Args:
        odd: for each unit how many scores are NaN, +inf and -inf, and 1 + the number of one such pair.
        n_captions: M, by which pairs are numbered.

    Raises:
        ScoreError: there are any.
    """
    if not odd.any():
        return
    nan, plus, minus = (int(count) for count in odd[:, :3].sum(0))
    image, caption = divmod(int(odd[:, 3][odd[:, 3] > 0].min()) - 1, n_captions)
    raise ScoreError(
        f"{nan + plus + minus:,} scores are not finite so far ({nan:,} NaN, {plus:,} +inf, {minus:,} -inf), one of "
        f"them for image {image}, caption {caption}. Expected finite numbers: such scores have no ranks. Look for a "
        "diverged model, an all-zero embedding or an overflow in half precision, and score again."
    )
