"""Evaluations of the same rows that differ by chance: the mean and the deviation of every number.

One run says little: on Flickr30K seeds alone move rsum by several points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchword.evaluate.recall import COLUMNS
from patchword.evaluate.result import Evaluation


@dataclass(frozen=True)
class Repeats:
    """Two or more evaluations that differ by chance.

    Attributes:
        each: the evaluations.
    """

    each: tuple[Evaluation, ...]

    @property
    def numbers(self) -> Float[np.ndarray, "n 13"]:
        """The numbers named by ``recall.COLUMNS``, one row an evaluation."""
        return np.stack([one.headline.columns for one in self.each])

    def spread(self, column: str) -> tuple[float, float]:
        """Mean and standard deviation (of a sample) of one number.

        Raises:
            ValueError: there is no such column.
        """
        values = self.numbers[:, COLUMNS.index(column)]
        return float(values.mean()), float(values.std(ddof=1))

    def spreads(self) -> dict[str, dict[str, float]]:
        """Mean and deviation of every number at full precision, for ``json.dumps``."""
        return {name: dict(zip(("mean", "sd"), self.spread(name), strict=True)) for name in COLUMNS}
