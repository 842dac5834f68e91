"""Ranks of the right answers in a score matrix, by counting and with ties kept apart.

Three integers describe a query: g negatives strictly above its best positive, e negatives equal to it, m positives
equal to it. Every recall follows from them, whichever way ties are meant to be broken, and the order of rows and
columns can not matter. Nothing is sorted: one pass over the matrix serves both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from patchword.errors import ScoreError
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, cells_of, check_matrix, refuse_non_finite, row_blocks
from patchword.scoring.query_ranks import QueryRanks
from patchword.scoring.truth import RightPairs, Truth

# Columns are counted in unsigned bytes within a block of rows, so a block has at most 255 rows.
_BYTE = 255


@dataclass(frozen=True)
class Ranks:
    """Ranks in both directions.

    Attributes:
        i2t: image -> text, one query for each image.
        t2i: text -> image, one query for each caption.
        pruned: cells with -inf that were accepted as "not scored".
    """

    i2t: QueryRanks
    t2i: QueryRanks
    pruned: int = 0


def rank_scores(
    scores: ScoreMatrix, truth: Truth, *, allow_pruned: bool = False, chunk_cells: int = CHUNK_CELLS
) -> Ranks:
    """Count, for every query of both directions, what scores above and what ties with its best right answer.

    g = #{negatives > best positive}, e = #{negatives = best positive}, m = #{positives = best positive}

    Args:
        scores: ``(N, M)``, larger is better, compared in the dtype they come in.
        truth: the image of each caption ``(M,)``, a relevance matrix ``(N, M)``, or pairs.
        allow_pruned: accept -inf, except at a positive, as "not scored".
        chunk_cells: cells compared in one go; changes memory, never the result.

    Returns:
        Exact integers for N images and M captions.

    Raises:
        ScoreError: sizes differ, a value is not finite, a positive was pruned, or a query has no right answer.

    Memory: about ``2 * chunk_cells`` bytes beyond the matrix.  Time: 0.3 s for 5,000 x 25,000 float32 on one core.

    Example:
        >>> ranks = rank_scores(np.array([[0.9, 0.5, 0.5], [0.1, 0.7, 0.5]]), np.array([0, 1, 1]))
        >>> ranks.i2t.greater.tolist(), ranks.t2i.greater.tolist(), ranks.t2i.equal.tolist()
        ([0, 0], [0, 0, 0], [0, 0, 1])
    """
    n_images, n_captions = check_matrix(scores)
    images, captions = RightPairs.of(truth, n_images, n_captions).arrays
    non_finite = refuse_non_finite(scores, allow_pruned=allow_pruned, chunk_cells=chunk_cells)
    values = cells_of(scores, images, captions)  # (P,)
    if non_finite.minus_inf:
        _refuse_pruned_positives(values, images, captions)
    best_caption, i2t_ties = _best_of_groups(values, images, n_images)  # (N,), (N,)
    best_image, t2i_ties = _best_of_groups(values, captions, n_captions)  # (M,), (M,)

    i2t = np.zeros((2, n_images), dtype=np.int64)  # above, equal
    t2i = np.zeros((2, n_captions), dtype=np.int64)
    for rows, block in row_blocks(scores, chunk_cells, most=_BYTE):
        row_best = best_caption[rows, None]  # (rows, 1)
        i2t[0, rows] = np.count_nonzero(block > row_best, axis=1)
        i2t[1, rows] = np.count_nonzero(block == row_best, axis=1)
        t2i[0] += _count_columns(block > best_image)
        t2i[1] += _count_columns(block == best_image)
    # No positive is above the best one, and m of the equal cells are positives.
    return Ranks(
        QueryRanks(i2t[0], i2t[1] - i2t_ties, i2t_ties),
        QueryRanks(t2i[0], t2i[1] - t2i_ties, t2i_ties),
        non_finite.minus_inf,
    )


def _best_of_groups(
    values: Shaped[np.ndarray, " P"], groups: Int[np.ndarray, " P"], size: int
) -> tuple[Shaped[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Largest value of each of ``size`` groups, none of them empty, and how many values of the group equal it."""
    order = np.argsort(groups, kind="stable")  # of the positives only
    grouped, members = values[order], groups[order]
    starts = np.searchsorted(members, np.arange(size))
    best = np.maximum.reduceat(grouped, starts)
    ties = np.add.reduceat((grouped == best[members]).astype(np.int64), starts)
    return best, ties


def _count_columns(mask: Bool[np.ndarray, "rows M"]) -> Int[np.ndarray, " M"]:
    """Number of True in each column of at most 255 rows."""
    counts: np.ndarray = np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8)
    return counts.astype(np.int64)


def _refuse_pruned_positives(
    values: Shaped[np.ndarray, " P"], images: Int[np.ndarray, " P"], captions: Int[np.ndarray, " P"]
) -> None:
    """A right pair that was not scored has no rank."""
    bad = np.flatnonzero(values == -np.inf)
    if len(bad):
        row, column = int(images[bad[0]]), int(captions[bad[0]])
        raise ScoreError(
            f"{len(bad):,} right pairs have the score -inf (not scored), the first at row {row}, column {column}. "
            "Expected every right pair to be scored: score them, or evaluate without pruning."
        )
