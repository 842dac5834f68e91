"""Evaluation in consecutive folds, as COCO 1K is defined: five blocks of 1,000 images, every number averaged.

A fold is a diagonal block of the whole matrix. That equals scoring the fold alone only for a method whose score of a
pair does not depend on the other items of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from patchword.errors import ScoreError
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, check_matrix
from patchword.evaluate.ranks import Ranks, rank_scores
from patchword.evaluate.recall import COLUMNS, RecallReport, mean_table, recall_report
from patchword.scoring.truth import RightPairs


@dataclass(frozen=True)
class FoldReport:
    """Recall of every fold and their mean.

    Attributes:
        folds: one report a fold, in order.
        mean: arithmetic mean of every number; tied queries are added up.
        ranks: those of every fold.
    """

    folds: tuple[RecallReport, ...]
    mean: RecallReport
    ranks: tuple[Ranks, ...]

    @property
    def numbers(self) -> Float[np.ndarray, "folds 13"]:
        """Pessimistic numbers, one row a fold, columns as named by ``recall.COLUMNS``."""
        return np.stack([fold.pessimistic.columns for fold in self.folds])

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return {"columns": list(COLUMNS), "per_fold": self.numbers.tolist(), "count": len(self.folds)}


def fold_parts(
    owner: Int[np.ndarray, " M"], n_images: int, folds: int
) -> list[tuple[slice, slice | Int[np.ndarray, " m"]]]:
    """Rows and columns of every fold: consecutive blocks of images, without shuffling, and their captions.

    Args:
        owner: image of each caption.
        n_images: N, a multiple of ``folds``.
        folds: number of blocks.

    Returns:
        For each fold the slice of images and its captions: a slice when they are consecutive, else their positions.

    Raises:
        ScoreError: N is not a multiple of ``folds``.

    Example:
        >>> fold_parts(np.array([0, 0, 1, 1]), 2, 2)
        [(slice(0, 1, None), slice(0, 2, None)), (slice(1, 2, None), slice(2, 4, None))]
    """
    if folds < 1 or n_images % folds:
        raise ScoreError(
            f"{n_images} images can not be cut into {folds} equal folds. Expected a multiple of {folds}; use the "
            "protocol generic for one evaluation over all of them."
        )
    size = n_images // folds
    parts: list[tuple[slice, slice | np.ndarray]] = []
    for fold in range(folds):
        columns = np.flatnonzero(owner // size == fold)
        consecutive = len(columns) > 0 and columns[-1] - columns[0] + 1 == len(columns)
        span = slice(int(columns[0]), int(columns[-1]) + 1) if consecutive else columns
        parts.append((slice(fold * size, (fold + 1) * size), span))
    return parts


def recall_by_fold(
    scores: ScoreMatrix,
    owner: Int[np.ndarray, " captions"],
    folds: int,
    *,
    allow_pruned: bool = False,
    chunk_cells: int = CHUNK_CELLS,
) -> FoldReport:
    """Evaluate consecutive blocks of images with their captions, and average every number over the blocks.

    Args:
        scores: ``(N, M)``.
        owner: image of each caption.
        folds: number of blocks; N is a multiple of it.
        allow_pruned: as for ``rank_scores``.
        chunk_cells: as for ``rank_scores``.

    Raises:
        ScoreError: N is not a multiple of ``folds``, or a block can not be ranked.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.2, 0.3]])
        >>> recall_by_fold(scores, np.array([0, 1]), 2).mean.pessimistic.rsum
        600.0
    """
    n_images, n_captions = check_matrix(scores)
    RightPairs.of(owner, n_images, n_captions)  # sizes and range, before anything is cut
    ranked = []
    for images, captions in fold_parts(owner, n_images, folds):
        block = scores[images][:, captions]
        truth = owner[captions] - images.start
        ranked.append(rank_scores(block, truth, allow_pruned=allow_pruned, chunk_cells=chunk_cells))
    return fold_report(ranked)


def fold_report(ranks: Sequence[Ranks]) -> FoldReport:
    """Recall of every fold and their mean, from the ranks of every fold."""
    reports = [recall_report(one) for one in ranks]
    return FoldReport(tuple(reports), _mean_report(reports), tuple(ranks))


def _mean_report(reports: list[RecallReport]) -> RecallReport:
    """Average the tables and add up the ties."""
    return RecallReport(
        pessimistic=mean_table([r.pessimistic for r in reports]),
        optimistic=mean_table([r.optimistic for r in reports]),
        expected=mean_table([r.expected for r in reports]),
        tied_i2t=sum(r.tied_i2t for r in reports),
        tied_t2i=sum(r.tied_t2i for r in reports),
    )
