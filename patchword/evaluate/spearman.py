"""Spearman's rank correlation, and the bootstrap of CxC that lets every item count once.

Source: Parekh et al., "Crisscrossed Captions" (EACL 2021), section on correlation; the choice of the query column and
of the seed are ours, see docs/evaluate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from patchword.errors import ScoreError


def average_ranks(values: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1; equal values share the mean of their ranks.

    Example:
        >>> average_ranks(np.array([0.5, 0.1, 0.5])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: np.ndarray = (last - (counts - 1) / 2)[group.reshape(-1)]
    return mean


def spearman(a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"]) -> float:
    """Correlation of the average ranks of two lists; NaN when one of them is constant.

    Example:
        >>> spearman(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.5
        >>> spearman(np.array([1, 2, 3]), np.array([7, 7, 7]))
        nan
    """
    x, y = (average_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


@dataclass(frozen=True)
class Correlation:
    """Agreement of model scores with human ratings.

    Attributes:
        rounds: rho of every bootstrap round.
        all_rows: rho over all pairs at once.
        pairs: number of rated pairs.
        queries: number of different items in the first column.
    """

    rounds: Float[np.ndarray, " b"]
    all_rows: float
    pairs: int
    queries: int

    @property
    def mean(self) -> float:
        """Mean of the rounds; NaN when a round has none."""
        return float(self.rounds.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the rounds (divided by their number)."""
        return float(self.rounds.std())

    @property
    def is_defined(self) -> bool:
        """Whether every round has a correlation."""
        return bool(np.isfinite(self.rounds).all())

    def to_json(self) -> dict[str, Any]:
        """Plain values; an undefined number is null."""
        numbers = {"rho": self.mean, "std": self.std, "rho_all_rows": self.all_rows}
        plain = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        return {**plain, "pairs": self.pairs, "queries": self.queries, "rounds": len(self.rounds)}


def bootstrap_picks(first: Sequence[str], rounds: int, seed: int) -> Int[np.ndarray, "b half"]:
    """Rows of every bootstrap round: half of the different items of ``first``, each with one of its rows at random.

    Args:
        first: item that each row is a query of.
        rounds: number of rounds.
        seed: of the draws.

    Raises:
        ScoreError: fewer than two different items.
    """
    items, owner, counts = np.unique(np.array(first), return_inverse=True, return_counts=True)
    if len(items) < 4:
        raise ScoreError(f"{len(items)} different items were rated. Expected at least 4: half of them are drawn.")
    by_item = np.argsort(owner.reshape(-1), kind="stable")
    starts = np.cumsum(counts) - counts
    draw = np.random.default_rng(seed)
    picks = np.empty((rounds, len(items) // 2), dtype=np.int64)
    for one in picks:
        chosen = draw.permutation(len(items))[: len(one)]
        one[:] = by_item[starts[chosen] + (draw.random(len(one)) * counts[chosen]).astype(np.int64)]
    return picks


def correlate(
    model: Shaped[np.ndarray, " n"],
    human: Shaped[np.ndarray, " n"],
    picks: Int[np.ndarray, "b half"],
    *,
    queries: int,
) -> Correlation:
    """Spearman's rho over all rows and within every round.

    Args:
        model, human: score and rating of every row.
        picks: rows of every round, as ``bootstrap_picks`` draws them.
        queries: number of different items that the picks are drawn from.
    """
    rounds = np.array([spearman(model[rows], human[rows]) for rows in picks])
    return Correlation(rounds, spearman(model, human), len(model), queries)
