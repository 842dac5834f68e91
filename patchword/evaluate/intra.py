"""Scores between two images or two captions, for methods that define only scores between an image and a caption.

``dot``: a method with one vector per item scores two items of a kind by the product of their vectors. ``score``: a
method that compares sets of vectors in one space applies its own score to two sets of a kind, averaged over both
orders. ``pooled``: cosine of the mean vectors, an extension for every other method, never taken unasked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from rich.console import Console
from torch import Tensor

from patchword.console import ProgressBar
from patchword.errors import ConfigError
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, cells_of, row_blocks
from patchword.methods.base import Method
from patchword.scoring.jobs import process
from patchword.scoring.matrix import MEMORY, pair_scores, score_matrix
from patchword.types import Encoded

How = Literal["auto", "dot", "score", "pooled"]

PAIR_BLOCK = 16  # listed pairs are scored in square blocks of so many, of which the diagonal is kept
FEW = 4  # pairs of an image from which they are scored image by image
_STRIP = 1024  # items scored against all others at a time


@runtime_checkable
class IntraScores(Protocol):
    """Scores of items of one kind among themselves."""

    @property
    def how(self) -> str:
        """In words, for the report."""
        ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows, every item against all."""
        ...

    def pairs(self, a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"]) -> Shaped[np.ndarray, " P"]:
        """Scores of listed pairs of positions."""
        ...


@dataclass(frozen=True)
class VectorScores:
    """Products of one vector an item.

    Attributes:
        vectors: one row an item.
        how: in words, for the report.
    """

    vectors: Float[Tensor, "n D"]
    how: str = "dot product of the two vectors"

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows."""
        step = max(1, 16 * CHUNK_CELLS // max(1, len(self)))
        for start in range(0, len(self), step):
            part = self.vectors[start : start + step]
            yield slice(start, start + len(part)), (part @ self.vectors.T).numpy()

    def pairs(self, a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"]) -> Shaped[np.ndarray, " P"]:
        """Listed pairs."""
        first, second = (torch.from_numpy(k) for k in (a, b))
        found: np.ndarray = (self.vectors[first] * self.vectors[second]).sum(1).numpy()
        return found


@dataclass(frozen=True)
class SetScores:
    """A method's own score of two sets of a kind, (s(a, b) + s(b, a)) / 2.

    Attributes:
        method: in evaluation mode.
        sets: of the items.
        how: in words, for the report.
        console: where progress goes.
        memory: bytes that scoring may take besides the sets and what is known of rows to come.
        folder: keep finished parts there, and go on with those that are there.
    """

    method: Method
    sets: Encoded
    how: str = "the method's own score of the two sets, mean of both orders"
    console: Console = field(default_factory=lambda: Console(quiet=True))
    memory: int = MEMORY
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.sets)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows; every ordered pair is scored once.

        Strip I is scored with the strips J >= I only, in both orders. What it gives of the rows of a later strip is
        held until they are due: at most a quarter of all scores.
        """
        due: dict[int, list[np.ndarray]] = defaultdict(list)  # of later strips, their columns so far
        with ProgressBar(len(self) ** 2 // process()[1], "scoring one kind against itself", "pairs", self.console) as p:
            for start in range(0, len(self), _STRIP):
                part = self.sets.slice(start, start + _STRIP)
                end = start + len(part)
                mean = self._score(f"{start}_there", part, self.sets.slice(start, len(self)), p)
                square = mean[:, : len(part)]
                square.copy_((square + square.T) / 2)
                if end < len(self):
                    back = self._score(f"{start}_back", self.sets.slice(end, len(self)), part, p)
                    mean[:, len(part) :].add_(back.T).div_(2)
                for later in range(end, len(self), _STRIP):
                    due[later].append(mean[:, later - start : later - start + _STRIP].T.numpy().copy())
                yield slice(start, end), np.concatenate([*due.pop(start, []), mean.numpy()], axis=1)

    def _score(self, name: str, a: Encoded, b: Encoded, shown: ProgressBar) -> Float[Tensor, "n m"]:
        """Scores of all pairs, whose parts lie in a folder of their own."""
        folder = None if self.folder is None else self.folder / name
        return score_matrix(self.method, a, b, memory=self.memory, progress=shown.advance, folder=folder)

    @torch.no_grad()
    def pairs(self, a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"]) -> Shaped[np.ndarray, " P"]:
        """Listed pairs, a few at a time."""
        there = listed_scores(self.method, self.sets, self.sets, a, b)
        mean: np.ndarray = (there + listed_scores(self.method, self.sets, self.sets, b, a)) / 2
        return mean


@dataclass(frozen=True)
class MatrixScores:
    """Scores that are there already.

    Attributes:
        matrix: one row and one column an item.
        how: in words, for the report.
    """

    matrix: ScoreMatrix
    how: str = "as given"

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows."""
        return row_blocks(self.matrix, CHUNK_CELLS)

    def pairs(self, a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"]) -> Shaped[np.ndarray, " P"]:
        """Listed pairs."""
        return cells_of(self.matrix, a, b)


@torch.no_grad()
def listed_scores(
    method: Method, images: Encoded, captions: Encoded, a: Int[np.ndarray, " P"], b: Int[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
    """Scores of listed pairs only: image ``a[k]`` with caption ``b[k]``.

    Where an image comes with several captions, it is scored with just these. Else pairs are taken in the order of
    their captions' lengths, 16 at a time, and the diagonal of each block is kept.

    Args:
        method: in evaluation mode.
        images, captions: all items.
        a, b: positions.
    """
    found = np.empty(len(a), dtype=np.float32)
    if len(a) >= FEW * len(np.unique(a)):
        by_image = np.argsort(a, kind="stable")
        for chosen in np.split(by_image, np.flatnonzero(np.diff(a[by_image])) + 1):
            second = torch.from_numpy(b[chosen]).to(captions.lengths.device)
            image = int(a[chosen[0]])
            block = pair_scores(method, images.slice(image, image + 1), captions.select(second))
            found[chosen] = block[0].float().cpu().numpy()
        return found
    order = np.lexsort((a, captions.lengths.cpu().numpy()[b]))
    for start in range(0, len(order), PAIR_BLOCK):
        chosen = order[start : start + PAIR_BLOCK]
        parts = [
            sets.select(torch.from_numpy(k[chosen]).to(sets.lengths.device)) for sets, k in ((images, a), (captions, b))
        ]
        found[chosen] = pair_scores(method, parts[0], parts[1]).diagonal().float().cpu().numpy()
    return found


def has_one_vector(sets: Encoded) -> bool:
    """Whether every item is one vector."""
    return bool((sets.lengths == 1).all())


@torch.no_grad()
def is_dot_product(method: Method, images: Encoded, captions: Encoded, *, most: int = 8) -> bool:
    """Whether a method's score is the product of one vector an item, tried on the first few items."""
    if (
        not (has_one_vector(images) and has_one_vector(captions))
        or images.vectors.shape[1] != captions.vectors.shape[1]
    ):
        return False
    a, b = images.slice(0, most), captions.slice(0, most)
    return torch.allclose(method.score(a, b), a.vectors @ b.vectors.T, rtol=1e-4, atol=1e-5)


def pooled_vectors(sets: Encoded) -> Float[Tensor, "N D"]:
    """Unit mean vector of every set."""
    sums = sets.vectors.new_zeros(len(sets), sets.vectors.shape[1])
    owner = torch.arange(len(sets), device=sets.lengths.device).repeat_interleave(sets.lengths)
    return torch.nn.functional.normalize(sums.index_add_(0, owner, sets.vectors), dim=1)


def intra_scores(
    method: Method,
    images: Encoded,
    captions: Encoded,
    how: How = "auto",
    *,
    console: Console | None = None,
    memory: int = MEMORY,
    folder: Path | None = None,
) -> tuple[IntraScores, IntraScores]:
    """Scores among images and among captions.

    Args:
        method: in evaluation mode.
        images, captions: as encoded.
        how: ``auto`` takes ``dot`` where the method's score is that, ``score`` where the method compares sets in one
            space, and refuses otherwise.
        console: where progress goes.
        memory, folder: see ``SetScores``; images and captions have their own folder in it.

    Raises:
        ConfigError: the method defines no such score.
    """
    is_dot = is_dot_product(method, images, captions)
    chosen = how if how != "auto" else "dot" if is_dot else method.intra_modal
    if chosen == "dot" and is_dot:
        return VectorScores(images.vectors), VectorScores(captions.vectors)
    if chosen == "score" and (method.intra_modal == "score" or is_dot):
        shown = console if console is not None else Console(quiet=True)
        among_images, among_captions = (
            SetScores(method, sets, console=shown, memory=memory, folder=None if folder is None else folder / name)
            for name, sets in (("among_images", images), ("among_captions", captions))
        )
        return among_images, among_captions
    if chosen == "pooled":
        said = "cosine of the mean vectors (an extension, not part of the method)"
        return VectorScores(pooled_vectors(images), said), VectorScores(pooled_vectors(captions), said)
    raise ConfigError(
        f"{method.name} does not say how two images or two captions are compared"
        f"{f' by {how!r}' if how != 'auto' else ''}: its score treats patches and words differently. Pass "
        "--intra pooled for the cosine of the mean vectors, an extension that the method does not define."
    )
