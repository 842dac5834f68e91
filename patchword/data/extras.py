"""Side inputs of images and captions: arrays beside the features that some methods ask for by name.

``{split}_ims_{name}.npy`` holds one row per image (``clip``: global vectors, ``adjacency``: which region sees which),
``{split}_caps_{name}.npy`` one row per caption. They are mapped, read a batch at a time, and follow their items through
every selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.data.adjacency import BoxAdjacency
from patchword.data.features import RegionFeatures, read_rows, scan_rows
from patchword.data.npy import header_of, open_array
from patchword.data.table import Extra, Split
from patchword.errors import DataError

KNOWN = ("clip", "adjacency", "dir_selfadj4", "objects")  # what the methods and the evaluation ask for
SYNONYMS = {"dir_selfadj4": "adjacency"}  # names of the authors' files
BOX_FILES = ("bbx", "size")  # {split}_ims_bbx.npy and {split}_ims_size.npy are pixel boxes, read as boxes
_ROWS = 1024  # read at a time when all are looked at


@dataclass(frozen=True)
class ArrayExtra:
    """Rows of one array file, opened when they are read.

    Attributes:
        name: under which a method finds them.
        path: the ``.npy`` file.
        rows: item i is row ``rows[i]``.
    """

    name: str
    path: Path
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, items: Sequence[int]) -> ArrayExtra:
        """Those of a subset of the items."""
        return ArrayExtra(self.name, self.path, self.rows[np.asarray(items, dtype=np.int64)])

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """The rows of a batch: an adjacency as truth values, everything else as float32.

        Raises:
            DataError: the file is damaged, too short, or holds NaN or an infinity.
        """
        array = open_array(self.path, truths=True)
        rows = self.rows[np.asarray(items, dtype=np.int64)]
        if len(rows) and rows.max() >= len(array):
            raise DataError(
                f"'{self.path}' has {len(array):,} rows. Expected one for each item: row {int(rows.max()):,} is wanted."
            )
        values = read_rows(array, rows)
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float32, copy=False)
        if not np.isfinite(numbers).all():
            bad = int(np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1))[0])
            raise DataError(f"'{self.path}' row {int(rows[bad])} holds NaN or infinite values. Make the file again.")
        return {self.name: torch.from_numpy(values != 0 if self.name.startswith("adjacency") else numbers)}


def find_extras(
    folder: Path, split: str, side: str, items: int, *, repeated: NDArray[np.integer] | None = None, n_rows: int = 0
) -> tuple[dict[str, Extra], list[str]]:
    """Side inputs of a split that lie in a folder, and notes on files left out; only headers are read.

    Args:
        folder, split: where, and of which split.
        side: ``ims`` or ``caps``.
        items: images or captions of the split.
        repeated: where the feature file repeats images: the row of each image. A side file may repeat them as well.
        n_rows: of that feature file.

    A file with any other number of rows is no side input of this split; a note names those that a method would ask for.
    """
    found: dict[str, Extra] = {}
    notes = []
    for path in sorted(folder.glob(f"{split}_{side}_*.npy")):
        name = path.stem.removeprefix(f"{split}_{side}_")
        if name in BOX_FILES:
            continue
        shape = header_of(path).shape
        count, called = (shape[0] if shape else 0), SYNONYMS.get(name, name)
        if count == items:
            found[called] = ArrayExtra(called, path, np.arange(items, dtype=np.int64))
        elif repeated is not None and count == n_rows:
            found[called] = ArrayExtra(called, path, repeated.astype(np.int64))
        elif name in KNOWN:
            notes.append(f"'{path.name}' has {count:,} rows, not {items:,}: left out")
    return found, notes


def read_extras(extras: Mapping[str, Extra], names: Sequence[str], items: Sequence[int]) -> dict[str, Tensor]:
    """The named side inputs of a batch."""
    values: dict[str, Tensor] = {}
    for name in names:
        values |= extras[name].read(items)
    return values


def _file_of(split: str, side: str, name: str) -> str:
    """The file that gives a side input."""
    if name.startswith("adjacency_"):
        return f"'{split}_boxes.npy' (or '{split}_ims_bbx.npy' with '{split}_ims_size.npy')"
    if name == "graph":
        return f"'{split}_amr.penman' (or '{split}_amr_caps.txt')"
    return f"'{split}_{side}_{name}.npy'"


@dataclass(frozen=True)
class MemoryExtra:
    """Side inputs that are at hand: tensors with one row per item, under their names."""

    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def select(self, items: Sequence[int]) -> MemoryExtra:
        """Those of a subset of the items."""
        return MemoryExtra(self.read(items))

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """The rows of a batch."""
        return {name: value[list(items)] for name, value in self.values.items()}


def require_extras(split: Split, images: Sequence[str], captions: Sequence[str]) -> None:
    """Refuse a split that lacks a side input.

    Raises:
        DataError: naming the missing file.
    """
    for side, what, count, wanted, there in (
        ("ims", "images", split.n_images, images, split.image_extras),
        ("caps", "captions", split.n_captions, captions, split.caption_extras),
    ):
        for name in wanted:
            if name not in there:
                raise DataError(
                    f"{split.dataset}/{split.name}: this model reads `{name}` of the {what}, which is not there. "
                    f"Expected {_file_of(split.name, side, name)} beside the features, with {count:,} rows."
                )


def require_finite(split: Split, images: Sequence[str], captions: Sequence[str]) -> None:
    """Refuse side inputs with NaN or an infinity, and boxes that an adjacency is computed from.

    Every row of these is looked at once, before anything is encoded; features are looked at as they are read.

    Args:
        split: that has them.
        images, captions: names of the side inputs that are read.

    Raises:
        DataError: naming the file and the row.
    """
    for wanted, there in ((images, split.image_extras), (captions, split.caption_extras)):
        for name in wanted:
            extra = there.get(name)
            if isinstance(extra, ArrayExtra):
                for start in range(0, len(extra), _ROWS):
                    extra.read(range(start, min(start + _ROWS, len(extra))))
            elif isinstance(extra, MemoryExtra):
                _require_finite_tensors(extra, f"{split.dataset}/{split.name}")
            elif isinstance(extra, BoxAdjacency):
                _require_finite_boxes(split)


def _require_finite_tensors(extra: MemoryExtra, where: str) -> None:
    for name, value in extra.values.items():
        broken = torch.nonzero(~value.isfinite())
        if len(broken):
            row = int(broken[0, 0])
            raise DataError(f"{where}: row {row} of the side input `{name}` holds NaN or infinite values.")


def _require_finite_boxes(split: Split) -> None:
    """Boxes are held without their file: it is looked for beside the features."""
    broken = [] if split.boxes is None else np.flatnonzero(~np.isfinite(split.boxes).all(axis=(1, 2))).tolist()
    if not broken:
        return
    image = split.image_ids[broken[0]]
    folder = split.images.path.parent if isinstance(split.images, RegionFeatures) else None
    for ending in ("boxes", *(f"ims_{name}" for name in BOX_FILES)):
        path = None if folder is None else folder / f"{split.name}_{ending}.npy"
        rows = scan_rows(open_array(path)).broken if path is not None and path.is_file() else []
        if rows:
            shown = ", ".join(map(str, rows[:3])) + (" ..." if len(rows) > 3 else "")
            raise DataError(
                f"'{path}' row {shown} holds NaN or infinite numbers, and the boxes of image {image!r} are made of "
                f"them; {len(broken):,} of {split.n_images:,} images have such boxes. Make the file again."
            )
    raise DataError(f"{split.dataset}/{split.name}: the boxes of image {image!r} hold NaN or infinite numbers.")
