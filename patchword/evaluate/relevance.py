"""Retrieval with any number of right answers: hit@K, R-precision and mAP@R.

Recall@K of the field looks at the best right answer only. Where a query has many right answers, R-precision and mAP@R
look at as many places as there are right answers. Values are fractions in 0..1.

Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check" (mAP@R); Chun et al., "ECCV Caption" (its use here).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, as_array, check_matrix, refuse_non_finite
from patchword.evaluate.ranks import rank_scores
from patchword.scoring.query_ranks import QueryRanks
from patchword.scoring.truth import RightPairs, Truth

Ties = Literal["pessimistic", "optimistic"]


@dataclass(frozen=True)
class DirectionRelevance:
    """Means over the queries of one direction, as fractions.

    Attributes:
        hit: cut-off K -> share of queries with at least one right answer among the first K.
        map_at_r: mean of (1/R) * sum over the first R places with a right answer of the precision up to there.
        r_precision: mean share of right answers among the first R places, R the number of right answers of the query.
        tied: queries whose best right answer ties with a wrong one.
    """

    hit: dict[int, float]
    map_at_r: float
    r_precision: float
    tied: int

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision, ``r1`` for hit@1."""
        hits = {f"r{k}": value for k, value in self.hit.items()}
        return {**hits, "map_at_r": self.map_at_r, "r_precision": self.r_precision, "tied": self.tied}


@dataclass(frozen=True)
class RelevanceReport:
    """Both directions.

    Attributes:
        i2t: image -> text.
        t2i: text -> image.
    """

    i2t: DirectionRelevance
    t2i: DirectionRelevance

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return {"i2t": self.i2t.to_json(), "t2i": self.t2i.to_json()}


def relevance_report(
    scores: ScoreMatrix,
    truth: Truth,
    *,
    k: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    allow_pruned: bool = False,
    chunk_cells: int = CHUNK_CELLS,
) -> RelevanceReport:
    """Evaluate both directions against general relevance.

    hit@K = mean(rank of the best right answer < K)
    R-precision = mean(right answers in the first R / R)
    mAP@R = mean((1/R) * sum over p <= R of [place p is right] * precision@p)

    Args:
        scores: ``(N, M)``, larger is better.
        truth: a relevance matrix ``(N, M)``, pairs, or the image of each caption.
        k: cut-offs of hit@K.
        ties: whether wrong answers that tie with a right one come before it (the headline) or after it.
        allow_pruned: accept -inf, except at the best positive, as "not scored".
        chunk_cells: cells handled in one go; changes memory, never the result.

    Raises:
        ScoreError: sizes differ, a value is not finite, or a query has no right answer.

    Example:
        >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7]])
        >>> truth = np.array([[True, False, True], [False, True, True]])
        >>> report = relevance_report(scores, truth, k=(1,))
        >>> report.i2t.hit, report.i2t.map_at_r, report.i2t.r_precision
        ({1: 1.0}, 0.75, 0.75)
    """
    n_images, n_captions = check_matrix(scores)
    pairs = RightPairs.of(truth, n_images, n_captions)
    images, captions = pairs.arrays
    refuse_non_finite(scores, allow_pruned=allow_pruned, chunk_cells=chunk_cells)
    ranks = rank_scores(scores, pairs, allow_pruned=allow_pruned, chunk_cells=chunk_cells)
    by_caption = np.argsort(captions, kind="stable")
    i2t = _rows(scores, captions, pairs.per_image(), chunk_cells)
    t2i = _rows(scores.T, images[by_caption], pairs.per_caption(), chunk_cells)
    return RelevanceReport(_direction(ranks.i2t, i2t, k, ties), _direction(ranks.t2i, t2i, k, ties))


def _rows(
    scores: ScoreMatrix, members: Int[np.ndarray, " P"], counts: Int[np.ndarray, " Q"], chunk_cells: int
) -> Iterator[tuple[Shaped[np.ndarray, " candidates"], Int[np.ndarray, " R"]]]:
    """Scores of one query at a time, with the positions of its right answers."""
    ends = np.cumsum(counts)
    rows = max(1, chunk_cells // int(scores.shape[1]))
    for start in range(0, len(counts), rows):
        block = np.ascontiguousarray(as_array(scores[start : start + rows]))  # (rows, candidates)
        for query, row in enumerate(block, start):
            yield row, members[ends[query] - counts[query] : ends[query]]


def _direction(
    ranks: QueryRanks,
    rows: Iterator[tuple[Shaped[np.ndarray, " candidates"], Int[np.ndarray, " R"]]],
    k: Sequence[int],
    ties: Ties,
) -> DirectionRelevance:
    """Average the three metrics over the queries."""
    best = ranks.pessimistic if ties == "pessimistic" else ranks.optimistic
    sums = np.zeros(2)
    for row, right in rows:
        sums += average_precision(places_of_positives(row, right, ties=ties), len(right))
    map_at_r, r_precision = sums / len(ranks)
    hit = {cut: float(np.mean(best < cut)) for cut in k}
    return DirectionRelevance(hit, float(map_at_r), float(r_precision), ranks.tied)


def average_precision(places: Int[np.ndarray, " P"], listed: int) -> tuple[float, float]:
    """mAP@R and R-precision of one query, as fractions.

    mAP@R = (1/R) * sum over the i-th right answer (from 1) in the first R places of i / (its place, from 1)

    Args:
        places: 0-based places of its right answers, ascending.
        listed: R, at least ``len(places)``; more when right answers are missing from the gallery.

    Example:
        >>> average_precision(np.array([0, 2]), 2)
        (0.5, 0.5)
    """
    inside = places < listed
    precision = np.arange(1, len(places) + 1) / (places + 1)
    return float(precision[inside].sum()) / listed, float(inside.sum()) / listed


def places_of_positives(
    row: Shaped[np.ndarray, " candidates"],
    right: Int[np.ndarray, " R"],
    *,
    ties: Ties = "pessimistic",
    is_candidate: Bool[np.ndarray, " candidates"] | None = None,
) -> Int[np.ndarray, " R"]:
    """0-based places, ascending, of the right answers of one query.

    place of the i-th best right answer = i + #{wrong answers above it (or equal to it, when pessimistic)}

    Args:
        row: scores of all candidates.
        right: positions of the right answers, all different.
        ties: on which side of a right answer the wrong ones with the same score come.
        is_candidate: False at what is not ranked (a query among its own candidates); everything is by default.

    Example:
        >>> places_of_positives(np.array([0.9, 0.5, 0.5, 0.1]), np.array([3, 1])).tolist()
        [2, 3]
        >>> places_of_positives(np.array([0.9, 0.5, 0.5, 0.1]), np.array([3, 1]), ties="optimistic").tolist()
        [1, 3]
    """
    is_wrong = np.ones(len(row), dtype=bool) if is_candidate is None else is_candidate.copy()
    is_wrong[right] = False
    best_first = np.sort(row[right])[::-1]
    wrong = row[is_wrong]
    wrong = np.sort(wrong[wrong >= best_first[-1]])  # only these can come before a right answer
    side: Literal["left", "right"] = "left" if ties == "pessimistic" else "right"
    above: Float[np.ndarray, " R"] | Int[np.ndarray, " R"] = len(wrong) - np.searchsorted(wrong, best_first, side=side)
    return above + np.arange(len(right))
