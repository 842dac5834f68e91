"""SCAN's ``precomp`` layout: ``{split}_ims.npy``, ``{split}_caps.txt``, ``{split}_ids.txt`` in one folder.

Train files store every image once; SCAN's dev, test and testall files store it five times in a row. Internally there is
one row per image, whatever the file does. Source: kuanghuei/SCAN ``data.py``; the rules are those of docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchword.data.adjacency import box_extras
from patchword.data.extras import find_extras
from patchword.data.features import RegionFeatures
from patchword.data.find_pictures import pictures_of_ids
from patchword.data.graph_words import find_graphs
from patchword.data.npy import open_array
from patchword.data.table import Split
from patchword.data.text_files import in_split_order, missing_split, read_captions, read_lines
from patchword.errors import DataError


def precomp_folders(root: Path, name: str | None) -> list[Path]:
    """Every folder in which the files of data set ``name`` may lie under ``root``, most specific first."""
    if name is None:
        return [root, root / "precomp", *sorted(root.glob("*_precomp")), *sorted(root.glob("*/precomp"))]
    return [
        root / f"{name}_precomp",
        root / name / "precomp",
        root / name / f"{name}_precomp",
        root / name,
        root / "precomp",
        root,
    ]


candidates = precomp_folders


def find_precomp(root: Path, name: str | None = None) -> Path | None:
    """The folder under ``root`` that holds ``*_caps.txt`` files, or None.

    Raises:
        DataError: no name was given and several data sets lie side by side.
    """
    found = [folder for folder in precomp_folders(root, name) if folder.is_dir() and any(folder.glob("*_caps.txt"))]
    if name is None and len(found) > 1 and found[0] not in (root, root / "precomp"):
        names = ", ".join(f"'{folder.relative_to(root)}'" for folder in found)
        raise DataError(f"'{root}' holds several data sets: {names}. Name the one that is meant.")
    return found[0] if found else None


find = find_precomp


def splits_in(folder: Path) -> list[str]:
    """Names of the splits that have a captions file, train first."""
    names = {path.name for path in folder.glob("*_caps.txt") if not path.name.endswith("_amr_caps.txt")}
    return in_split_order({name.removesuffix("_caps.txt") for name in names})


splits = splits_in


@dataclass(frozen=True)
class Grouping:
    """How the lines and rows of a split map to unique images."""

    image_ids: list[str]
    owner: NDArray[np.int64]
    rows: NDArray[np.int64] | None
    note: str


def group_rows(
    ids: list[str] | None,
    n_captions: int,
    n_rows: int | None,
    array: NDArray[np.generic] | None,
    where: str,
) -> Grouping:
    """Decide from ids, captions and feature rows together which rows are one image.

    The rule of the reference loaders (``rows != captions`` means five captions per image) is one line long and silently
    misaligns everything when a single line is missing; here what does not fit is refused with the three counts.

    Args:
        ids: lines of the ids file, or None when there is none.
        n_captions: lines of the captions file.
        n_rows: rows of the feature array, or None without features.
        array: the features, looked at only when the ids can not tell.
        where: folder and split, for messages.

    Raises:
        DataError: the counts fit no rule.
    """
    counts = (
        f"{n_captions:,} captions, {'no' if ids is None else f'{len(ids):,}'} ids, "
        f"{'no' if n_rows is None else f'{n_rows:,}'} feature rows"
    )
    if ids is not None and len(set(ids)) < len(ids):
        return _group_by_runs(ids, n_captions, n_rows, where, counts)
    if ids is not None:
        images = len(ids)
    elif n_rows is not None:
        images = n_rows
    else:
        raise DataError(
            f"{where}: {counts}. Captions alone do not say which image they describe: add an ids file or features."
        )
    if images == n_captions and ids is None and array is not None and n_captions % 5 == 0 and _repeats(array, 5):
        images = n_captions // 5
    if images == 0 or n_captions == 0 or n_captions % images:
        raise DataError(
            f"{where}: {counts}. {n_captions:,} captions can not be shared evenly among {images:,} images. Expected a "
            "whole number of captions per image; a line is missing or extra. Fix the file, or repeat an image's id "
            "once per caption."
        )
    per_image = n_captions // images
    rows, note = _feature_rows(images, n_captions, n_rows, np.arange(images) * per_image, where, counts)
    return Grouping(
        ids if ids is not None else [str(i) for i in range(images)],
        np.arange(n_captions) // per_image,
        rows,
        f"{per_image} caption{'s' if per_image != 1 else ''} per image{note}",
    )


def _group_by_runs(ids: list[str], n_captions: int, n_rows: int | None, where: str, counts: str) -> Grouping:
    """Ids that repeat: one line per caption, the lines of an image next to each other."""
    if len(ids) != n_captions:
        raise DataError(
            f"{where}: {counts}. The ids repeat, so one id per caption was expected. Fix the ids or the captions file."
        )
    starts = [k for k, image in enumerate(ids) if k == 0 or image != ids[k - 1]]
    seen: set[str] = set()
    for k in starts:
        if ids[k] in seen:
            raise DataError(
                f"{where}: id {ids[k]!r} comes back in line {k + 1} after other ids. "
                "Expected the captions of an image in one run."
            )
        seen.add(ids[k])
    owner = np.repeat(np.arange(len(starts)), np.diff([*starts, len(ids)]))
    rows, note = _feature_rows(len(starts), n_captions, n_rows, np.asarray(starts), where, counts)
    return Grouping([ids[k] for k in starts], owner, rows, f"ids repeat once per caption{note}")


def _feature_rows(
    images: int, n_captions: int, n_rows: int | None, starts: NDArray[np.int64], where: str, counts: str
) -> tuple[NDArray[np.int64] | None, str]:
    """The feature row of each image, and how they are stored; ``starts``: first caption of each image."""
    if n_rows is None:
        return None, ""
    if n_rows == images:
        return np.arange(images, dtype=np.int64), ", features once per image"
    if n_rows == n_captions:
        return starts.astype(np.int64), ", features repeated once per caption: one row per image is read"
    raise DataError(
        f"{where}: {counts}. Expected {images:,} feature rows (one per image) or {n_captions:,} (one per caption). "
        "The feature file is short or belongs to another split."
    )


def _repeats(array: NDArray[np.generic], times: int) -> bool:
    """Whether rows come in groups of ``times`` equal ones, looked at in a few places."""
    groups = len(array) // times
    places = sorted({0, groups // 3, groups // 2, groups - 1})
    return all(
        np.array_equal(array[g * times], array[g * times + k], equal_nan=True) for g in places for k in range(1, times)
    )


def open_features(folder: Path, split: str) -> tuple[NDArray[np.generic], NDArray[np.int64] | None] | None:
    """The feature array of a split (and its offsets when ragged), or None when the file is not there."""
    path = folder / f"{split}_ims.npy"
    if not path.exists():
        return None
    array = open_array(path)
    offsets_path = folder / f"{split}_offsets.npy"
    if offsets_path.exists():
        stored = open_array(offsets_path)
        offsets = np.asarray(stored).astype(np.int64)
        fits = array.ndim == 2 and stored.ndim == 1 and stored.dtype.kind in "iu" and len(offsets) > 1
        if not fits or offsets[0] != 0 or offsets[-1] != len(array) or (np.diff(offsets) < 1).any():
            raise DataError(
                f"'{offsets_path}' does not fit '{path.name}' {array.shape}. Expected whole numbers that rise from 0 "
                f"to {len(array):,}, one more than images, at least one region each."
            )
        return array, offsets
    if array.ndim != 3:
        raise DataError(
            f"'{path}' has shape {array.shape}. Expected (images, regions, width), "
            f"or (regions, width) beside '{offsets_path.name}'."
        )
    return array, None


def open_boxes(
    folder: Path,
    split: str,
    n_images: int,
    rows: NDArray[np.int64] | None,
    n_rows: int | None,
    offsets: NDArray[np.int64] | None = None,
) -> NDArray[np.float32] | None:
    """Region boxes in 0..1 from ``{split}_boxes.npy``; None without the file.

    The rows follow those of the feature file, or are one per image. Boxes of ragged features, ``(total regions, 4)``,
    are zero-padded.
    """
    path = folder / f"{split}_boxes.npy"
    if not path.exists():
        return None
    boxes = open_array(path)
    if offsets is not None and boxes.shape == (offsets[-1], 4):
        lengths = np.diff(offsets)
        padded = np.zeros((len(lengths), int(lengths.max()), 4), dtype=np.float32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = boxes
        return padded if rows is None else padded[rows]
    return _fit_boxes(path, boxes, n_images, rows, n_rows)


def open_pixel_boxes(
    folder: Path, split: str, n_images: int, rows: NDArray[np.int64] | None, n_rows: int | None
) -> tuple[NDArray[np.float32] | None, str]:
    """Boxes in pixels from ``{split}_ims_bbx.npy``, divided by the sizes in ``{split}_ims_size.npy``.

    The sizes must be numbers, ``(rows, 2)``: width, height. The files that are passed around hold pickled dictionaries,
    which are never loaded; a note says so. A size that is infinite or NaN makes boxes of NaN, which whatever reads them
    refuses with file and row.
    """
    path, sizes_path = folder / f"{split}_ims_bbx.npy", folder / f"{split}_ims_size.npy"
    if not path.exists():
        return None, ""
    try:
        sizes = np.asarray(open_array(sizes_path), dtype=np.float32)
    except DataError as error:
        return None, f"boxes left out: {error}"
    if sizes.ndim != 2 or sizes.shape[1] != 2 or (sizes <= 0).any():
        return None, f"boxes left out: '{sizes_path}' has shape {sizes.shape}. Expected (rows, 2): width, height."
    sizes = np.where(np.isinf(sizes), np.float32(np.nan), sizes)  # box / inf = 0 would pass for a box; NaN is refused
    pixels = _fit_boxes(path, open_array(path), n_images, rows, n_rows)
    if len(sizes) != n_images and rows is not None and len(sizes) == n_rows:
        sizes = sizes[rows]
    if len(sizes) != n_images:
        return None, f"boxes left out: '{sizes_path}' has {len(sizes):,} rows for {n_images:,} images"
    return pixels / np.tile(sizes, 2)[:, None, :], ""


def _fit_boxes(
    path: Path, boxes: NDArray[np.generic], n_images: int, rows: NDArray[np.int64] | None, n_rows: int | None
) -> NDArray[np.float32]:
    """One row of boxes per image."""
    if boxes.ndim != 3 or boxes.shape[-1] != 4:
        raise DataError(f"'{path}' has shape {boxes.shape}. Expected (images, regions, 4): x1, y1, x2, y2.")
    if len(boxes) == n_images:
        return np.asarray(boxes, dtype=np.float32)
    if rows is not None and len(boxes) == n_rows:
        return np.asarray(boxes[rows], dtype=np.float32)
    raise DataError(
        f"'{path}' has {len(boxes):,} rows. Expected {n_images:,} (one per image), or as many as the feature file."
    )


def read_precomp(folder: Path, split: str, *, dataset: str) -> Split:
    """Read one split of a SCAN precomp folder.

    Pictures that lie near and carry the ids as names, directly or through ``id_mapping.json``, become ``files``.

    Raises:
        DataError: a file is missing or inconsistent; the message names it.
    """
    captions_path = folder / f"{split}_caps.txt"
    if not captions_path.exists():
        raise missing_split(folder, split, splits_in(folder), hint=f" '{captions_path.name}' is missing.")
    captions = read_captions(captions_path)
    ids_path = folder / f"{split}_ids.txt"
    ids = read_lines(ids_path) if ids_path.exists() else None
    if ids is not None and "" in ids:
        raise DataError(f"'{ids_path}' line {ids.index('') + 1} is empty. Expected an image id on every line.")
    found = open_features(folder, split)
    array, offsets = found if found is not None else (None, None)
    n_rows = None if array is None else (len(array) if offsets is None else len(offsets) - 1)
    grouping = group_rows(ids, len(captions), n_rows, array if offsets is None else None, f"'{folder}' {split}")
    image_extras, image_notes = find_extras(
        folder, split, "ims", len(grouping.image_ids), repeated=grouping.rows, n_rows=n_rows or 0
    )
    caption_extras, caption_notes = find_extras(folder, split, "caps", len(captions))
    features = None
    if array is not None and grouping.rows is not None:
        features = RegionFeatures(folder / f"{split}_ims.npy", array, grouping.rows, offsets)
    boxes, box_note = open_boxes(folder, split, len(grouping.image_ids), grouping.rows, n_rows, offsets), ""
    if boxes is None:
        boxes, box_note = open_pixel_boxes(folder, split, len(grouping.image_ids), grouping.rows, n_rows)
    files, picture_note = _pictures(folder, grouping.image_ids, features is not None) if ids is not None else (None, "")
    found_split = Split(
        dataset=dataset,
        name=split,
        image_ids=grouping.image_ids,
        captions=captions,
        owner=grouping.owner.astype(np.int64),
        images=features,
        files=files,
        boxes=boxes,
        image_extras=image_extras,
        caption_extras={**find_graphs(folder, split, captions), **caption_extras},
        layout=f"precomp in '{folder}'",
        notes=tuple(note for note in (grouping.note, picture_note, box_note, *image_notes, *caption_notes) if note),
    )
    return replace(found_split, image_extras={**box_extras(found_split), **found_split.image_extras})


def _pictures(folder: Path, image_ids: list[str], has_features: bool) -> tuple[list[Path] | None, str]:
    """Picture files; beside features they are an extra: all of them, or None and a note that says why."""
    if not has_features:
        return pictures_of_ids(folder, image_ids)
    try:
        files, note = pictures_of_ids(folder, image_ids)
    except DataError as error:
        return None, f"pictures left out: {error}"
    return (None, f"pictures left out: {note}") if note else (files, "")


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one split, see `read_precomp`."""
    return read_precomp(place, split, dataset=dataset)
