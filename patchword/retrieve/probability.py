"""The probability that image and text match, for the scores that a search finds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.methods.base import Method
from patchword.retrieve.calibrate import Calibration, read_calibration
from patchword.store.layout import IndexFolder


class Chances:
    """Says probabilities by the calibration of an index, which may be fitted anew while the index is open.

    Args:
        place: the index.
        model_hash: of its model; a calibration of another one does not count.
        method: says the probability where there is no calibration, when it can.
    """

    def __init__(self, place: IndexFolder, model_hash: str, method: Method) -> None:
        self.place, self.model_hash, self.method = place, model_hash, method
        self._read: tuple[int, Calibration | None] = (-1, None)  # when its file was changed, and what it held

    @property
    def calibration(self) -> Calibration | None:
        """The fitted probability of a match, read again when its file has changed."""
        stamp, known = self._read
        now = Calibration.stamp(self.place)
        if now != stamp:
            known = read_calibration(self.place, self.model_hash)
            self._read = (now, known)
        return known

    def of(self, scores: NDArray[np.float32]) -> list[float] | None:
        """The probability that a pair with such a score matches, for each score: from the calibration, else from the
        method itself. None where neither can say.
        """
        calibration = self.calibration
        if calibration is not None:
            return [float(chance) for chance in calibration.probabilities(scores)]
        said = self.method.match_probability(torch.from_numpy(scores))
        return None if said is None else said.detach().double().tolist()
