"""How sure a number is, and whether two runs differ: resampling of the queries.

Captions of one image are not independent, so the unit that is drawn is an image together with all its captions; with
folds, images are drawn within their folds. The gallery stays as it is. All draws are seeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from patchword.evaluate.queries import METRICS, Queries, check_same_queries

ROUNDS = 1_000  # of the bootstrap
SWAPS = 5_000  # of the permutation test
LEVEL = 0.95
UNIT = "image with its captions"  # what is drawn
_AT_ONCE = 250  # rounds held in memory


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals of the numbers named by ``METRICS``.

    Attributes:
        low, high: percentiles.
        level: share of the rounds between them.
        rounds, seed: how they were drawn.
    """

    low: Float[np.ndarray, " 7"]
    high: Float[np.ndarray, " 7"]
    level: float
    rounds: int
    seed: int

    def of(self, metric: str) -> tuple[float, float]:
        """Interval of one number."""
        k = METRICS.index(metric)
        return float(self.low[k]), float(self.high[k])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        numbers = {name: list(self.of(name)) for name in METRICS}
        about = {"level": self.level, "rounds": self.rounds, "seed": self.seed, "unit": UNIT}
        return {**numbers, **about}


def bootstrap_intervals(queries: Queries, *, rounds: int = ROUNDS, seed: int = 0, level: float = LEVEL) -> Intervals:
    """Percentile intervals over the queries.

    Args:
        queries: ranks of every query.
        rounds: number of resamples.
        seed: of the draws.
        level: share of the resamples inside.
    """
    drawn = np.concatenate(list(resampled([queries], rounds, seed)), axis=1)[0]  # (rounds, 7)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Intervals(low, high, level, rounds, seed)


def resampled(runs: list[Queries], rounds: int, seed: int) -> Iterator[Float[np.ndarray, "runs b 7"]]:
    """The numbers of several runs on the same resamples of the images, some rounds at a time."""
    first = runs[0]
    draw = np.random.default_rng(seed)
    hits = [run.hits() for run in runs]
    counts = first.captions_per_image
    folds = [np.flatnonzero(first.fold == fold) for fold in np.unique(first.fold)]
    for start in range(0, rounds, _AT_ONCE):
        size = min(_AT_ONCE, rounds - start)
        total = np.zeros((len(runs), size, 6))
        for images in folds:
            times = _times_drawn(draw, size, len(images))  # (size, n)
            captions = times @ counts[images]
            for run, hit in enumerate(hits):
                sums = times @ hit[images]  # (size, 6)
                total[run, :, :3] += sums[:, :3] / len(images)
                total[run, :, 3:] += sums[:, 3:] / captions[:, None]
        six = 100 * total / len(folds)
        yield np.concatenate([six, six.sum(2, keepdims=True)], axis=2)


def _times_drawn(draw: np.random.Generator, rounds: int, size: int) -> Float[np.ndarray, "rounds size"]:
    """How often each of ``size`` items comes in a sample of ``size`` with replacement."""
    chosen = draw.integers(0, size, (rounds, size))
    flat = np.bincount((chosen + size * np.arange(rounds)[:, None]).reshape(-1), minlength=rounds * size)
    times: np.ndarray = flat.reshape(rounds, size).astype(np.float64)
    return times


@dataclass(frozen=True)
class MeanIntervals:
    """Bootstrap intervals of means over queries, for protocols with numbers of their own.

    Attributes:
        low, high: percentiles of every number, by name.
        level: share of the rounds between them.
        rounds, seed: how they were drawn.
    """

    low: dict[str, float]
    high: dict[str, float]
    level: float
    rounds: int
    seed: int

    def shown(self, name: str, *, times: float = 1.0) -> str:
        """One interval as a table has it; a dash where there is no such number."""
        return f"{times * self.low[name]:.1f} to {times * self.high[name]:.1f}" if name in self.low else "-"

    def some(self, prefix: str, names: Sequence[str]) -> MeanIntervals:
        """Those of the numbers ``prefix + name``, under the names alone; numbers that are not there are left out."""
        low, high = (
            {name: side[prefix + name] for name in names if prefix + name in side} for side in (self.low, self.high)
        )
        return replace(self, low=low, high=high)

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the units of the numbers."""
        numbers = {name: [low, self.high[name]] for name, low in self.low.items()}
        about = {"level": self.level, "rounds": self.rounds, "seed": self.seed, "unit": UNIT}
        return {**numbers, **about}


def mean_intervals(
    values: Mapping[str, Float[np.ndarray, " Q"]],
    images: Int[np.ndarray, " Q"],
    *,
    means: Mapping[str, Sequence[str]] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    level: float = LEVEL,
) -> MeanIntervals:
    """Percentile intervals of means over the queries, where an image is drawn with all its queries.

    Args:
        values: what every query adds to each number; NaN where it is no query of that number.
        images: image of every query; images without a query are not drawn.
        means: further numbers, each the mean of some of ``values``, on the same resamples.
        rounds: number of resamples.
        seed: of the draws.
        level: share of the resamples inside.

    Example:
        >>> found = mean_intervals({"r1": np.array([0.0, 100.0, 100.0, 0.0])}, np.array([0, 0, 1, 1]))
        >>> found.shown("r1")        # every image has one hit of two
        '50.0 to 50.0'
    """
    places = np.unique(images, return_inverse=True)[1]
    counts = np.stack([np.bincount(places, weights=~np.isnan(part)) for part in values.values()], axis=1)
    sums = np.stack([np.bincount(places, weights=np.nan_to_num(part)) for part in values.values()], axis=1)
    draw, drawn = np.random.default_rng(seed), []
    for start in range(0, rounds, _AT_ONCE):
        times = _times_drawn(draw, min(_AT_ONCE, rounds - start), len(counts))  # counts, sums: (N, numbers)
        with np.errstate(invalid="ignore"):
            found = times @ sums / (times @ counts)  # NaN: a round without a query of the number
        parts = [found[:, [list(values).index(name) for name in names]] for names in (means or {}).values()]
        drawn.append(np.concatenate([found, *(part.mean(1, keepdims=True) for part in parts)], axis=1))
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    names = (*values, *(means or {}))
    below, above = (dict(zip(names, side.tolist(), strict=True)) for side in (low, high))
    return MeanIntervals(below, above, level, rounds, seed)


@dataclass(frozen=True)
class PairedTest:
    """Whether run B differs from run A on the same queries.

    Attributes:
        a, b: their numbers, as named by ``METRICS``.
        low, high: bootstrap interval of b - a.
        p_bootstrap: two-sided; twice the share of resamples on the other side of 0.
        p_permutation: two-sided; the images' results of the two runs are swapped at random.
        rounds, swaps, seed: how they were drawn.
    """

    a: Float[np.ndarray, " 7"]
    b: Float[np.ndarray, " 7"]
    low: Float[np.ndarray, " 7"]
    high: Float[np.ndarray, " 7"]
    p_bootstrap: Float[np.ndarray, " 7"]
    p_permutation: Float[np.ndarray, " 7"]
    rounds: int
    swaps: int
    seed: int

    @property
    def difference(self) -> Float[np.ndarray, " 7"]:
        """b - a."""
        gap: np.ndarray = self.b - self.a
        return gap

    def to_json(self) -> dict[str, Any]:
        """Plain values by metric."""
        found: dict[str, Any] = {}
        for k, name in enumerate(METRICS):
            found[name] = {
                "a": float(self.a[k]),
                "b": float(self.b[k]),
                "difference": float(self.difference[k]),
                "interval": [float(self.low[k]), float(self.high[k])],
                "p_bootstrap": float(self.p_bootstrap[k]),
                "p_permutation": float(self.p_permutation[k]),
            }
        about = {"rounds": self.rounds, "swaps": self.swaps, "seed": self.seed, "unit": UNIT}
        return {**found, **about}


def paired_test(
    a: Queries, b: Queries, *, rounds: int = ROUNDS, swaps: int = SWAPS, seed: int = 0, level: float = LEVEL
) -> PairedTest:
    """Compare two runs query by query.

    p_permutation = (1 + #{swaps with |difference| >= the one found}) / (1 + swaps)

    Args:
        a, b: ranks of the same queries.
        rounds: resamples of the bootstrap.
        swaps: random swaps of the permutation test.
        seed: of the draws.
        level: of the interval.

    Raises:
        ScoreError: the two have other queries.
    """
    check_same_queries([a, b], ["A", "B"])
    drawn = np.concatenate(list(resampled([a, b], rounds, seed)), axis=1)
    gaps = drawn[1] - drawn[0]  # (rounds, 7)
    low, high = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2], axis=0)
    sides = np.minimum((gaps <= 0).sum(0), (gaps >= 0).sum(0))
    p_bootstrap = np.minimum(1.0, 2 * (1 + sides) / (1 + rounds))
    return PairedTest(
        a.metrics(), b.metrics(), low, high, p_bootstrap, _permutation(a, b, swaps, seed), rounds, swaps, seed
    )


def _permutation(a: Queries, b: Queries, swaps: int, seed: int) -> Float[np.ndarray, " 7"]:
    """Two-sided p values from random swaps of the two runs' results, image by image."""
    gaps = _shares(a) - _shares(b)  # (N, 7); their sum is the difference of the runs
    found = np.abs(gaps.sum(0))
    draw = np.random.default_rng(seed + 1)
    as_large = np.zeros(gaps.shape[1])
    for start in range(0, swaps, _AT_ONCE):
        signs = 2.0 * draw.integers(0, 2, (min(_AT_ONCE, swaps - start), len(gaps))) - 1
        as_large += (np.abs(signs @ gaps) >= found - 1e-9).sum(0)
    p: np.ndarray = (1 + as_large) / (1 + swaps)
    return p


def _shares(run: Queries) -> Float[np.ndarray, "N 7"]:
    """What every image with its captions adds to each number."""
    hits, counts = run.hits(), run.captions_per_image
    folds = np.unique(run.fold)
    sizes = np.array([[(run.fold == f).sum(), counts[run.fold == f].sum()] for f in folds], dtype=np.float64)
    per_image: Int[np.ndarray, " N"] = np.searchsorted(folds, run.fold)
    scale = np.repeat(sizes[per_image], 3, axis=1) * len(folds)  # (N, 6)
    six = 100 * hits / scale
    shares: np.ndarray = np.concatenate([six, six.sum(1, keepdims=True)], axis=1)
    return shares
