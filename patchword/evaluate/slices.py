"""The same numbers over parts of the queries: long and short captions, crowded and empty images, repeated texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from patchword.data.table import Split
from patchword.data.text_files import canonical_id
from patchword.errors import DataError
from patchword.evaluate.benchmark import aligned, named
from patchword.evaluate.pmrp import read_instances, require_instances
from patchword.evaluate.queries import CUTS, Queries
from patchword.evaluate.recall import recall_at_k
from patchword.scoring.query_ranks import QueryRanks

LENGTHS = (8, 10, 12, 15)  # upper ends of the bins of caption length, in words; the last bin is open
OBJECTS = (1, 2, 4, 7)  # likewise for objects
OBJECTS_EXTRA = "objects"  # side input of the images: {split}_ims_objects.npy, one number an image


@dataclass(frozen=True)
class Slice:
    """Some queries of one direction.

    Attributes:
        group: what the queries are told apart by.
        name: which of them these are.
        direction: ``i2t`` or ``t2i``.
        queries: how many.
        recalls: recall@1, 5, 10 in percent.
    """

    group: str
    name: str
    direction: str
    queries: int
    recalls: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        recalls = {f"r{k}": value for k, value in zip(CUTS, self.recalls, strict=True)}
        return {
            "group": self.group,
            "slice": self.name,
            "direction": self.direction,
            "queries": self.queries,
            **recalls,
        }


def slice_queries(
    queries: Queries, captions: Sequence[str] | None = None, *, objects: Int[np.ndarray, " N"] | None = None
) -> tuple[Slice, ...]:
    """Cut the queries by what is known of them; a group with one part only is left out.

    Args:
        queries: ranks of every query.
        captions: M texts, for their lengths and repetitions.
        objects: number of objects in each image.
    """
    found: list[Slice] = []
    per_image = queries.captions_per_image
    if captions is not None:
        words = np.array([count_words(caption) for caption in captions])
        found += _cut("words in the caption", "t2i", queries.t2i, *_bins(words, LENGTHS))
        found += _cut("text of the caption", "t2i", queries.t2i, *_repetitions(captions, queries.owner))
    sizes = [str(n) for n in sorted(set(per_image.tolist()))]
    found += _cut("captions of the image", "i2t", queries.i2t, [str(n) for n in per_image.tolist()], sizes)
    if objects is not None:
        found += _cut("objects in the image", "i2t", queries.i2t, *_bins(objects, OBJECTS))
        found += _cut("objects in the image", "t2i", queries.t2i, *_bins(objects[queries.owner], OBJECTS))
    return tuple(found)


def count_words(caption: str) -> int:
    """Words of a caption, punctuation that stands alone not counted.

    Example:
        >>> count_words("A dog 's ball , red .")
        5
    """
    return sum(any(letter.isalnum() for letter in word) for word in caption.split())


def objects_of(split: Split) -> Int[np.ndarray, " N"] | None:
    """Number of objects in each image from the side input ``objects``; None without it.

    Raises:
        DataError: it holds more than one number an image.
    """
    if OBJECTS_EXTRA not in split.image_extras:
        return None
    values = split.image_extras[OBJECTS_EXTRA].read(range(split.n_images))[OBJECTS_EXTRA]
    if values.numel() != split.n_images:
        raise DataError(
            f"{split.dataset}/{split.name}: the side input 'objects' has shape {list(values.shape)}. Expected one "
            "number an image."
        )
    counts: np.ndarray = values.reshape(-1).numpy().astype(np.int64)
    return counts


def annotated_objects(annotations: Path, image_ids: Sequence[str] | None) -> Int[np.ndarray, " N"]:
    """Number of objects in each image from COCO's instance annotations.

    Args:
        annotations: ``instances_val2014.json``, or a folder that holds it.
        image_ids: N ids; COCO's numbers in any spelling.

    Raises:
        DataError: there is no such file, the ids are unknown, or the file does not list an image.
    """
    path = require_instances(annotations)
    if image_ids is None:
        raise DataError(f"'{path}' tells images by their ids, which the scores have not. Add --data DIR.")
    counts = read_instances(path).counts
    ids = [canonical_id(name) for name in image_ids]
    missing = [name for name in ids if name not in counts]
    if missing:
        raise DataError(
            f"'{path}' does not list {len(missing):,} of {len(ids):,} images ({named(missing)}). Expected the "
            "annotations of the same images: instances_val2014.json for COCO's dev and test splits."
        )
    return np.array([counts[name] for name in ids], dtype=np.int64)


def slices_table(slices: Sequence[Slice]) -> str:
    """Plain text."""
    rows = [
        (f"{one.group}: {one.name}", one.direction, *(f"{r:.1f}" for r in one.recalls), f"{one.queries:,}")
        for one in slices
    ]
    return "\n".join(aligned(("slice", "", *(f"R@{k}" for k in CUTS), "queries"), rows)) if rows else ""


def _cut(group: str, way: str, ranks: QueryRanks, labels: Sequence[str], order: Sequence[str]) -> list[Slice]:
    """One slice for each label that occurs."""
    names = np.array(labels)
    masks: list[tuple[str, Bool[np.ndarray, " Q"]]] = [(name, names == name) for name in order]
    masks = [(name, mask) for name, mask in masks if mask.any()]
    if len(masks) < 2:
        return []
    rank = ranks.pessimistic
    return [
        Slice(group, name, way, int(mask.sum()), tuple(recall_at_k(rank[mask], k) for k in CUTS))  # type: ignore[arg-type]
        for name, mask in masks
    ]


def _bins(values: Int[np.ndarray, " n"], ends: Sequence[int]) -> tuple[list[str], list[str]]:
    """Name of the bin of every value, and all names in order."""
    starts = [end + 1 for end in ends]
    inner = [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends[1:], strict=False)]
    names = [f"up to {ends[0]}", *inner, f"{starts[-1]} or more"]
    return [names[k] for k in np.searchsorted(np.array(ends), values, side="left").tolist()], names


def _repetitions(captions: Sequence[str], owner: Int[np.ndarray, " M"]) -> tuple[list[str], list[str]]:
    """Whether the same text describes another image too."""
    names = ["only here", "repeated for the same image", "repeated for another image"]
    times = Counter(captions)
    images: dict[str, set[int]] = {}
    for text, image in zip(captions, owner.tolist(), strict=True):
        images.setdefault(text, set()).add(image)
    labels = [names[0] if times[t] == 1 else names[1] if len(images[t]) == 1 else names[2] for t in captions]
    return labels, names
