"""Reading ``.npy`` score matrices, the authors' pickled dictionaries among them, without ever running what is inside.

``numpy.save`` of a dictionary writes a pickle. A pickle can call any function, so it is read here by an unpickler that
knows four names of numpy and refuses every other.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from jaxtyping import Shaped

from patchword.data.npy import read_header
from patchword.errors import ScoreError
from patchword.evaluate.matrix import first_unequal_row

_AUTHORS = "the authors' result file"
_HINT = "Save the plain matrix with numpy.save(FILE, scores)."


def _new_array(kind: object, shape: object, code: object) -> np.ndarray:
    """An empty array to be filled by the state that follows in the pickle, which brings the size and the dtype."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array is not stored as numpy.save stores it")
    return np.ndarray((0,), dtype=np.int8)


def _new_scalar(kind: object, data: object) -> Any:
    """One number."""
    if not isinstance(kind, np.dtype) or kind.hasobject or not isinstance(data, bytes) or len(data) != kind.itemsize:
        raise pickle.UnpicklingError("a number is not stored as numpy stores it")
    return np.frombuffer(data, dtype=kind)[0]


# numpy renamed `numpy.core` to `numpy._core` in version 2; files of both kinds exist.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _new_scalar for core in ("core", "_core")},
}


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries, lists, texts, numbers and numpy arrays; anything else is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}, which is never run")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside the file")


def read_npy(path: Path) -> tuple[Shaped[np.ndarray, "N M"], str]:
    """Read a score matrix from a ``.npy`` file.

    Args:
        path: numeric ``(N, M)``, or the authors' dictionary ``{"npts": N, "sims": (N, M)}``. ``npts`` may also count
            captions; with ``npts`` = N and kN rows, equal in runs of k, one row of each run is taken.

    Returns:
        The matrix, and in words which of the two it was.

    Raises:
        ScoreError: truncated, unsafe, or no matrix of numbers.
    """
    try:
        with path.open("rb") as file:
            if read_header(file).dtype.hasobject:
                return _read_dictionary(path, file)
    except (OSError, ValueError, EOFError) as error:
        raise ScoreError(f"'{path}' is no readable .npy file: {error}. {_HINT}") from None
    return _checked(path, read_numbers(path)), "a plain matrix"


def read_numbers(path: Path) -> Shaped[np.ndarray, "*shape"]:
    """Read a ``.npy`` file of plain numbers, of any shape.

    Raises:
        ScoreError: truncated, pickled, or no such file.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
        held = path.stat().st_size - header.start
        if not header.dtype.hasobject and held != header.data_bytes:
            promised = f"its header promises {header.data_bytes:,}"
            raise ScoreError(f"'{path}' is truncated: {held:,} bytes of data, {promised}.")
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ScoreError(f"'{path}' is no readable .npy file: {error}. {_HINT}") from None
    return array


def _read_dictionary(path: Path, file: BinaryIO) -> tuple[Shaped[np.ndarray, "N M"], str]:
    """The matrix in the pickled dictionary that the authors' code saves, and in words which form it had."""
    try:
        content = _ArraysOnly(file, encoding="latin1").load()  # latin1: how numpy's arrays of Python 2 are read
    except pickle.UnpicklingError as error:
        raise ScoreError(f"'{path}' holds a pickle that is refused: {error}. {_HINT}") from None
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise ScoreError(
            f"'{path}' holds a truncated or damaged pickle: {error or type(error).__name__}. {_HINT}"
        ) from None
    if isinstance(content, np.ndarray) and content.shape == () and content.dtype.hasobject:
        content = content.item()
    if not isinstance(content, dict) or not isinstance(content.get("sims"), np.ndarray) or "npts" not in content:
        raise ScoreError(
            f"'{path}' holds a pickle of another kind. Expected a dictionary with `npts` and `sims`. {_HINT}"
        )
    return _one_row_an_image(path, _checked(path, content["sims"]), content["npts"])


def _one_row_an_image(
    path: Path, scores: Shaped[np.ndarray, "rows M"], points: object
) -> tuple[Shaped[np.ndarray, "N M"], str]:
    """The matrix of a dictionary, where ``npts`` agrees with its sizes in one way or another.

    Code that encodes an image once for each caption counts either. Where ``npts`` is the number of rows or of columns,
    nothing is left to decide here.

    Returns:
        The matrix, and in words which form it had.
    """
    rows, columns = scores.shape
    found = f"'{path}': `npts` is {points} but `sims` is {rows} x {columns}"
    if not isinstance(points, int | np.integer) or points < 1:
        raise ScoreError(f"{found}. Expected the number of images. {_HINT}")
    if points in (rows, columns):
        return scores, _AUTHORS
    times, rest = divmod(rows, int(points))
    if rest or times < 2:
        raise ScoreError(
            f"{found}. Expected the number of images, one row each or every row several times, or that of captions. "
            f"The file was put together from two evaluations, or cut. {_HINT}"
        )
    pair = first_unequal_row(scores, np.arange(rows) // times)
    if pair is not None:
        raise ScoreError(
            f"{found}, which would be {times} rows an image; rows {pair[0]} and {pair[1]} differ. Expected rows that "
            f"repeat exactly. {_HINT}"
        )
    alone = np.ascontiguousarray(scores[::times])  # a copy, so that the other rows are freed
    return alone, f"{_AUTHORS} ({rows:,} rows, equal in runs of {times}, of which the first is taken)"


def _checked(path: Path, scores: np.ndarray) -> Shaped[np.ndarray, "N M"]:
    """Refuse what is no matrix of numbers."""
    if scores.ndim != 2 or 0 in scores.shape or scores.dtype.kind not in "fiu":
        raise ScoreError(
            f"'{path}' holds {scores.dtype} of shape {scores.shape}. Expected real numbers, images x captions."
        )
    return scores.astype(scores.dtype.newbyteorder("="), copy=False)
