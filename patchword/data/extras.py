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

from patchword.data.features import read_rows
from patchword.data.npy import header_of, open_array
from patchword.data.table import Extra, Split
from patchword.errors import DataError

KNOWN = ("clip", "adjacency", "dir_selfadj4", "objects")  # what the methods and the evaluation ask for
SYNONYMS = {"dir_selfadj4": "adjacency"}  # names of the authors' files
BOX_FILES = ("bbx", "size")  # {split}_ims_bbx.npy and {split}_ims_size.npy are pixel boxes, read as boxes


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
        if self.name.startswith("adjacency"):
            return {self.name: torch.from_numpy(values != 0)}
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
            raise DataError(f"'{self.path}' row {int(rows[bad])} holds NaN or infinite values. Make the file again.")
        return {self.name: torch.from_numpy(values)}


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
