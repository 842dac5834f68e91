"""Files of numpy (``.npy``): what their header promises, and numbers mapped into memory."""

from __future__ import annotations

import math
import struct
import tokenize
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.data.text_files import ASK_DOCTOR, LFS_MARK
from patchword.errors import DataError

# What numpy raises on damaged headers; the warning speaks of a header that needs repair.
_HEADER_ERRORS = (
    ValueError, OSError, EOFError, SyntaxError, TypeError, LookupError, AttributeError, OverflowError, MemoryError,
    RecursionError, struct.error, tokenize.TokenError, UserWarning,
)  # fmt: skip


class Header(NamedTuple):
    """What the header of a file promises.

    Attributes:
        shape: of the array.
        dtype: of its elements.
        start: first byte of the data.
        order: of the elements: C (the last axis runs fastest) or Fortran.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    start: int
    order: Literal["C", "F"]

    @property
    def data_bytes(self) -> int:
        """Bytes of the data, of any size."""
        return int(self.dtype.itemsize * math.prod(self.shape))


def read_header(file: BinaryIO) -> Header:
    """Read the header of an open file, which then stands at the first byte of its data.

    Raises:
        ValueError: it is damaged, or no header; in one line.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version in ((2, 0), (3, 0)):  # 3 is 2 with names of columns in UTF-8, which numbers have not
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"its format has the unknown version {version[0]}.{version[1]}")
        if any(axis < 0 for axis in shape):
            raise ValueError(f"its header names the shape {shape}")
    except _HEADER_ERRORS as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else "unreadable") from None
    return Header(shape, dtype, file.tell(), "F" if is_fortran else "C")


def header_of(path: Path) -> Header:
    """What the header of a data file promises.

    Raises:
        DataError: the file is not a ``.npy`` file, is cut inside its header, or is a Git LFS pointer.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            begin = file.read(len(LFS_MARK))
            file.seek(0)
            if begin == LFS_MARK:
                raise DataError(
                    f"'{path}' is a Git LFS pointer of {size} bytes, not the file itself. Fetch it with: git lfs pull"
                )
            if begin.startswith(b"PK"):
                raise DataError(f"'{path}' is an archive, not a single array. Expected a .npy file.")
            return read_header(file)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is not a readable .npy file ({size:,} bytes): {error}. Copy it again.") from None


def open_array(path: Path, *, truths: bool = False) -> NDArray[np.generic]:
    """Memory-map a ``.npy`` file read-only.

    Args:
        path: the file.
        truths: take truth values as well as numbers.

    Raises:
        DataError: the file is missing, truncated, not a ``.npy`` file, or holds something else than numbers.
    """
    if not path.is_file():
        raise DataError(f"'{path}' is missing. {ASK_DOCTOR} {path.parent}")
    header = header_of(path)
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        raise DataError(
            f"'{path}' holds pickled Python objects, which are never loaded. Convert it to a numeric array."
        )
    if dtype.kind not in ("fiub" if truths else "fiu"):
        raise DataError(f"'{path}' holds {dtype} values. Expected numbers (float32, float16 or integers).")
    size, expected = path.stat().st_size, header.start + header.data_bytes
    if size < expected:
        raise DataError(
            f"'{path}' is truncated: {size:,} bytes, but its header promises {expected:,} for shape {shape}. "
            "Copy or download the file again."
        )
    if 0 in shape:
        raise DataError(f"'{path}' is an empty array of shape {shape}. Expected at least one row.")
    return np.memmap(path, dtype=dtype, mode="r", offset=header.start, shape=shape, order=header.order)
