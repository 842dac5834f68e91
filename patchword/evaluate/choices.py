"""Benchmarks of small choices: does the right caption (or image) score higher than one wrong one?

SugarCrepe, and the negatives of the scenes: an image, its caption and a wrong caption. Winoground and its kin: two
images and two captions. Everything is a strict inequality: a tie is a wrong answer, so that a model that scores
everything alike gets 0. Random scores get 1/2 for one choice, 1/4 for two, and 1/6 for everything of a two-by-two item.

Source: Hsieh et al., "SugarCrepe" (NeurIPS 2023); Thrush et al., "Winoground" (CVPR 2022).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from patchword.data.json_fields import as_list, as_object, field, text_field
from patchword.data.text_files import read_json, read_lines, require_caption
from patchword.errors import DataError
from patchword.evaluate.benchmark import Benchmark, Table, percent
from patchword.evaluate.matrix import refuse_non_finite
from patchword.evaluate.on_split import FoundImages, ModelOnSplit
from patchword.evaluate.significance import MeanIntervals, mean_intervals

SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")

CHOICE_INTERVALS = (
    "95% intervals over items: 1,000 resamples (seed 0) of the images, each with all its items; an item of two images "
    "goes with its first"
)


@dataclass(frozen=True)
class Choice:
    """One item: one or two images, one or two captions, not one of each; the first image and caption are a pair.

    Attributes:
        name: id of the item.
        group: part of the benchmark.
        images: names or ids.
        captions: texts.
    """

    name: str
    group: str
    images: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it counts for: ``text`` (choose a caption), ``image`` (choose an image), ``group`` (everything)."""
        if len(self.images) == 2 and len(self.captions) == 2:
            return ("text", "image", "group")
        return ("text",) if len(self.captions) == 2 else ("image",)

    def chance(self, metric: str) -> float:
        """How often random scores that never tie choose rightly."""
        if metric == "group":
            return 1 / 6  # both right scores above both wrong ones: 2! 2! of 4! orders
        return 1 / 4 if len(self.metrics) > 1 else 1 / 2


def read_sugarcrepe(folder: Path) -> list[Choice]:
    """Read the seven files of SugarCrepe (``add_att.json`` ... ``swap_obj.json``, packed or not).

    Raises:
        DataError: one of them is missing or damaged.
    """
    items = []
    for group in SUGARCREPE:
        path = next((p for p in (folder / f"{group}.json", folder / f"{group}.json.gz") if p.is_file()), None)
        if path is None:
            raise DataError(
                f"'{folder}' has no '{group}.json' (or .json.gz). Expected the seven files of RAIVNLab/sugar-crepe: "
                f"{', '.join(SUGARCREPE)}."
            )
        for key, entry in as_object(read_json(path), f"'{path}'").items():
            where = f"'{path}' row {key}"
            row = as_object(entry, where)
            captions = tuple(
                require_caption(field(row, name, where), where) for name in ("caption", "negative_caption")
            )
            items.append(Choice(key, group, (text_field(row, "filename", where),), captions))
    return items


def read_choices(path: Path) -> tuple[str, list[Choice]]:
    """Read a file of choices: ``{"name": ..., "items": [{"id", "group", "images": [...], "captions": [...]}]}``.

    A file that ends in ``.jsonl`` holds a false caption in every line, see ``read_negatives``.

    Returns:
        The benchmark's name, and its items.

    Raises:
        DataError: an item has other than one or two images and captions, or one of each.
    """
    if path.suffix == ".jsonl":
        return path.stem, read_negatives(path)
    content = as_object(read_json(path), f"'{path}'")
    name = text_field(content, "name", f"'{path}'") if "name" in content else path.name.partition(".")[0]
    items = []
    for number, entry in enumerate(as_list(field(content, "items", f"'{path}'"), f"'{path}' items")):
        where = f"'{path}' item {number}"
        row = as_object(entry, where)
        images = tuple(str(image) for image in as_list(field(row, "images", where), f"{where} images"))
        texts = as_list(field(row, "captions", where), f"{where} captions")
        captions = tuple(require_caption(text, where) for text in texts)
        if sorted((len(images), len(captions))) not in ([1, 2], [2, 2]):
            raise DataError(
                f"{where} has {len(images)} images and {len(captions)} captions. Expected two captions for one image, "
                "two images for one caption, or two of both; the first image and the first caption belong together."
            )
        items.append(Choice(str(row.get("id", number)), str(row.get("group", "all")), images, captions))
    if not items:
        raise DataError(f"'{path}' has no items. Expected at least one.")
    return name, items


def read_negatives(path: Path) -> list[Choice]:
    """Read the false captions of the scenes (``{split}_negatives.jsonl``), one group for each kind of change.

    A line is ``{"id": image, "caption": ..., "negative": the same made false, "differs": what was changed}``.

    Raises:
        DataError: there is no line, or one of them is something else.
    """
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"'{path}' line {number}"
        try:
            row = as_object(json.loads(line), where)
        except ValueError as error:
            raise DataError(f"{where} is no JSON object ({error}). Expected the false captions of scenes.") from error
        captions = tuple(require_caption(field(row, name, where), where) for name in ("caption", "negative"))
        image, group = text_field(row, "id", where), text_field(row, "differs", where)
        items.append(Choice(f"{image}#{row.get('caption_index', number)}", group, (image,), captions))
    if not items:
        raise DataError(f"'{path}' has no lines. Expected one for each false caption.")
    return items


@dataclass(frozen=True)
class ChoiceResult:
    """What a model chose.

    Attributes:
        name: of the benchmark.
        items: those that could be scored.
        scores: of each item, ``(images, captions)``.
        total: number of items in the files, by group.
        images: which images were found.
    """

    name: str
    items: tuple[Choice, ...]
    scores: tuple[Float[np.ndarray, "_ _"], ...]
    total: dict[str, int]
    images: FoundImages

    def correct(self, item: int, metric: str) -> bool:
        """Whether an item was chosen rightly: strict inequalities."""
        s = self.scores[item]
        text = all(s[k, k] > s[k, 1 - k] for k in range(s.shape[0])) if s.shape[1] == 2 else True
        image = all(s[k, k] > s[1 - k, k] for k in range(s.shape[1])) if s.shape[0] == 2 else True
        return bool(text if metric == "text" else image if metric == "image" else text and image)

    def tied(self, item: int) -> bool:
        """Whether two scores that are compared are equal."""
        s = self.scores[item]
        rows = any(s[k, 0] == s[k, 1] for k in range(s.shape[0])) if s.shape[1] == 2 else False
        columns = any(s[0, k] == s[1, k] for k in range(s.shape[1])) if s.shape[0] == 2 else False
        return bool(rows or columns)

    def accuracy(self, metric: str, group: str | None = None) -> float | None:
        """Share of right choices; None where no item counts for the metric."""
        chosen = [
            self.correct(k, metric)
            for k, item in enumerate(self.items)
            if metric in item.metrics and group in (None, item.group)
        ]
        return sum(chosen) / len(chosen) if chosen else None

    def chance(self, metric: str) -> float:
        """Accuracy that random scores would have, NaN where no item counts for the metric."""
        guessed = [item.chance(metric) for item in self.items if metric in item.metrics]
        return float(np.mean(guessed)) if guessed else float("nan")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that some item counts for."""
        present = {metric for item in self.items for metric in item.metrics}
        return tuple(metric for metric in ("text", "image", "group") if metric in present)

    @cached_property
    def intervals(self) -> MeanIntervals:
        """95% bootstrap intervals: names such as ``all text``, ``mean text`` and ``group swap_att text``.

        An image is drawn with all its items; an item of two images goes with its first.
        """
        values: dict[str, Float[np.ndarray, " items"]] = {}
        means: dict[str, list[str]] = {}
        for metric in self.metrics:
            counts = [metric in item.metrics for item in self.items]
            right = np.array([float(self.correct(k, metric)) if here else np.nan for k, here in enumerate(counts)])
            values[f"all {metric}"] = right
            for group in self.total:
                inside = np.where([item.group == group for item in self.items], right, np.nan)
                if not np.isnan(inside).all():
                    values[f"group {group} {metric}"] = inside
                    means.setdefault(f"mean {metric}", []).append(f"group {group} {metric}")
        first = np.array([self.images.rows[item.images[0]] for item in self.items])
        return mean_intervals(values, np.unique(first, return_inverse=True)[1], means=means)

    def to_json(self) -> dict[str, Any]:
        """Fractions by group, over all items, and the mean over groups."""

        def spread(start: str) -> dict[str, Any]:
            return self.intervals.some(start, self.metrics).to_json()

        groups: dict[str, dict[str, Any]] = {}
        for group, total in self.total.items():
            scored = sum(item.group == group for item in self.items)
            groups[group] = {m: self.accuracy(m, group) for m in self.metrics} | {"scored": scored, "items": total}
            groups[group]["intervals"] = spread(f"group {group} ")
        means: dict[str, Any] = {}
        for metric in self.metrics:
            values = [row[metric] for row in groups.values() if row[metric] is not None]
            means[metric] = float(np.mean(values))
        return {
            "groups": groups,
            "all": {m: self.accuracy(m) for m in self.metrics} | {"intervals": spread("all ")},
            "mean_of_groups": means | {"intervals": spread("mean ")},
            "chance": {m: self.chance(m) for m in self.metrics},
            "scored": len(self.items),
            "items": sum(self.total.values()),
            "tied": sum(self.tied(k) for k in range(len(self.items))),
            "missing_images": list(self.images.missing),
        }

    def report(self) -> Benchmark:
        """As a table."""
        numbers = self.to_json()

        def cells(row: dict[str, Any]) -> list[str]:
            return ["-" if row.get(m) is None else percent(row[m]) for m in self.metrics]

        rows = []
        for group, row in numbers["groups"].items():
            rows.append((group, *cells(row), f"{row['scored']:,}", f"{row['items']:,}"))
        if len(rows) > 1:
            rows.append(("all items", *cells(numbers["all"]), f"{numbers['scored']:,}", f"{numbers['items']:,}"))
            rows.append(("mean of the groups", *cells(numbers["mean_of_groups"]), "", ""))
        rows.append(("chance", *cells(numbers["chance"]), "", ""))
        lines = {group: f"group {group} " for group in self.total}
        if len(lines) > 1:
            lines |= {"all items": "all ", "mean of the groups": "mean "}
        spread = [
            (name, *(self.intervals.shown(f"{start}{m}", times=100.0) for m in self.metrics))
            for name, start in lines.items()
        ]
        titles = {"text": "right caption", "image": "right image", "group": "everything right"}
        head = ("accuracy, %", *(titles[m] for m in self.metrics), "scored", "items")
        is_partial = bool(self.images.missing)
        return Benchmark(
            name=f"{self.name} (partial)" if is_partial else self.name,
            title="right choices among two; a tie counts as wrong",
            tables=((head, tuple(rows)), (("95% interval", *head[1:-2]), tuple(spread))),
            numbers=numbers,
            warnings=(self.images.warning(self.name),) if is_partial else (),
            notes=(f"{numbers['tied']:,} of {numbers['scored']:,} items have a tie", CHOICE_INTERVALS),
        )


def captions_beside(named: Sequence[tuple[str, ChoiceResult]]) -> Table:
    """Several models on the same items of two captions: one row each after chance, one column for each group."""
    first = named[0][1]
    groups = list(first.total)
    head = ("right caption, %", *groups, "all")

    def cells(result: ChoiceResult) -> list[str]:
        found = [result.accuracy("text", group) for group in (*groups, None)]
        return ["-" if value is None else percent(value) for value in found]

    chance = ("chance", *[percent(first.chance("text"))] * (len(groups) + 1))
    return head, (chance, *((name, *cells(result)) for name, result in named))


def evaluate_choices(scorer: ModelOnSplit, name: str, items: Sequence[Choice]) -> ChoiceResult:
    """Score every item whose images are in the split; the others are counted and named.

    Args:
        scorer: model and images.
        name: of the benchmark.
        items: as read.

    Raises:
        DataError: no item has its images there.
    """
    found = scorer.find([image for item in items for image in item.images], name)
    usable = [item for item in items if all(image in found.rows for image in item.images)]
    if not usable:
        raise DataError(f"No item of {name} has all its images in {scorer.split.dataset}/{scorer.split.name}.")
    rows = list(dict.fromkeys(found.rows[image] for item in usable for image in item.images))
    texts = list(dict.fromkeys(caption for item in usable for caption in item.captions))
    image_place = {row: k for k, row in enumerate(rows)}
    text_place = {text: k for k, text in enumerate(texts)}
    images = scorer.encode_images(rows)
    captions = scorer.encode_captions(texts)
    pairs = [
        (image_place[found.rows[image]], text_place[caption])
        for item in usable
        for image in item.images
        for caption in item.captions
    ]
    flat, start, scores = scorer.listed(images, captions, pairs), 0, []
    refuse_non_finite(flat[None])  # a NaN is neither right nor wrong
    for item in usable:
        shape = len(item.images), len(item.captions)
        scores.append(flat[start : start + shape[0] * shape[1]].reshape(shape))
        start += shape[0] * shape[1]
    total: dict[str, int] = {}
    for item in items:
        total[item.group] = total.get(item.group, 0) + 1
    return ChoiceResult(name, tuple(usable), tuple(scores), total, found)
