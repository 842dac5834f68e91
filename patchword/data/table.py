"""The one internal table of pairs: images, captions, and which caption belongs to which image.

Every reader of a layout on disk ends here, and nothing downstream knows where a table came from. The number of captions
per image is free and may differ from image to image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.data.text_files import ASK_DOCTOR
from patchword.errors import DataError
from patchword.types import Images


@runtime_checkable
class ImageSource(Protocol):
    """Where the images of a split come from: a feature file or picture files."""

    def __len__(self) -> int: ...

    def read(self, images: Sequence[int]) -> Images:
        """Read a batch, in the order asked for."""
        ...

    def select(self, images: Sequence[int]) -> ImageSource:
        """The source of a subset of the images."""
        ...


@runtime_checkable
class Extra(Protocol):
    """A side input of the images or captions of a split, see ``data/extras.py``."""

    def __len__(self) -> int: ...

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Named tensors of a batch, one row per item, in the order asked for."""
        ...

    def select(self, items: Sequence[int]) -> Extra:
        """That of a subset of the items."""
        ...


@dataclass(frozen=True)
class Split:
    """One split of a data set: N images, M captions and the image of each caption.

    Attributes:
        dataset: short name (``f30k``, ``coco``, ``flickr8k``, ``scenes`` or the folder's name).
        name: ``train``, ``dev``, ``test``, ``testall`` ...
        image_ids: N unique strings.
        captions: M non-empty texts.
        owner: M image positions; ``owner[j]`` is the image of caption j.
        images: where features or pixels are read; None when only annotations are at hand.
        files: N picture files for reports and search results; None when unknown.
        boxes: ``(N, R, 4)`` x1, y1, x2, y2 in 0..1, memory-mapped; None when unknown.
        image_extras, caption_extras: side inputs by name, one entry per image or per caption.
        layout: the layout that was recognised, for messages.
        notes: decisions taken while reading (repetition found, limits applied), to be shown.
    """

    dataset: str
    name: str
    image_ids: list[str]
    captions: list[str]
    owner: NDArray[np.int64]
    images: ImageSource | None = None
    files: list[Path] | None = None
    boxes: NDArray[np.float32] | None = None
    image_extras: Mapping[str, Extra] = field(default_factory=dict)
    caption_extras: Mapping[str, Extra] = field(default_factory=dict)
    layout: str = "memory"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n, m, where = len(self.image_ids), len(self.captions), f"{self.dataset}/{self.name}"
        if len(self.owner) != m:
            raise DataError(f"{where}: {m} captions but {len(self.owner)} owners. Expected one image for each caption.")
        if m and (self.owner.min() < 0 or self.owner.max() >= n):
            bad = int(np.flatnonzero((self.owner < 0) | (self.owner >= n))[0])
            raise DataError(
                f"{where}: caption {bad} belongs to image {int(self.owner[bad])}, "
                f"but there are {n} images (0..{n - 1})."
            )
        if len(set(self.image_ids)) != n:
            name, times = Counter(self.image_ids).most_common(1)[0]
            raise DataError(f"{where}: image id {name!r} occurs {times} times. Expected every image once.")
        for what, found in (("image rows", self.images), ("files", self.files), ("box rows", self.boxes)):
            if found is not None and len(found) != n:
                raise DataError(f"{where}: {len(found)} {what} for {n} images. Expected one for each image.")
        for extras, count in ((self.image_extras, n), (self.caption_extras, m)):
            for name, extra in extras.items():
                if len(extra) != count:
                    raise DataError(f"{where}: side input `{name}` has {len(extra)} entries. Expected {count}.")

    @property
    def n_images(self) -> int:
        """N."""
        return len(self.image_ids)

    @property
    def n_captions(self) -> int:
        """M."""
        return len(self.captions)

    def captions_of(self, image: int) -> list[int]:
        """Positions of the captions of one image, ascending."""
        return [int(j) for j in np.flatnonzero(self.owner == image)]

    def captions_per_image(self) -> dict[int, int]:
        """Histogram: number of captions -> number of images with that many."""
        counts = np.bincount(self.owner, minlength=self.n_images)
        return {int(k): int(v) for k, v in sorted(Counter(counts.tolist()).items())}

    def require_images(self) -> ImageSource:
        """The image source.

        Raises:
            DataError: the split has annotations only.
        """
        if self.images is None:
            raise DataError(
                f"{self.dataset}/{self.name}: captions are here but neither features nor pictures were found "
                f"({self.layout}). {ASK_DOCTOR} DIR"
            )
        return self.images

    def select(self, images: Iterable[int], *, note: str = "") -> Split:
        """The sub-split of some images and all their captions, in the order given."""
        chosen = [int(i) for i in images]
        position = {image: k for k, image in enumerate(chosen)}
        by_image: dict[int, list[int]] = {image: [] for image in chosen}
        for caption, image in enumerate(self.owner.tolist()):
            if image in by_image:
                by_image[image].append(caption)
        rows = [caption for image in chosen for caption in by_image[image]]
        return replace(
            self,
            image_ids=[self.image_ids[i] for i in chosen],
            captions=[self.captions[j] for j in rows],
            owner=np.asarray([position[int(self.owner[j])] for j in rows], dtype=np.int64),
            images=None if self.images is None else self.images.select(chosen),
            files=None if self.files is None else [self.files[i] for i in chosen],
            boxes=None if self.boxes is None else self.boxes[chosen],
            image_extras={name: extra.select(chosen) for name, extra in self.image_extras.items()},
            caption_extras={name: extra.select(rows) for name, extra in self.caption_extras.items()},
            notes=(*self.notes, note) if note else self.notes,
        )

    def limit(self, images: int | None) -> Split:
        """The first ``images`` images (None or more than there are: unchanged)."""
        if images is None or images >= self.n_images:
            return self
        return self.select(range(images), note=f"limited to the first {images:,} of {self.n_images:,} images")


def group_by_image(image_of_caption: Sequence[str], captions: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Unique image ids in order of first appearance, and the position of each caption's image.

    Example:
        >>> ids, owner = group_by_image(["b", "b", "a"], ["one", "two", "three"])
        >>> ids, owner.tolist()
        (['b', 'a'], [0, 0, 1])
    """
    position: dict[str, int] = {}
    owner = [position.setdefault(image, len(position)) for image in image_of_caption]
    if len(owner) != len(captions):
        raise DataError(f"{len(captions)} captions but {len(owner)} image names. Expected one name for each caption.")
    return list(position), np.asarray(owner, dtype=np.int64)
