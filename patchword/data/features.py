"""Region features on disk: memory-mapped, one row per image, read a batch at a time.

COCO's training features are 33 GB; nothing here ever holds more than one batch of them. Measured rates and memory:
``patchword bench load``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.data.npy import open_array
from patchword.data.table import Split
from patchword.errors import DataError
from patchword.types import Images


@dataclass(frozen=True)
class RegionFeatures:
    """Region vectors of N images in one memory-mapped array.

    Attributes:
        path: the file, for messages.
        array: ``(rows, R, F)`` when every image has R regions, else ``(total regions, F)`` with ``offsets``.
        rows: N row numbers: image i is ``array[rows[i]]`` (SCAN's dev and test files repeat every image five times).
        offsets: ragged files only: rows + 1 positions in ``array``.
    """

    path: Path
    array: NDArray[np.generic]
    rows: NDArray[np.int64]
    offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """A worker gets the name of a mapped file, not its content."""
        state = dict(self.__dict__)
        if isinstance(self.array, np.memmap) and self.array.filename is not None:
            state["array"] = Path(self.array.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, open_array(value) if name == "array" and isinstance(value, Path) else value)

    @property
    def width(self) -> int:
        """F, the width of one region vector."""
        return int(self.array.shape[-1])

    def select(self, images: Sequence[int]) -> RegionFeatures:
        """The features of a subset of the images; nothing is read."""
        return RegionFeatures(self.path, self.array, self.rows[np.asarray(images, dtype=np.int64)], self.offsets)

    def read(self, images: Sequence[int]) -> Images:
        """Read a batch as float32, zero-padded to its longest image.

        Raises:
            DataError: a vector holds NaN or an infinity.
        """
        rows = self.rows[np.asarray(images, dtype=np.int64)]
        values, lengths = self._read_rows(rows)
        with np.errstate(invalid="ignore", over="ignore"):
            suspicious = not np.isfinite(values.sum(dtype=np.float64))
        if suspicious and not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
            raise DataError(
                f"'{self.path}' row {int(rows[bad])} holds NaN or infinite features. "
                f"List all such rows with: patchword doctor data {self.path.parent}"
            )
        return Images(torch.from_numpy(values), torch.from_numpy(lengths))

    def broken(self, *, block: int = 128) -> list[int]:
        """Images whose vectors hold NaN or an infinity; every vector is read, ``block`` images at a time."""
        found: list[int] = []
        for start in range(0, len(self), block):
            values, _ = self._read_rows(self.rows[start : start + block])
            found += (start + np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))).tolist()
        return found

    def _read_rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors ``(B, R, F)`` and the number of regions of each image."""
        with np.errstate(over="ignore"):
            if self.offsets is None:
                values = read_rows(self.array, rows).astype(np.float32, copy=False)  # (B, R, F)
                return values, np.full(len(rows), values.shape[1], dtype=np.int64)
            lengths = (self.offsets[rows + 1] - self.offsets[rows]).astype(np.int64)
            values = np.zeros((len(rows), int(lengths.max(initial=0)), self.width), dtype=np.float32)
            for k, row in enumerate(rows):
                values[k, : lengths[k]] = self.array[self.offsets[row] : self.offsets[row + 1]]
        return values, lengths


def read_rows(array: NDArray[np.generic], rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Rows of a memory-mapped array, read from its file with one positioned read each.

    Going through the map instead costs a page fault per 4 KiB and leaves every touched page in the process: on a cold
    20 GB file 96 to 870 images/s and 3 GB resident against 2,100 images/s and nothing (``patchword bench load``).
    """
    if (
        not isinstance(array, np.memmap)
        or array.filename is None
        or not array.flags.c_contiguous
        or not hasattr(os, "preadv")
    ):
        return np.asarray(array[rows])
    result = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    width = result[:1].nbytes
    if width == 0 or len(rows) == 0:
        return result
    view = memoryview(result.reshape(-1).view(np.uint8).data)
    handle = os.open(array.filename, os.O_RDONLY)
    try:
        for k, row in enumerate(rows.tolist()):
            row = row + len(array) if row < 0 else row
            if not 0 <= row < len(array):
                raise IndexError(f"row {row} of {len(array)}")
            part, place = view[k * width : (k + 1) * width], array.offset + row * width
            while len(part):
                count = os.preadv(handle, [part], place)
                if count == 0:
                    raise DataError(f"'{array.filename}' was cut short while it was read. Copy it again.")
                part, place = part[count:], place + count
    finally:
        os.close(handle)
    return result


def require_width(split: Split, width: int) -> None:
    """Refuse features of another width than the image encoder takes.

    Raises:
        DataError: the widths differ; the message names both. Pictures have no width and always pass.
    """
    source = split.images
    if isinstance(source, RegionFeatures) and source.width != width:
        raise DataError(
            f"'{source.path}' has features of width {source.width}, but the image encoder takes width {width}. "
            f"Set the encoder's feature width to {source.width}, or use the features it was trained on."
        )


@dataclass(frozen=True)
class FeatureScan:
    """What one pass over a feature file finds. The statistics leave the broken rows out.

    Attributes:
        broken: rows that hold NaN or an infinity.
        empty: rows that are all zero.
    """

    broken: list[int]
    empty: list[int]
    mean: float
    std: float
    min: float
    max: float


def scan_rows(array: NDArray[np.generic], rows: NDArray[np.int64] | None = None, *, block: int = 256) -> FeatureScan:
    """Look at every row (or at ``rows``) once, ``block`` rows at a time.

    Example:
        >>> scan_rows(np.asarray([[[1.0, 3.0]], [[0.0, 0.0]], [[np.nan, 1.0]]]))
        FeatureScan(broken=[2], empty=[1], mean=1.0, std=1.224744871391589, min=0.0, max=3.0)
    """
    broken: list[int] = []
    empty: list[int] = []
    count, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    n = len(array) if rows is None else len(rows)
    for start in range(0, n, block):
        numbers = np.arange(start, min(start + block, n)) if rows is None else rows[start : start + block]
        values = array[start : start + block] if rows is None else array[numbers]
        with np.errstate(over="ignore"):
            part = np.asarray(values, dtype=np.float32).reshape(len(numbers), -1)  # (block, R * F)
        finite = np.isfinite(part).all(axis=1)
        broken += numbers[~finite].tolist()
        empty += numbers[(part == 0).all(axis=1)].tolist()
        part = part[finite]
        if part.size:
            count += part.size
            total += float(part.sum(dtype=np.float64))
            squares += float(np.square(part, dtype=np.float64).sum())
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if not count:
        return FeatureScan(broken, empty, math.nan, math.nan, math.nan, math.nan)
    mean = total / count
    return FeatureScan(broken, empty, mean, math.sqrt(max(0.0, squares / count - mean * mean)), low, high)
