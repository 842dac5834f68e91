"""Score matrices of other people's code: which image each row is, and which image each caption belongs to.

Such a file holds numbers alone. Code that encodes an image once for each of its captions saves every row several times,
some code saves captions x images, and captions need not be grouped by image. Rows that repeat exactly are taken once,
where the data or the sizes say that they are repetitions; everything else that does not fit is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from patchword.errors import ScoreError
from patchword.evaluate.matrix import ScoreMatrix, as_array, check_matrix, equal_runs, first_unequal_row

_TURN = "numpy.save(FILE, scores.T)"


@dataclass(frozen=True)
class KnownRows:
    """The images and captions that a matrix is said to score.

    Attributes:
        owner: image of each caption.
        n_images: N.
        name: where this is known from, for messages.
    """

    owner: Int[np.ndarray, " captions"]
    n_images: int
    name: str


def assume_rows(scores: ScoreMatrix, path: str) -> tuple[Shaped[np.ndarray, "images captions"], int, tuple[str, ...]]:
    """Rows and captions per image of a matrix about which nothing is known.

    A square matrix whose rows are equal in runs of k is taken for images that were repeated once a caption.

    Args:
        scores: ``(N, kN)``, or ``(kN, kN)`` with every row k times.
        path: the file, for messages.

    Returns:
        The scores with one row an image, k, and notes about rows left out.

    Raises:
        ScoreError: the captions can not be shared evenly among the rows, or it looks like captions x images.
    """
    n_rows, n_captions = check_matrix(scores)
    array = _array(scores)
    found = f"'{path}' is {n_rows} x {n_captions}. Expected images x captions"
    if n_rows > n_captions and n_rows % n_captions == 0:
        raise ScoreError(
            f"{found}; this looks like captions x images with {n_rows // n_captions} captions an image. If it is, turn "
            f"it: {_TURN}."
        )
    if n_captions % n_rows:
        turned = f" If its rows are captions, turn it: {_TURN}." if n_rows > n_captions else ""
        raise ScoreError(
            f"{found} with the same number of captions for every image; for anything else add --data DIR (in Python, "
            f"load_scores(FILE, split)), which knows the image of each caption.{turned}"
        )
    if n_rows != n_captions:
        return array, n_captions // n_rows, ()
    times, columns = equal_runs(array), equal_runs(array.T)
    if times in (1, n_rows) and 1 < columns < n_rows:
        raise ScoreError(
            f"{found}; its columns are equal in runs of {columns}, as of captions x images with every image repeated. "
            f"If so, turn it: {_TURN}; if not, add --data DIR."
        )
    if times in (1, n_rows):  # all rows alike: a collapsed model rather than one image
        return array, 1, ()
    alone = np.ascontiguousarray(array[::times])  # a copy, so that the other rows are freed
    return alone, times, (_taken(n_rows, n_rows // times, times),)


def fit_rows(
    scores: ScoreMatrix, known: KnownRows, path: str
) -> tuple[Shaped[np.ndarray, "images captions"], tuple[str, ...]]:
    """The rows of a matrix that are the known images, each once.

    Args:
        scores: ``(N, M)``; or every image several times, all its rows exactly equal: ``(M, M)``, row j the image of
            caption j, or ``(kN, M)``, rows in runs of k.
        known: N images and M captions.
        path: the file, for messages.

    Returns:
        The scores ``(N, M)``, and notes about rows left out.

    Raises:
        ScoreError: other sizes, captions x images, or rows of an image that differ.
    """
    sizes, array = check_matrix(scores), _array(scores)
    wanted = (known.n_images, len(known.owner))
    if sizes == wanted:
        return array, ()
    found = (
        f"'{path}' is {sizes[0]} x {sizes[1]}, but {known.name} has {known.n_images} images and {len(known.owner)} "
        "captions"
    )
    if sizes == wanted[::-1]:
        raise ScoreError(f"{found}: it is captions x images. Expected images x captions; turn it: {_TURN}.")
    differing: tuple[int, int] | None = None
    for group, note in _groupings(sizes, known):
        pair = first_unequal_row(array, group)
        if pair is None:
            return array[np.unique(group, return_index=True)[1]], (note,)
        differing = differing or pair
    if any(first_unequal_row(array.T, group) is None for group, _ in _groupings(sizes[::-1], known)):
        raise ScoreError(
            f"{found}: it is captions x images with every image repeated. Expected images x captions; turn it: {_TURN}."
        )
    if differing is None:
        raise ScoreError(f"{found}. The scores belong to another split.")
    first, row = differing
    raise ScoreError(
        f"{found}. Rows {first} and {row} would be the same image, but differ. Expected rows that repeat exactly, or "
        "another split; if an image was encoded several times, save one of its rows, "
        f"numpy.save(FILE, scores[::{sizes[0] // known.n_images}]) for example."
    )


def _groupings(sizes: tuple[int, int], known: KnownRows) -> Iterator[tuple[Int[np.ndarray, " rows"], str]]:
    """The image of each row, in the ways in which rows are repeated, and a note that says so."""
    n_rows, n_captions = sizes
    if n_captions != len(known.owner) or not 0 < known.n_images < n_rows:
        return
    times, rest = divmod(n_rows, known.n_images)
    runs = np.arange(n_rows) // max(times, 1)
    if n_rows == n_captions and (rest or not np.array_equal(known.owner, runs)):
        yield known.owner, f"{n_rows:,} rows, one a caption, for {known.n_images:,} images; one row an image is taken"
    if not rest:
        yield runs, _taken(n_rows, known.n_images, times)


def _array(scores: ScoreMatrix) -> Shaped[np.ndarray, "rows captions"]:
    """A numpy matrix in the dtype it came in, where numpy has that."""
    return scores if isinstance(scores, np.ndarray) else as_array(scores)


def _taken(n_rows: int, n_images: int, times: int) -> str:
    return f"{n_rows:,} rows, equal in runs of {times}, for {n_images:,} images; the first row of each run is taken"
