"""From a score to the probability that image and text match: a logistic curve fitted on pairs that are known.

p = 1 / (1 + exp(-(slope * score + intercept))), Platt's method with his smoothed targets (Platt, "Probabilistic Outputs
for Support Vector Machines", 1999). Right pairs are all image-caption pairs of a split, wrong ones are drawn at random
among the others, as many for each caption; both kinds count as much, so p = 1/2 is where a random wrong pair and a
right one are equally likely. How far to trust it is told by the expected calibration error on the half of the captions
that the curve was not fitted on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.data.table import Split
from patchword.errors import DataError
from patchword.model import Model
from patchword.retrieve.rescore import score_sets
from patchword.store.layout import IndexFolder, open_folder, write_whole

FILE = "calibration.json"
BINS = 15  # of the expected calibration error
_WRONG = 9  # wrong images for each caption
_STEPS = 50  # of Newton's method at most
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted curve.

    Attributes:
        slope, intercept: of the log-odds.
        model_hash: of the model that it belongs to.
        data: what it was fitted on.
        pairs: right and wrong ones that it was fitted on.
        error_before: expected calibration error, in 0..1, of the best that a score says without a fit: scores squeezed
            to 0..1 from the least to the largest.
        error_after: of the probabilities.
    """

    slope: float
    intercept: float
    model_hash: str
    data: str
    pairs: int
    error_before: float
    error_after: float

    def probabilities(self, scores: Any) -> Values:
        """The probability of a match for each of some scores, of any shape."""
        odds = np.asarray(scores, dtype=np.float64) * self.slope + self.intercept
        return np.exp(-np.logaddexp(0.0, -odds))

    @staticmethod
    def stamp(place: IndexFolder) -> int:
        """When the file of the curve was last changed, in ns since 1970; 0 where there is none."""
        try:
            return (place.path / FILE).stat().st_mtime_ns
        except OSError:
            return 0


def read_calibration(place: IndexFolder, model_hash: str) -> Calibration | None:
    """The curve of an index; None where there is none, or one of another model."""
    try:
        found = Calibration(**json.loads((place.path / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.model_hash == model_hash else None


def calibrate(
    index: Path | str | IndexFolder,
    data: Path | str | Split,
    split: str = "dev",
    *,
    name: str | None = None,
    model: Model | Path | str | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit the probability of a match and keep it in the index.

    Args:
        index: folder of the index.
        data: data folder, or an open split.
        split, name: which split of which data set; never the one that results are reported on.
        model: where the model of the index is now.
        seed: of the wrong pairs and of the halves.

    Raises:
        DataError: the split has fewer than 20 captions or 2 images, or right pairs do not score higher than wrong ones.
    """
    from patchword.evaluate.opening import open_for
    from patchword.store.manifest import read_manifest
    from patchword.store.model_hash import open_model

    place = open_folder(index)
    manifest = read_manifest(place)
    loaded = open_model(manifest, model)
    opened = data if isinstance(data, Split) else open_for(loaded, data, split, name=name)
    right, wrong = pair_scores_of(loaded, opened, seed)
    order = np.random.default_rng(seed).permutation(len(right))
    half = len(order) // 2
    fitted, held = order[:half], order[half:]
    slope, intercept = fit_curve(right[fitted], wrong[fitted].reshape(-1))
    if slope <= 0:
        raise DataError(
            f"right pairs of {opened.dataset}/{opened.name} do not score higher than wrong ones, so scores say nothing "
            "about a match. Use another split, or a trained model."
        )
    about = f"{opened.dataset}/{opened.name}"
    made = Calibration(slope, intercept, manifest.model.hash, about, half * (1 + wrong.shape[1]), 0.0, 0.0)
    scores = np.concatenate([right[held], wrong[held].reshape(-1)])
    is_right = np.concatenate([np.ones(len(held)), np.zeros(wrong[held].size)])
    weights = np.where(is_right == 1, 1.0, 1.0 / wrong.shape[1])
    squeezed = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
    made = replace(
        made,
        error_before=calibration_error(squeezed, is_right, weights),
        error_after=calibration_error(made.probabilities(scores), is_right, weights),
    )
    write_whole(place.path / FILE, json.dumps(asdict(made), indent=2) + "\n")
    return made


def pair_scores_of(model: Model, split: Split, seed: int) -> tuple[Values, Values]:
    """Scores of every caption with its image ``(M,)`` and with some random others ``(M, 9)``.

    Raises:
        DataError: the split is too small.
    """
    captions, images = len(split.captions), split.n_images
    if captions < 20 or images < 2:
        raise DataError(
            f"{split.dataset}/{split.name} has {captions} captions of {images} images. "
            "Expected at least 20 captions and 2 images to fit a probability on."
        )
    a = model.encode_images(split.require_images(), extras=split.image_extras)
    b = model.encode_captions(split.captions, extras=split.caption_extras)
    owner = np.asarray(split.owner, dtype=np.int64)
    draw = np.random.default_rng(seed)
    others = draw.integers(1, images, size=(captions, min(_WRONG, images - 1)))
    wrong = (owner[:, None] + others) % images  # never the caption's own
    scored = np.empty((captions, 1 + wrong.shape[1]))
    for first in range(0, captions, 64):  # few captions at a time, all their images
        part = np.arange(first, min(first + 64, captions))
        scores = score_sets(model.method, a, b.select(torch.from_numpy(part))).double().numpy()  # (N, part)
        columns = np.arange(len(part))[:, None]
        scored[part] = scores[np.concatenate([owner[part][:, None], wrong[part]], axis=1), columns]
    return scored[:, 0], scored[:, 1:]


def fit_curve(right: Values, wrong: Values) -> tuple[float, float]:
    """Slope and intercept of the log-odds, by Newton's method on the weighted log-likelihood.

    Source: Platt (1999), with targets (n + 1) / (n + 2) and 1 / (m + 2) in place of 1 and 0.

    Example:
        >>> slope, intercept = fit_curve(np.array([2.0, 3.0, 2.5]), np.array([0.0, 1.0, 0.5]))
        >>> slope > 0 and abs(slope * 1.5 + intercept) < 1e-6
        True
    """
    scores = np.concatenate([right, wrong])
    center, scale = float(scores.mean()), max(float(scores.std()), 1e-12)
    x = np.stack([(scores - center) / scale, np.ones_like(scores)], axis=1)
    target = np.concatenate(
        [np.full(len(right), (len(right) + 1) / (len(right) + 2)), np.full(len(wrong), 1 / (len(wrong) + 2))]
    )
    weight = np.concatenate([np.full(len(right), 0.5 / len(right)), np.full(len(wrong), 0.5 / len(wrong))])
    found = np.zeros(2)
    for _ in range(_STEPS):
        p = np.exp(-np.logaddexp(0.0, -(x @ found)))
        gradient = x.T @ (weight * (p - target))
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found -= step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    return float(found[0] / scale), float(found[1] - found[0] * center / scale)


def calibration_error(probabilities: Values, is_right: Values, weights: Values, bins: int = BINS) -> float:
    """Expected calibration error: mean over bins of |share of right pairs - mean probability|, by weight.

    Example:
        >>> calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0]), np.ones(2))
        0.4
    """
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    total = np.bincount(number, weights, bins)
    gaps = np.abs(np.bincount(number, weights * (is_right - probabilities), bins))
    return round(float(gaps.sum() / total.sum()), 12)
