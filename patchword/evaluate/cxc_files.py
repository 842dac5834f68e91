"""Crisscrossed Captions (CxC) on disk: the public CSV files, and the JSON files that VSE-infinity made of them.

Ids are compared in one spelling: the COCO number of an image, the annotation number of a caption.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from patchword.data.json_fields import as_list, as_object
from patchword.data.text_files import canonical_id, read_json, read_lines, read_text
from patchword.errors import DataError

TASKS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}
THRESHOLDS = {"sts": 3.0, "sis": 2.5, "sits": 3.0}  # a pair rated at least so high is a right answer
ORIGINAL = "c2i_original"  # how CSV rows call the pairs that COCO itself lists

# What to do with a pair that was rated in both orders: average, take the larger, or keep the orders apart.
BothOrders = Literal["mean", "max", "listed"]
Lists = dict[str, list[str]]


@dataclass(frozen=True)
class RatedPairs:
    """Rows of one CSV file.

    Attributes:
        first: id of the item in the first column, which is the query of the bootstrap.
        second: id of the other item.
        rating: mean human rating, 0 to 5.
        method: how the pair was chosen.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    rating: Float[np.ndarray, " rows"]
    method: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class CxcAnnotations:
    """What CxC says about a gallery.

    Attributes:
        i2t, t2i, i2i, t2t: right answers of every query, by id; those of ``t2t`` without the co-captions.
        ratings: rated pairs by task, where the CSV files were read.
        image_of: image of each caption that COCO itself pairs; empty when the files do not say.
        notes: decisions taken while reading.
    """

    i2t: Lists
    t2i: Lists
    i2i: Lists
    t2t: Lists
    ratings: dict[str, RatedPairs] = field(default_factory=dict)
    image_of: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def caption_id(name: str) -> str:
    """The annotation number of a caption.

    Example:
        >>> caption_id("COCO_val2014:sentid:732091"), caption_id(" 732091")
        ('732091', '732091')
    """
    return name.strip().rpartition(":")[2]


def read_rated(path: Path, task: str) -> RatedPairs:
    """Read ``sts_*.csv``, ``sis_*.csv`` or ``sits_*.csv``, packed or not.

    Raises:
        DataError: another header, or a row without ids or with a rating outside 0..5.
    """
    columns = TASKS[task]
    rows = csv.reader(io.StringIO(read_text(path)))
    header = next(rows, [])
    if header[:3] != [*columns, "agg_score"]:
        raise DataError(
            f"'{path}' begins with {','.join(header)[:60]!r}. Expected {','.join(columns)},agg_score,sampling_method."
        )
    spell = [canonical_id if name.startswith("image") else caption_id for name in columns]
    first, second, rating, method = [], [], [], []
    for number, row in enumerate(rows, start=2):
        try:
            value = float(row[2])
        except (IndexError, ValueError):
            value = float("nan")
        if not (0 <= value <= 5 and row[0] and row[1]):
            raise DataError(f"'{path}' line {number}: {','.join(row)[:80]!r}. Expected two ids and a rating 0 to 5.")
        first.append(spell[0](row[0]))
        second.append(spell[1](row[1]))
        rating.append(value)
        method.append(row[3] if len(row) > 3 else "")
    return RatedPairs(tuple(first), tuple(second), np.array(rating), tuple(method))


def find_csv(folder: Path, task: str, split: str) -> Path | None:
    """``{task}_{split}.csv`` or the same with ``.gz``."""
    for path in (folder / f"{task}_{split}.csv", folder / f"{task}_{split}.csv.gz"):
        if path.is_file():
            return path
    return None


def read_cxc(
    folder: Path,
    *,
    images: Iterable[str],
    split: str | None = None,
    both_orders: BothOrders = "mean",
    keep_originals: bool = False,
) -> CxcAnnotations:
    """Read the annotations that fit a gallery.

    Args:
        folder: with the CSV files, or with VSE-infinity's ``cxc_it.json``, ``cxc_i2i.json`` and ``cxc_t2t.json``.
        images: ids of the gallery; which of ``val`` and ``test`` is read follows from them.
        split: ``val`` or ``test``, instead.
        both_orders: what a pair rated in both orders with different ratings counts as.
        keep_originals: a pair that COCO itself lists is right however it was rated. Off in the published numbers.

    Raises:
        DataError: the files are missing, or none of them names an image of the gallery.
    """
    if (folder / "cxc_it.json").is_file():
        return _read_vse_infinity(folder)
    known = {canonical_id(name) for name in images}
    splits = [split] if split else [name for name in ("test", "val") if find_csv(folder, "sits", name)]
    for name in splits:
        ratings = {task: read_rated(_require(folder, task, name), task) for task in TASKS}
        if split or known & set(ratings["sits"].second):
            return annotations_of(ratings, both_orders=both_orders, keep_originals=keep_originals, split=name)
    if not splits:
        _require(folder, "sits", "test")
    raise DataError(
        f"'{folder}': none of the {len(known):,} images of the gallery is rated in {' or '.join(splits)}. CxC rates "
        "COCO's 5,000 validation and 5,000 test images; expected their numbers as image ids."
    )


def annotations_of(
    ratings: Mapping[str, RatedPairs],
    *,
    both_orders: BothOrders = "mean",
    keep_originals: bool = False,
    split: str = "test",
) -> CxcAnnotations:
    """Right answers from rated pairs: SITS and STS from 3.0, SIS from 2.5."""
    sits = ratings["sits"]
    original = [method == ORIGINAL for method in sits.method]
    image_of = {c: i for c, i, own in zip(sits.first, sits.second, original, strict=True) if own}
    right = sits.rating >= THRESHOLDS["sits"]
    if keep_originals:
        right |= np.array(original)
    pairs = [(c, i) for c, i, good in zip(sits.first, sits.second, right, strict=True) if good]
    i2i, doubled = _undirected(ratings["sis"], THRESHOLDS["sis"], both_orders)
    t2t, _ = _undirected(ratings["sts"], THRESHOLDS["sts"], both_orders)
    low = sum(own and not good for own, good in zip(original, right, strict=True))
    ways = {"mean": "the mean rating", "max": "the larger rating", "listed": "each order by itself"}
    notes = (
        f"CxC {split}: right answers are SITS and STS pairs rated 3.0 or more, SIS pairs rated 2.5 or more",
        f"{doubled:,} pairs of images were rated in both orders; {ways[both_orders]} counts",
        f"{low:,} pairs that COCO lists were rated below 3.0 and do not count as right",
    )
    i2t = _grouped((i, c) for c, i in pairs)
    return CxcAnnotations(i2t, _grouped(pairs), i2i, t2t, dict(ratings), image_of, notes)


def _undirected(pairs: RatedPairs, threshold: float, both_orders: BothOrders) -> tuple[Lists, int]:
    """Right answers in both directions, and how many pairs were rated in both orders."""
    ratings: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for a, b, rating in zip(pairs.first, pairs.second, pairs.rating.tolist(), strict=True):
        ratings.setdefault((min(a, b), max(a, b)), {})[a, b] = rating
    found, doubled = [], 0
    for by_order in ratings.values():
        doubled += len(by_order) > 1
        values = list(by_order.values())
        if both_orders == "listed":
            found += [order for order, rating in by_order.items() if rating >= threshold]
        elif (max(values) if both_orders == "max" else sum(values) / len(values)) >= threshold:
            a, b = next(iter(by_order))
            found += [(a, b), (b, a)]
    return _grouped(found), doubled


def _grouped(pairs: Iterable[tuple[str, str]]) -> Lists:
    lists: Lists = {}
    for query, answer in pairs:
        lists.setdefault(query, []).append(answer)
    return lists


def _require(folder: Path, task: str, split: str) -> Path:
    path = find_csv(folder, task, split)
    if path is None:
        raise DataError(
            f"'{folder}' has no '{task}_{split}.csv' (or .csv.gz). Expected the CSV files of "
            "google-research-datasets/Crisscrossed-Captions, or the cxc_*.json files of VSE-infinity."
        )
    return path


def _read_vse_infinity(folder: Path) -> CxcAnnotations:
    """VSE-infinity's files: between modalities every listed pair is right, within one the rating decides."""
    between = as_object(read_json(folder / "cxc_it.json"), f"'{folder / 'cxc_it.json'}'")
    within = {name: read_json(folder / f"cxc_{name}.json") for name in ("i2i", "t2t")}
    found = annotations_from_lists(between, within, str(folder))
    captions, images = (folder / f"testall_{name}.txt" for name in ("capids", "ids"))
    if not (captions.is_file() and images.is_file()):
        return found
    pairs = zip(read_lines(captions), read_lines(images), strict=False)
    return replace(found, image_of={caption_id(c): canonical_id(i) for c, i in pairs})


def annotations_from_lists(
    between: Mapping[str, object],
    within: Mapping[str, object],
    where: str,
    thresholds: Mapping[str, float] | None = None,
) -> CxcAnnotations:
    """Annotations in VSE-infinity's form ``{query id: [[other id, rating], ...]}``.

    Args:
        between: ``i2t`` and ``t2i``: every listed pair is right.
        within: ``i2i`` and ``t2t``: pairs rated at least ``thresholds`` are right, in the order listed.
        where: for messages.
        thresholds: of ``i2i`` and ``t2t``; CxC's by default.
    """
    limits = thresholds or {"i2i": THRESHOLDS["sis"], "t2t": THRESHOLDS["sts"]}
    i2t, t2i = (_lists(between.get(name), f"{where}: {name}", -np.inf) for name in ("i2t", "t2i"))
    i2i, t2t = (_lists(within.get(name), f"{where}: {name}", limits[name]) for name in ("i2i", "t2t"))
    return CxcAnnotations(i2t, t2i, i2i, t2t, notes=("CxC lists as VSE-infinity made them: directed, already reduced",))


def _lists(value: object, where: str, threshold: float) -> Lists:
    """Right answers of every query."""
    found: Lists = {}
    for query, entries in as_object(value, where).items():
        kept = []
        for entry in as_list(entries, f"{where} {query!r}"):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], int | float)):
                raise DataError(f"{where} {query!r}: {entry!r}. Expected [id, rating].")
            if entry[1] >= threshold:
                kept.append(str(entry[0]))
        found[query] = kept
    return found
