"""Recall@K, median and mean rank, rsum: the numbers of the field, with ties stated three ways.

Recall@K here is what image-text papers print: the percentage of queries with AT LEAST ONE right answer among the first
K (hit rate). With five captions an image it is not the share of right answers found.

Source: the evaluators of SCAN, VSE-infinity and CHAN agree with these definitions on scores without ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from patchword.errors import ScoreError
from patchword.evaluate.ranks import Ranks
from patchword.scoring.query_ranks import QueryRanks
from patchword.scoring.truth import RightPairs

DEFINITION = "R@K = % of queries with at least one right answer in the first K; negatives that tie rank first"

# The thirteen numbers of one evaluation, in the order in which the field's logs hold them.
COLUMNS = (
    *(f"i2t_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")),
    *(f"t2i_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")),
    "i2t_mean_recall",
    "t2i_mean_recall",
    "rsum",
)

# Optimistic and pessimistic R@1 further apart than this, in points, deserve a warning.
TIE_GAP = 0.1


@dataclass(frozen=True)
class DirectionRecall:
    """Recall of one direction.

    Attributes:
        r1: recall@1 in percent: queries with a right answer first.
        r5: recall@5 in percent.
        r10: recall@10 in percent.
        medr: floor of the median 0-based rank, plus 1; None where ranks are random variables.
        meanr: mean 0-based rank, plus 1.
    """

    r1: float
    r5: float
    r10: float
    medr: float | None
    meanr: float

    @property
    def mean_recall(self) -> float:
        """Mean of the three recalls."""
        return (self.r1 + self.r5 + self.r10) / 3

    @property
    def recalls(self) -> tuple[float, float, float]:
        """r1, r5, r10."""
        return self.r1, self.r5, self.r10

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        """r1, r5, r10, medr (NaN for None), meanr."""
        return *self.recalls, float("nan") if self.medr is None else self.medr, self.meanr

    def cells(self, *, unknown: str = "-") -> tuple[str, str, str, str]:
        """R@1, R@5, R@10 with one decimal and the median rank, as tables show them.

        Args:
            unknown: stands for a median rank that is not known.

        Example:
            >>> DirectionRecall(12.34, 50.0, 100.0, 6.0, 7.2).cells()
            ('12.3', '50.0', '100.0', '6')
        """
        r1, r5, r10 = (f"{recall:.1f}" for recall in self.recalls)
        return r1, r5, r10, unknown if self.medr is None else f"{self.medr:g}"


@dataclass(frozen=True)
class RecallTable:
    """Recall of both directions.

    Attributes:
        i2t: image -> text, the queries are images.
        t2i: text -> image, the queries are captions.
    """

    i2t: DirectionRecall
    t2i: DirectionRecall

    @property
    def rsum(self) -> float:
        """Sum of the six recalls, 0 to 600."""
        return self.i2t.r1 + self.i2t.r5 + self.i2t.r10 + self.t2i.r1 + self.t2i.r5 + self.t2i.r10

    @property
    def columns(self) -> Float[np.ndarray, " 13"]:
        """The numbers named by ``COLUMNS``."""
        sums = (self.i2t.mean_recall, self.t2i.mean_recall, self.rsum)
        return np.array([*self.i2t.numbers, *self.t2i.numbers, *sums])

    def cells(self, *, unknown: str = "-") -> list[str]:
        """The nine cells of a row: those of both directions, and rsum with one decimal."""
        return [*self.i2t.cells(unknown=unknown), *self.t2i.cells(unknown=unknown), f"{self.rsum:.1f}"]

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return {
            "i2t": asdict(self.i2t),
            "t2i": asdict(self.t2i),
            "i2t_mean_recall": self.i2t.mean_recall,
            "t2i_mean_recall": self.t2i.mean_recall,
            "rsum": self.rsum,
        }


@dataclass(frozen=True)
class RecallReport:
    """Recall with ties broken against, for and at random, and how many queries have one.

    Attributes:
        pessimistic: ties broken against the right answer. The headline.
        optimistic: ties broken in its favour.
        expected: mean over random tie breaking, in closed form.
        tied_i2t: images whose best caption ties with a wrong one.
        tied_t2i: captions whose best image ties with a wrong one.
    """

    pessimistic: RecallTable
    optimistic: RecallTable
    expected: RecallTable
    tied_i2t: int
    tied_t2i: int

    @property
    def tie_gap(self) -> float:
        """Optimistic minus pessimistic R@1, the larger of the two directions, in points."""
        best, worst = self.optimistic, self.pessimistic
        return max(best.i2t.r1 - worst.i2t.r1, best.t2i.r1 - worst.t2i.r1)

    @property
    def ties_matter(self) -> bool:
        """Whether the way ties are broken moves R@1 by more than 0.1 point."""
        return self.tie_gap > TIE_GAP

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        tables = {name: getattr(self, name).to_json() for name in ("pessimistic", "optimistic", "expected")}
        return {**tables, "ties": {"i2t": self.tied_i2t, "t2i": self.tied_t2i, "r1_gap": self.tie_gap}}


def recall_at_k(ranks: Shaped[np.ndarray, " Q"], k: int) -> float:
    """Percentage of queries whose best right answer is among the first k (hit rate).

    R@K = 100 * mean(rank < K)

    Args:
        ranks: 0-based rank of the best right answer of each query.
        k: cut-off, at least 1.

    Example:
        >>> recall_at_k(np.array([0, 4, 5, 9]), 5)
        50.0
    """
    return 100.0 * float(np.mean(ranks < k))


def hit_probability(ranks: QueryRanks, k: int) -> Float[np.ndarray, " Q"]:
    """Chance that a right answer is among the first k of each query when ties are broken at random.

    P = 1 - C(e, d) / C(e + m, d)  with  d = min(k - g, e + m);  P = 0 where k <= g

    Args:
        ranks: g, e and m of Q queries.
        k: cut-off, at least 1.

    Returns:
        Fractions; 0 or 1 for a query without a tie.

    Example:
        >>> one = QueryRanks(np.array([0]), np.array([2]), np.array([1]))  # three candidates tie for the first place
        >>> hit_probability(one, 2).round(4).tolist()
        [0.6667]
    """
    tied = ranks.equal + ranks.positives
    drawn = np.clip(k - ranks.greater, 0, tied)
    miss = np.ones(len(ranks))
    for i in range(k):  # C(e, d) / C(e + m, d) as a product of d quotients
        quotient = np.maximum(ranks.equal - i, 0) / np.maximum(tied - i, 1)
        miss *= np.where(i < drawn, quotient, 1.0)
    return 1.0 - miss


def recall_report(ranks: Ranks) -> RecallReport:
    """Turn ranks into the numbers of the field.

    Args:
        ranks: of both directions.

    Example:
        >>> from patchword.evaluate.ranks import rank_scores
        >>> scores = np.array([[0.9, 0.8, 0.1, 0.2], [0.3, 0.85, 0.7, 0.6]])
        >>> report = recall_report(rank_scores(scores, np.array([0, 0, 1, 1])))
        >>> report.pessimistic.i2t.r1, report.pessimistic.t2i.r1, report.pessimistic.rsum
        (50.0, 75.0, 525.0)
    """
    return RecallReport(
        pessimistic=RecallTable(_of_ranks(ranks.i2t.pessimistic), _of_ranks(ranks.t2i.pessimistic)),
        optimistic=RecallTable(_of_ranks(ranks.i2t.optimistic), _of_ranks(ranks.t2i.optimistic)),
        expected=RecallTable(_of_chances(ranks.i2t), _of_chances(ranks.t2i)),
        tied_i2t=ranks.i2t.tied,
        tied_t2i=ranks.t2i.tied,
    )


def chance(owner: Int[np.ndarray, " M"], n_images: int | None = None, *, folds: int = 1) -> RecallTable:
    """Recall that random scores get on average, in closed form: what a result is to be compared with.

    P(hit@K) = 1 - C(n - m, K) / C(n, K)  for a query with m right answers among n candidates

    Args:
        owner: image of each caption.
        n_images: N; by default the largest owner plus 1.
        folds: number of consecutive blocks of N / folds images whose recalls are averaged.

    Returns:
        Recalls and mean rank; the median rank is left out.

    Raises:
        ScoreError: an image has no caption, or N is not a multiple of ``folds``.

    Example:
        >>> round(chance(np.arange(5000) // 5).rsum, 1)
        3.2
    """
    n = int(owner.max()) + 1 if n_images is None else n_images
    if folds < 1 or n % folds:
        raise ScoreError(f"{n} images can not be cut into {folds} equal folds.")
    size, tables = n // folds, []
    for fold in range(folds):
        part = owner[owner // size == fold] - fold * size
        per_image = RightPairs.of(part, size, len(part)).per_image()
        i2t = QueryRanks(np.zeros_like(per_image), len(part) - per_image, per_image)
        ones = np.ones(len(part), dtype=np.int64)
        t2i = QueryRanks(np.zeros_like(ones), ones * (size - 1), ones)
        tables.append(RecallTable(_of_chances(i2t), _of_chances(t2i)))
    return mean_table(tables)


def mean_table(tables: Sequence[RecallTable]) -> RecallTable:
    """Arithmetic mean of every number; nothing is floored again, so a mean of medians may be fractional."""
    return RecallTable(_mean([t.i2t for t in tables]), _mean([t.t2i for t in tables]))


def _mean(parts: Sequence[DirectionRecall]) -> DirectionRecall:
    r1, r5, r10, medr, meanr = (float(x) for x in np.mean([p.numbers for p in parts], axis=0))
    return DirectionRecall(r1, r5, r10, None if any(p.medr is None for p in parts) else medr, meanr)


def _of_ranks(ranks: Int[np.ndarray, " Q"]) -> DirectionRecall:
    r1, r5, r10 = (recall_at_k(ranks, k) for k in (1, 5, 10))
    return DirectionRecall(r1, r5, r10, float(np.floor(np.median(ranks)) + 1), float(ranks.mean() + 1))


def _of_chances(ranks: QueryRanks) -> DirectionRecall:
    r1, r5, r10 = (100.0 * float(hit_probability(ranks, k).mean()) for k in (1, 5, 10))
    return DirectionRecall(r1, r5, r10, None, float(ranks.expected.mean() + 1))
