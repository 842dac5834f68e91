"""Which regions of an image are neighbours, from their boxes: the two nearest in each direction.

Source: the box script of MMM-design/CEFG (``adj.py``), which comes from CMCAN's. The published script collects one of
its eight directions only (the left one); ``all`` collects them all. Everything is computed in float32, as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patchword.data.features import RegionFeatures
from patchword.data.table import Extra, Split
from patchword.errors import DataError
from patchword.types import real_slots

Sectors = Literal["left", "all"]
NEAREST = 2  # neighbours of a region in one direction
# Borders of the directions, counter-clockwise from the lower left; what is left of the circle is the left direction.
BORDERS = tuple(k * math.pi / 6 for k in (-5, -4, -2, -1, 1, 2, 4, 5))
FAR = 1e9  # distance to a region in another direction
EXTRAS: dict[str, Sectors] = {"adjacency_released": "left", "adjacency_all_sectors": "all"}


def box_adjacency(
    boxes: Float[Tensor, "N R 4"], sectors: Sectors = "left", regions: Int[Tensor, " N"] | None = None
) -> Bool[Tensor, "N R R"]:
    """Mark for each region itself and, in each direction, its two nearest neighbours that do not lie inside it.

    With d = centre j - centre i and y pointing up, the direction is atan2(dy, dx) and the distance is the length of d.
    Seven directions are half-open, [low, high), between the borders -5/6, -2/3, -1/3, -1/6, 1/6, 1/3, 2/3 and 5/6 of
    pi; the left one is the rest of the circle. A neighbour whose box lies in i's (or equals it) is dropped and not
    replaced by the next one. Among equal distances torch's top-k on the CPU decides, as in the published script.

    Args:
        boxes: x1, y1, x2, y2 in 0..1, y pointing down.
        sectors: ``left`` as published, or ``all``.
        regions: number of real boxes of each image; the others are nobody's neighbours. None: all are real.

    Returns:
        ``[n, i, j]``: whether j is a neighbour of i. Rows have 1 to 3 ones (``left``) or up to 17 (``all``).

    Example:
        >>> side = torch.tensor([[[0.5, 0.4, 0.7, 0.6], [0.1, 0.4, 0.3, 0.6]]])
        >>> box_adjacency(side).int().tolist()          # box 1 is left of box 0
        [[[1, 1], [0, 1]]]
    """
    boxes = boxes.float().cpu()
    low, high = boxes[..., :2], boxes[..., 2:]
    centre = low + 0.5 * (high - low)  # (N, R, 2)
    dx = -(centre[:, :, None, 0] - centre[:, None, :, 0])
    dy = centre[:, :, None, 1] - centre[:, None, :, 1]
    distance, angle = torch.sqrt(dx * dx + dy * dy), torch.atan2(dy, dx)  # (N, R, R)
    itself = torch.eye(boxes.shape[1], dtype=torch.bool)
    usable, present = ~itself.expand_as(distance), itself.expand_as(distance)
    if regions is not None:
        real = real_slots(regions, boxes.shape[1])  # (N, R)
        pairs = real[:, None] & real[..., None]
        usable, present = usable & pairs, present & pairs
    cones = [(angle >= BORDERS[-1]) | (angle < BORDERS[0])]
    if sectors == "all":
        cones += [(angle >= a) & (angle < b) for a, b in pairwise(BORDERS)]
    found = torch.zeros_like(usable)
    for cone in cones:
        found |= _nearest(torch.where(cone & usable, distance, FAR))
    return (found & ~_inside(low, high)) | present


def _nearest(distance: Float[Tensor, "N R R"]) -> Bool[Tensor, "N R R"]:
    """The smallest entries of every row that are not far."""
    values, places = distance.topk(min(NEAREST, distance.shape[2]), dim=2, largest=False)
    return torch.zeros_like(distance, dtype=torch.bool).scatter(2, places, values < FAR / 2)


def _inside(low: Float[Tensor, "N R 2"], high: Float[Tensor, "N R 2"]) -> Bool[Tensor, "N R R"]:
    """Whether box j lies inside box i: their common area is exactly that of j."""
    common = (torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])).clamp_min(
        0
    )
    size = high - low
    return common[..., 0] * common[..., 1] == (size[..., 0] * size[..., 1])[:, None]


@dataclass(frozen=True)
class BoxAdjacency:
    """The adjacency of every image of a split, computed from its boxes when a batch is read.

    Attributes:
        name: under which a method finds it, one of ``EXTRAS``.
        boxes: ``(N, R, 4)`` in 0..1.
        regions: number of real boxes of each image; None: all are real.
    """

    name: str
    boxes: NDArray[np.float32]
    regions: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, items: Sequence[int]) -> BoxAdjacency:
        """That of a subset of the images."""
        rows = np.asarray(items, dtype=np.int64)
        return BoxAdjacency(self.name, self.boxes[rows], None if self.regions is None else self.regions[rows])

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """``(B, R, R)`` truth values of a batch."""
        rows = np.asarray(items, dtype=np.int64)
        boxes = torch.from_numpy(np.array(self.boxes[rows], dtype=np.float32))
        regions = None if self.regions is None else torch.from_numpy(self.regions[rows])
        return {self.name: box_adjacency(boxes, EXTRAS[self.name], regions)}


def box_extras(split: Split) -> dict[str, Extra]:
    """Adjacencies that can be computed from the boxes of a split; none without boxes."""
    if split.boxes is None:
        return {}
    source, regions = split.images, None
    if isinstance(source, RegionFeatures) and source.offsets is not None:
        regions = (source.offsets[source.rows + 1] - source.offsets[source.rows]).astype(np.int64)
    return {name: BoxAdjacency(name, split.boxes, regions) for name in EXTRAS}


def compat_fold_adjacency(split: Split, folds: int = 5) -> Split:
    """Give every image the adjacency that CEFG's evaluation gives it under 5 folds, by mistake.

    The authors cut images and captions into folds but not the adjacency, which has one row per caption: image k of any
    fold is scored with the adjacency of image k // (captions per image) of the whole split. Their COCO 1K rows may
    contain this. Only side inputs whose name begins with ``adjacency`` change.

    Raises:
        DataError: the images do not divide into folds, or have different numbers of captions.
    """
    if split.n_images % folds:
        raise DataError(f"{split.dataset}/{split.name}: {split.n_images} images do not divide into {folds} folds.")
    counts = split.captions_per_image()
    if len(counts) != 1:
        raise DataError(f"{split.dataset}/{split.name}: images have {sorted(counts)} captions. Expected one number.")
    (repeats,), size = counts, split.n_images // folds
    rows = [image % size // repeats for image in range(split.n_images)]
    moved = {k: v.select(rows) for k, v in split.image_extras.items() if k.startswith("adjacency")}
    note = f"adjacency of image k of a fold is that of image k // {repeats}, as in the authors' 5-fold evaluation"
    return replace(split, image_extras={**split.image_extras, **moved}, notes=(*split.notes, note))
