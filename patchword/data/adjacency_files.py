"""``patchword prepare adjacency``: the neighbours of all regions of a data set, computed once and kept in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchword.data.adjacency import EXTRAS, Sectors, box_extras
from patchword.data.features import RegionFeatures
from patchword.data.open import open_split, splits_of
from patchword.data.table import Extra
from patchword.errors import DataError
from patchword.files import replacing

BLOCK = 256  # images at a time


@dataclass(frozen=True)
class Written:
    """One adjacency file.

    Attributes:
        path: the file, ``(N, R, R)`` uint8.
        images: N.
        mean, most: ones in a row.
        crowded: share of the rows with more than five ones, of which CEFG reads five.
    """

    path: Path
    images: int
    mean: float
    most: int
    crowded: float


def write_adjacency(root: Path | str, *, name: str | None = None, sectors: Sectors = "left") -> list[Written]:
    """Write ``{split}_ims_adjacency.npy`` beside the features of every split that has boxes.

    Each file is complete or not there at all.

    Args:
        root: data folder in a layout with features and boxes.
        name: data set in it.
        sectors: directions that count.

    Raises:
        DataError: no split has boxes.
    """
    written = []
    for split_name in splits_of(root, name=name):
        split = open_split(root, split_name, name=name)
        found = box_extras(split)
        if not found or not isinstance(split.images, RegionFeatures):
            continue
        extra = found[next(key for key, value in EXTRAS.items() if value == sectors)]
        written.append(_write(split.images.path.parent / f"{split.name}_ims_adjacency.npy", extra))
    if not written:
        raise DataError(
            f"'{root}': no split has both features and boxes. Expected '<split>_boxes.npy' (x1, y1, x2, y2 in 0..1), "
            "or '<split>_ims_bbx.npy' with '<split>_ims_size.npy', beside '<split>_ims.npy'."
        )
    return written


def _write(path: Path, extra: Extra) -> Written:
    """One file, block by block."""
    regions = next(iter(extra.read([0]).values())).shape[1]
    ones, most, crowded = 0, 0, 0
    with replacing(path) as draft:
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=(len(extra), regions, regions))
        for start in range(0, len(extra), BLOCK):
            (block,) = extra.read(range(start, min(start + BLOCK, len(extra)))).values()
            array[start : start + len(block)] = block.numpy()
            rows = block.sum(2)
            ones, most = ones + int(rows.sum()), max(most, int(rows.max()))
            crowded += int((rows > 5).sum())
        array.flush()
        del array
    return Written(path, len(extra), ones / (len(extra) * regions), most, crowded / (len(extra) * regions))
