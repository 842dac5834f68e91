"""What is known of a query's rank: three integers, from which every recall follows, however ties are broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class QueryRanks:
    """Ranks of the best right answer of Q queries in one direction, 0-based.

    Attributes:
        greater: g, negatives that score strictly above the best positive.
        equal: e, negatives that score exactly as the best positive.
        positives: m >= 1, positives that score exactly as the best positive.
    """

    greater: Int[np.ndarray, " Q"]
    equal: Int[np.ndarray, " Q"]
    positives: Int[np.ndarray, " Q"]

    def __len__(self) -> int:
        return len(self.greater)

    @property
    def optimistic(self) -> Int[np.ndarray, " Q"]:
        """Rank g: every tie is broken in favour of the positive."""
        return self.greater

    @property
    def pessimistic(self) -> Int[np.ndarray, " Q"]:
        """Rank g + e: every tie is broken against the positive. The headline."""
        rank: np.ndarray = self.greater + self.equal
        return rank

    @property
    def expected(self) -> Float[np.ndarray, " Q"]:
        """Mean rank g + e / (m + 1) when ties are broken at random."""
        rank: np.ndarray = self.greater + self.equal / (self.positives + 1)
        return rank

    @property
    def tied(self) -> int:
        """Number of queries whose best positive ties with a negative."""
        return int((self.equal > 0).sum())
