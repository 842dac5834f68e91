"""Which pairs are right: one form for every kind of ground truth, in torch and, as a view, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchword.errors import ScoreError
from patchword.scoring.bounds import BoundedPairs


@dataclass(frozen=True)
class RightPairs:
    """P different right pairs, ascending by image and then by caption.

    Attributes:
        n_images, n_captions: N and M; each of them is in a pair.
        images, captions: of each pair.
    """

    n_images: int
    n_captions: int
    images: Int[Tensor, " P"]
    captions: Int[Tensor, " P"]

    @classmethod
    def of(cls, truth: Truth, n_images: int, n_captions: int) -> RightPairs:
        """Bring ground truth into this form; a pair that is listed twice counts once.

        Raises:
            ScoreError: another number of images or captions, pairs of unequal halves, a pair out of range, or an
                image or a caption without a right answer.

        Example:
            >>> pairs = RightPairs.of(torch.tensor([1, 0, 0]), 2, 3)
            >>> pairs.images.tolist(), pairs.captions.tolist()
            ([0, 0, 1], [1, 2, 0])
        """
        if isinstance(truth, Sequence) and not isinstance(truth, tuple):
            truth = np.asarray(truth)
        if not isinstance(truth, tuple):
            _check_size(truth, n_images, n_captions)
        if isinstance(truth, RightPairs):
            return truth
        if isinstance(truth, tuple):
            images, captions = (_places(part) for part in truth)
            if len(images) != len(captions):
                raise ScoreError(
                    f"the ground truth has pairs of {len(images)} images and {len(captions)} captions. "
                    "Expected as many of both: one image and one caption for each pair."
                )
        elif truth.ndim == 2:
            images, captions = torch.as_tensor(truth != 0).cpu().nonzero(as_tuple=True)
        else:
            images, captions = _places(truth), torch.arange(n_captions)
        for what, found, size in (("image", images, n_images), ("caption", captions, n_captions)):
            outside = ((found < 0) | (found >= size)).nonzero()[:, 0]
            if len(outside):
                raise ScoreError(
                    f"pair {int(outside[0])} of the ground truth names {what} {int(found[outside[0]])}, but there are "
                    f"{size} {what}s (0..{size - 1}). It belongs to another split."
                )
            missing = (torch.bincount(found, minlength=size) == 0).nonzero()[:, 0]
            if len(missing):
                raise ScoreError(
                    f"{len(missing)} of {size} {what}s have no right answer, the first is {what} {int(missing[0])}. "
                    "Expected at least one: such a query can not be ranked. Leave these out."
                )
        cells = torch.unique(images * n_captions + captions)
        return cls(n_images, n_captions, cells // n_captions, cells % n_captions)

    @property
    def arrays(self) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
        """Images and captions in NumPy: the same memory."""
        return self.images.numpy(), self.captions.numpy()

    def per_image(self) -> Int[np.ndarray, " N"]:
        """Number of right captions of each image."""
        counts: np.ndarray = np.bincount(self.arrays[0], minlength=self.n_images)
        return counts

    def per_caption(self) -> Int[np.ndarray, " M"]:
        """Number of right images of each caption."""
        counts: np.ndarray = np.bincount(self.arrays[1], minlength=self.n_captions)
        return counts

    def within(self, images: slice) -> slice:
        """Which pairs have one of these images."""
        ends = torch.searchsorted(self.images, torch.tensor([images.start, images.stop]))
        return slice(int(ends[0]), int(ends[1]))

    def boundaries(self, values: Float[Tensor, " P"]) -> Boundaries:
        """The scores that ranks are counted against, from the score of each pair."""
        return Boundaries(
            self,
            values,
            _largest(values, self.images, self.n_images),
            _largest(values, self.captions, self.n_captions),
        )


@dataclass(frozen=True)
class Boundaries:
    """Scores of the right pairs.

    Attributes:
        pairs: the right pairs.
        values: score of each.
        images, captions: best one of each image and of each caption: a rank counts what lies above it.
    """

    pairs: RightPairs
    values: Float[Tensor, " P"]
    images: Float[Tensor, " N"]
    captions: Float[Tensor, " M"]

    def are_open(self, pairs: BoundedPairs) -> Bool[Tensor, " k"]:
        """Whether the bounds of pairs touch the boundary of their image or of their caption."""
        at_image, at_caption = self.images[pairs.images], self.captions[pairs.captions]
        low, high = pairs.low, pairs.high
        return ((low <= at_image) & (high >= at_image)) | ((low <= at_caption) & (high >= at_caption))

    def open_share(
        self,
        images: Int[Tensor, " n"],
        captions: Int[Tensor, " m"],
        low: Float[Tensor, "n m"],
        high: Float[Tensor, "n m"],
    ) -> float:
        """Share of the pairs of some images and captions that their bounds leave open."""
        of_images, of_captions = torch.cartesian_prod(images, captions).unbind(1)
        pairs = BoundedPairs(of_images, of_captions, low.reshape(-1), high.reshape(-1))
        return float(self.are_open(pairs).float().mean())

    def ties(self, images: slice | None = None) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
        """How many right pairs (of some images) have the best score of their image, and of their caption."""
        chosen = slice(None) if images is None else self.pairs.within(images)
        values, of_image, of_caption = (x[chosen] for x in (self.values, self.pairs.images, self.pairs.captions))
        return (
            torch.bincount(of_image[values == self.images[of_image]], minlength=self.pairs.n_images),
            torch.bincount(of_caption[values == self.captions[of_caption]], minlength=self.pairs.n_captions),
        )


def _largest(values: Float[Tensor, " P"], groups: Int[Tensor, " P"], size: int) -> Float[Tensor, " Q"]:
    return torch.full((size,), -torch.inf).scatter_reduce(0, groups, values, "amax")


Part: TypeAlias = Tensor | np.ndarray | Sequence[int]
# The image of each caption, a relevance matrix (N, M), pairs as a tuple of two, or pairs in this form.
Truth: TypeAlias = Part | tuple[Part, Part] | RightPairs


def _check_size(truth: Tensor | np.ndarray | RightPairs, n_images: int, n_captions: int) -> None:
    """Refuse ground truth of another number of images or captions."""
    if isinstance(truth, RightPairs):
        found = truth.n_images, truth.n_captions
    else:
        found = (truth.shape[0], truth.shape[1]) if truth.ndim == 2 else (n_images, len(truth))
    if found != (n_images, n_captions):
        raise ScoreError(
            f"The score matrix is {n_images} x {n_captions} but the ground truth has {found[0]} images and {found[1]} "
            "captions. Expected one row for each image and one column for each caption of the same split."
        )


def _places(part: Part) -> Int[Tensor, " P"]:
    """Positions of images or captions, in memory of their own where they are not torch's."""
    return part.cpu().long() if isinstance(part, Tensor) else torch.from_numpy(np.asarray(part).astype(np.int64))
