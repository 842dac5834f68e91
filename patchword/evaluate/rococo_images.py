"""RoCOCO's other half: mixed pictures added to the gallery of text -> image, as wrong answers.

Every picture of the split is mixed with another one of its group of 64: 0.9 of itself and 0.1 of the other (``mix``),
or a rectangle with a tenth of the area at a random place is the other's (``patch``), both at 384 x 384. Recall counts
the whole pictures only; the false rate is the share of captions whose first picture is a mixed one, where a tie counts
as mixed. Means over the seeds 1, 10 and 100.

Source: Park et al., "RoCOCO: Robustness Benchmark of MS-COCO to Stress-test Image-Text Matching Models";
pseulki/rococo ``mix_images.py``, ``eval_clip_t2i.py``. Two things differ: our generator draws the groups and places,
and mixed pictures do not go through a JPEG file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from patchword.data.pictures import Picture, PictureFiles
from patchword.errors import ConfigError
from patchword.evaluate.answers import CUTS
from patchword.evaluate.benchmark import INTERVALS, Benchmark, percent
from patchword.evaluate.matrix import refuse_non_finite
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.recall import recall_at_k
from patchword.evaluate.significance import MeanIntervals, mean_intervals
from patchword.scoring.query_ranks import QueryRanks
from patchword.types import Encoded

Way = Literal["mix", "patch"]
WAYS: tuple[Way, ...] = ("mix", "patch")
SEEDS = (1, 10, 100)
RECALLS = tuple(f"r{k}" for k in CUTS)
GROUP = 64
SIDE = 384
SHARE = 0.9


@dataclass(frozen=True)
class Mixture:
    """What a picture is mixed with.

    Attributes:
        other: position of the other picture.
        box: top, left, bottom, right of what becomes the other's; None mixes everywhere.
    """

    other: int
    box: tuple[int, int, int, int] | None


def draw_mixtures(count: int, way: Way, seed: int) -> list[Mixture]:
    """Shuffle pictures into groups and draw each one's partner, within the group; a rectangle is drawn for a group."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(count)
    found: dict[int, Mixture] = {}
    for start in range(0, count, GROUP):
        group = order[start : start + GROUP]
        box = _draw_box(draw) if way == "patch" else None
        for one, other in zip(group, draw.permutation(group), strict=True):
            found[int(one)] = Mixture(int(other), box)
    return [found[k] for k in range(count)]


def _draw_box(draw: np.random.Generator) -> tuple[int, int, int, int]:
    """A square of a tenth of the picture around a uniform centre, cut at the borders."""
    half = int(SIDE * np.sqrt(1 - SHARE)) // 2
    y, x = (int(v) for v in draw.integers(SIDE, size=2))
    return max(0, y - half), max(0, x - half), min(SIDE, y + half), min(SIDE, x + half)


@dataclass(frozen=True, kw_only=True)
class MixedPictures(PictureFiles):
    """Pictures of which each one is mixed with another.

    Attributes:
        whole: all pictures, of which ``Mixture.other`` is a position.
        mixtures: one for each of ``files``.
    """

    whole: PictureFiles
    mixtures: list[Mixture]

    def picture(self, image: int) -> Picture:
        """Decode both pictures and mix them, ``(384, 384, 3)``."""
        mixture = self.mixtures[image]
        own, other = _square(super().picture(image)), _square(self.whole.picture(mixture.other))
        return mixed(own, other, mixture.box)

    def select(self, images: Sequence[int]) -> MixedPictures:
        """The source of a subset of the pictures; nothing is read."""
        chosen = [int(i) for i in images]
        return replace(self, files=[self.files[i] for i in chosen], mixtures=[self.mixtures[i] for i in chosen])


def mixed(own: Picture, other: Picture, box: tuple[int, int, int, int] | None) -> Picture:
    """A picture with a part of another one of its size.

    Example:
        >>> own, other = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
        >>> int(mixed(own, other, None)[0, 0, 0]), mixed(own, other, (0, 0, 1, 2))[:, 0, 0].tolist()
        (20, [200, 0])
    """
    if box is None:
        blend: np.ndarray = np.rint(SHARE * own + (1 - SHARE) * other)
        return blend.astype(np.uint8)
    top, left, bottom, right = box
    result = own.copy()
    result[top:bottom, left:right] = other[top:bottom, left:right]
    return result


def _square(picture: Picture) -> Picture:
    return np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class MixResult:
    """What mixed pictures of one kind and seed do to a model.

    Attributes:
        way: kind.
        seed: of the draws.
        attacked: ranks with the mixed pictures in the gallery.
        fooled: captions whose first picture is a mixed one.
    """

    way: Way
    seed: int
    attacked: QueryRanks
    fooled: Bool[np.ndarray, " M"]

    def to_json(self) -> dict[str, float]:
        """Percentages for recalls, a fraction for the false rate."""
        recalls = {f"r{k}": recall_at_k(self.attacked.pessimistic, k) for k in CUTS}
        return {**recalls, "false_rate": float(self.fooled.mean())}


@dataclass(frozen=True)
class MixReport:
    """All kinds and seeds.

    Attributes:
        clean: ranks among whole pictures alone.
        results: kind by kind, seed by seed.
        pictures: how many of each there are.
        owner: picture of each caption; the captions are the queries.
    """

    clean: QueryRanks
    results: tuple[MixResult, ...]
    pictures: int
    owner: Int[np.ndarray, " M"]

    @cached_property
    def intervals(self) -> MeanIntervals:
        """95% bootstrap intervals of the recalls, drops and false rates, under names such as ``mix r1``.

        What a caption adds to a number is its mean over the seeds: other draws of the pictures are not in the interval.
        """
        values = {f"clean r{k}": 100.0 * (self.clean.pessimistic < k) for k in CUTS}
        for way in dict.fromkeys(one.way for one in self.results):
            seeds = [one for one in self.results if one.way == way]
            for k in CUTS:
                values[f"{way} r{k}"] = 100.0 * np.mean([one.attacked.pessimistic < k for one in seeds], axis=0)
            values[f"{way} r1_drop"] = values["clean r1"] - values[f"{way} r1"]
            values[f"{way} false_rate"] = np.mean([one.fooled for one in seeds], axis=0)
        return mean_intervals(values, self.owner)

    def to_json(self) -> dict[str, Any]:
        """Means over seeds, and every seed."""
        found: dict[str, Any] = {
            "clean": {f"r{k}": recall_at_k(self.clean.pessimistic, k) for k in CUTS}
            | {"intervals": self.intervals.some("clean ", RECALLS).to_json()},
            "images": self.pictures,
            "captions": len(self.owner),
        }
        for way in dict.fromkeys(one.way for one in self.results):
            seeds = {str(one.seed): one.to_json() for one in self.results if one.way == way}
            mean = {key: float(np.mean([s[key] for s in seeds.values()])) for key in next(iter(seeds.values()))}
            found[way] = {**mean, "r1_drop": found["clean"]["r1"] - mean["r1"], "seeds": seeds}
            found[way]["intervals"] = self.intervals.some(f"{way} ", (*RECALLS, "r1_drop", "false_rate")).to_json()
        return found

    def report(self) -> Benchmark:
        """As one table."""
        numbers = self.to_json()
        clean = [f"{numbers['clean'][f'r{k}']:.1f}" for k in CUTS]
        rows = [
            (way, *clean, *(f"{numbers[way][f'r{k}']:.1f}" for k in CUTS), percent(numbers[way]["false_rate"]))
            for way in WAYS
            if way in numbers
        ]
        shown = self.intervals.shown
        spread = [
            (
                way,
                *(shown(f"{kind} r{k}") for kind in ("clean", way) for k in CUTS),
                shown(f"{way} false_rate", times=100.0),
            )
            for way in WAYS
            if way in numbers
        ]
        head = ("text -> image", "R@1", "R@5", "R@10", "mixed R@1", "R@5", "R@10", "false rate")
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(one.seed for one in self.results))
        return Benchmark(
            name="rococo-images",
            title="mixed pictures in the gallery; false rate: captions whose first picture is a mixed one, %",
            tables=((head, tuple(rows)), (("95% interval", *head[1:]), tuple(spread))),
            numbers=numbers,
            notes=(
                f"gallery: {self.pictures:,} whole and {self.pictures:,} mixed pictures; means over the seeds {seeds}",
                INTERVALS,
                "pictures are mixed here, not read from RoCOCO's files: other draws, and no JPEG in between",
            ),
        )


def evaluate_mixed(scorer: ModelOnSplit, *, ways: Sequence[Way] = WAYS, seeds: Sequence[int] = SEEDS) -> MixReport:
    """Rank whole and mixed pictures for every caption of a split.

    Raises:
        ConfigError: the split has features instead of pictures, or the model reads side inputs of images.
        ScoreError: scores are not finite.
    """
    split, method = scorer.split, scorer.model.method
    if not isinstance(split.images, PictureFiles):
        raise ConfigError(
            f"{split.dataset}/{split.name} has features, and pictures are what is mixed. Expected a model that reads "
            "pictures, and a data folder with them."
        )
    if method.image_extras:
        raise ConfigError(
            f"this model also reads {', '.join(method.image_extras)} of the images, which mixed pictures do not have."
        )
    source, owner = split.images, np.asarray(split.owner)
    whole, captions = scorer.encode_images(range(split.n_images)), scorer.encode_captions(split.captions)
    right = _right_scores(scorer, whole, captions, owner)
    above, level, best = _counts(scorer, whole, captions, right)
    ones = np.ones(len(owner), dtype=np.int64)
    clean = QueryRanks(above, level - 1, ones)  # the right picture is level with itself
    results = []
    for way in ways:
        for seed in seeds:
            mixtures = draw_mixtures(split.n_images, way, seed)
            pictures = MixedPictures(source.files, source.transform, whole=source, mixtures=mixtures)
            mixed_split = replace(split, images=pictures)
            sets = replace(scorer, split=mixed_split).encode_images(range(split.n_images))
            more_above, more_level, mixed_best = _counts(scorer, sets, captions, right)
            ranks = QueryRanks(clean.greater + more_above, clean.equal + more_level, ones)
            results.append(MixResult(way, seed, ranks, mixed_best >= best))
    return MixReport(clean, tuple(results), split.n_images, owner)


def _right_scores(
    scorer: ModelOnSplit, images: Encoded, captions: Encoded, owner: Int[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """Every caption's score with its own picture, from the same blocks that are counted."""
    found = np.empty(len(owner), dtype=np.float32)
    for rows, block in _finite_blocks(scorer, images, captions):
        mine = np.flatnonzero((owner >= rows.start) & (owner < rows.stop))
        found[mine] = block[owner[mine] - rows.start, mine]
    return found


def _counts(
    scorer: ModelOnSplit, images: Encoded, captions: Encoded, right: Float[np.ndarray, " M"]
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Pictures that score above a caption's own one, as high as it, and the highest score."""
    above, level = np.zeros(len(right), dtype=np.int64), np.zeros(len(right), dtype=np.int64)
    best = np.full(len(right), -np.inf, dtype=np.float32)
    for _, block in _finite_blocks(scorer, images, captions):
        above += (block > right).sum(0)
        level += (block == right).sum(0)
        best = np.maximum(best, block.max(0))
    return above, level, best


def _finite_blocks(scorer: ModelOnSplit, images: Encoded, captions: Encoded) -> Iterator[tuple[slice, np.ndarray]]:
    for rows, block in scorer.blocks(images, captions):
        refuse_non_finite(block)
        yield rows, block
