"""Reading a score matrix block by block, and refusing one that can not be ranked honestly.

A NaN compares as False with everything, so a fast evaluator that counts "how many scored higher" reports 100 % for a
diverged model. Hence nothing is ranked before every value has been looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from patchword.errors import ScoreError

ScoreMatrix = Shaped[np.ndarray, "N M"] | Shaped[Tensor, "N M"]

# Cells looked at in one go: 2 MB of float32, which stays in the cache of a core.
CHUNK_CELLS = 2**19


@dataclass(frozen=True)
class NonFinite:
    """What a score matrix holds besides finite numbers.

    Attributes:
        nan: cells that are not a number.
        plus_inf: cells with +inf.
        minus_inf: cells with -inf.
        first: row, column and value of the first such cell in row order; None when all cells are finite.
    """

    nan: int = 0
    plus_inf: int = 0
    minus_inf: int = 0
    first: tuple[int, int, float] | None = None

    @property
    def total(self) -> int:
        """All cells that are not finite."""
        return self.nan + self.plus_inf + self.minus_inf


def check_matrix(scores: ScoreMatrix) -> tuple[int, int]:
    """Sizes of a score matrix.

    Args:
        scores: ``(N, M)``, one row an image, one column a caption.

    Returns:
        N and M.

    Raises:
        ScoreError: not a matrix, empty, or not of real numbers.
    """
    if scores.ndim != 2 or 0 in tuple(scores.shape):
        raise ScoreError(f"Scores have shape {tuple(scores.shape)}. Expected (images, captions), neither of them 0.")
    name = dtype_name(scores)
    if not name.startswith(("float", "bfloat", "int", "uint")):
        raise ScoreError(f"Scores have dtype {name}. Expected real numbers such as float32.")
    return int(scores.shape[0]), int(scores.shape[1])


def dtype_name(scores: ScoreMatrix) -> str:
    """Name of the dtype as the scores came in, without the library's name."""
    return str(scores.dtype).removeprefix("torch.")


def as_array(part: Shaped[np.ndarray, "*shape"] | Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """A numpy array with the same values in the same order; half precision becomes float32, which is exact.

    A view where possible: nothing is rounded and, but for half precision and other devices, nothing is copied.
    """
    if isinstance(part, Tensor):
        wide = part.detach().float() if part.dtype in (torch.float16, torch.bfloat16) else part.detach()
        array: np.ndarray = wide.cpu().numpy()
        return array
    return part.astype(np.float32) if part.dtype == np.float16 else part


def row_blocks(scores: ScoreMatrix, chunk_cells: int, *, most: int = 2**62) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive blocks of rows with about ``chunk_cells`` cells and at most ``most`` rows each."""
    rows = min(max(1, chunk_cells // int(scores.shape[1])), most)
    for start in range(0, int(scores.shape[0]), rows):
        block = slice(start, min(start + rows, int(scores.shape[0])))
        yield block, as_array(scores[block])


def cells_of(
    scores: ScoreMatrix, rows: Int[np.ndarray, " P"], columns: Int[np.ndarray, " P"]
) -> Shaped[np.ndarray, " P"]:
    """Some cells of a matrix, in the dtype that its blocks have."""
    if isinstance(scores, Tensor):
        places = (torch.as_tensor(k, device=scores.device) for k in (rows, columns))
        return as_array(scores[tuple(places)])
    return as_array(scores[rows, columns])


def find_non_finite(scores: ScoreMatrix, *, chunk_cells: int = CHUNK_CELLS) -> NonFinite:
    """Count the cells that are NaN or infinite, and find the first one.

    Args:
        scores: ``(N, M)``.
        chunk_cells: cells looked at in one go; changes memory, never the result.

    Example:
        >>> find_non_finite(np.array([[0.5, np.nan], [np.inf, 1.0]]))
        NonFinite(nan=1, plus_inf=1, minus_inf=0, first=(0, 1, nan))
    """
    nan = plus = minus = 0
    first: tuple[int, int, float] | None = None
    for rows, block in row_blocks(scores, chunk_cells):
        finite = np.isfinite(block)
        if finite.all():
            continue
        if first is None:
            row, column = (int(k) for k in np.unravel_index(int(np.argmin(finite)), finite.shape))
            first = (rows.start + row, column, float(block[row, column]))
        odd = block[~finite]
        nan += int(np.isnan(odd).sum())
        plus += int((odd == np.inf).sum())
        minus += int((odd == -np.inf).sum())
    return NonFinite(nan, plus, minus, first)


def refuse_non_finite(scores: ScoreMatrix, *, allow_pruned: bool = False, chunk_cells: int = CHUNK_CELLS) -> NonFinite:
    """Refuse a matrix with NaN or infinite cells.

    Args:
        scores: ``(N, M)``.
        allow_pruned: accept -inf as "this pair was not scored"; it ranks below every score.
        chunk_cells: cells looked at in one go.

    Returns:
        What was found: nothing, or only -inf where that is allowed.

    Raises:
        ScoreError: names the count and the first position.
    """
    found = find_non_finite(scores, chunk_cells=chunk_cells)
    refused = found.nan + found.plus_inf + (0 if allow_pruned else found.minus_inf)
    if not refused or found.first is None:
        return found
    row, column, value = found.first
    pruned = (
        " Pairs left out on purpose (-inf) are accepted in Python only: evaluate_scores(..., allow_pruned=True)."
        if found.minus_inf and not allow_pruned
        else ""
    )
    raise ScoreError(
        f"{found.total:,} of {int(scores.shape[0]) * int(scores.shape[1]):,} scores are not finite ({found.nan:,} NaN, "
        f"{found.plus_inf:,} +inf, {found.minus_inf:,} -inf), the first at row {row}, column {column}: {value}. "
        "Expected finite numbers: such a matrix has no ranks. Look for a diverged model, an all-zero embedding or an "
        f"overflow in half precision, and score again.{pruned}"
    )


def count_constant(scores: ScoreMatrix, *, chunk_cells: int = CHUNK_CELLS) -> tuple[int, int]:
    """Rows and columns with at least two cells that all hold the same score: such queries rank nothing.

    Example:
        >>> count_constant(np.array([[0.5, 0.5], [0.5, 0.1]]))
        (1, 1)
    """
    n_images, n_captions = (int(k) for k in scores.shape)
    rows, first, is_constant = 0, None, np.ones(n_captions, dtype=bool)
    for _, block in row_blocks(scores, chunk_cells):
        rows += int((block == block[:, :1]).all(1).sum())
        first = block[0].copy() if first is None else first
        is_constant &= (block == first).all(0)
    return rows if n_captions > 1 else 0, int(is_constant.sum()) if n_images > 1 else 0


def equal_runs(scores: ScoreMatrix, *, chunk_cells: int = CHUNK_CELLS) -> int:
    """The largest k such that rows ik to ik + k - 1 are exactly equal for every i: 1 where neighbours differ anywhere.

    All rows equal: their number. A NaN equals nothing. Rows are read up to the first proof that k is 1.

    Example:
        >>> equal_runs(np.array([[0.5, 0.1], [0.5, 0.1], [0.2, 0.9], [0.2, 0.9]]))
        2
    """
    times, last = int(scores.shape[0]), None
    for rows, block in row_blocks(scores, chunk_cells):
        before = np.concatenate([block[:1] if last is None else last, block[:-1]])
        starts = rows.start + np.flatnonzero((block != before).any(1))
        times, last = int(np.gcd.reduce(starts, initial=times)), block[-1:]
        if times == 1:
            break
    return times


def first_unequal_row(
    scores: ScoreMatrix, group: Int[np.ndarray, " N"], *, chunk_cells: int = CHUNK_CELLS
) -> tuple[int, int] | None:
    """The first row of a group and a later one that is not exactly equal to it; None when there is none.

    Args:
        scores: ``(N, M)``.
        group: any number for each row; rows with the same one are compared.
        chunk_cells: cells looked at in one go; changes memory, never the result.

    Example:
        >>> first_unequal_row(np.array([[0.5], [0.1], [0.5]]), np.array([0, 1, 0])) is None
        True
    """
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    model = first[inverse]
    for rows, block in row_blocks(scores, chunk_cells):
        equal = (block == as_array(scores[model[rows]])).all(1)
        if not equal.all():
            row = rows.start + int(np.argmin(equal))
            return int(model[row]), row
    return None
