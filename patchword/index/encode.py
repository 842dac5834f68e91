"""From files or features to what a shard holds: float16 vector sets, shortlist vectors, boxes.

The model is loaded when something is to be encoded, not before. A shard under construction is the only thing that
grows, and it is closed at ``shard_mb``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.data.pictures import PictureFiles, Transform
from patchword.errors import ConfigError
from patchword.index.manifest import Manifest
from patchword.index.model_hash import ModelGiven, open_model
from patchword.index.pooled import PoolSpec
from patchword.index.shards import Array
from patchword.model import Model, prepare_source
from patchword.types import Encoded, Images


@dataclass(frozen=True)
class Rows:
    """Vector sets of some items in the form in which they are stored.

    Attributes:
        vectors: ``(T, D)`` float16.
        lengths: ``(n,)``.
        pooled: ``(n, G)`` float16.
        is_finite: ``(n,)``: whether the model gave numbers that can be stored.
    """

    vectors: NDArray[np.float16]
    lengths: NDArray[np.int32]
    pooled: NDArray[np.float16]
    is_finite: NDArray[np.bool_]


class Encoder:
    """The model of an index, loaded and checked when something is to be encoded.

    Args:
        manifest: of the index.
        model: a loaded model or a folder, when it is not at the path in the manifest.
        batch: images encoded at a time.
        device: where the model computes.
    """

    def __init__(self, manifest: Manifest, model: ModelGiven = None, *, batch: int = 32, device: str = "cpu") -> None:
        self.manifest, self._given, self._batch, self._device = manifest, model, batch, device

    @cached_property
    def model(self) -> Model:
        """The loaded model.

        Raises:
            CheckpointError: it is missing or not the one of the index.
        """
        return open_model(self.manifest, self._given, device=self._device)

    @cached_property
    def pool(self) -> PoolSpec:
        """How the one vector per item is made."""
        return PoolSpec.of(self.manifest.pooled, self.model)

    @property
    def batch(self) -> int:
        """Images encoded at a time: one for a model whose images see each other, so that all are alone."""
        return 1 if self.model.method.mixes_batch else self._batch

    @cached_property
    def transform(self) -> Transform:
        """What turns a decoded picture into the pixels that the model takes.

        Raises:
            ConfigError: the model reads region features.
        """
        return pixel_transform_of(self.model)

    @torch.no_grad()
    def encode_images(self, images: Images) -> Rows:
        """Encode a batch."""
        self.model.method.eval()
        sets = self.model.method.encode_images(images.to(self.model.device)).float().to("cpu")
        return to_rows(sets, self.pool.pool_images)

    def encode_pixels(self, pixels: Sequence[Tensor]) -> Rows:
        """Encode transformed pictures."""
        return self.encode_images(Images(torch.stack(list(pixels)), None))


def pixel_transform_of(model: Model) -> Transform:
    """What a model does with a decoded picture before it encodes it.

    Raises:
        ConfigError: it reads region features, or side inputs that pictures do not have.
    """
    if model.method.image_extras:
        raise ConfigError(
            f"this {model.method.name} also reads `{model.method.image_extras[0]}` of the images, which picture files "
            "do not have. Use --features with a data folder."
        )
    source = prepare_source(model.method, PictureFiles([]))
    transform = source.transform if isinstance(source, PictureFiles) else None
    if transform is None:
        raise ConfigError(
            f"this {model.method.name} reads region features, which picture files do not have. "
            "Name a data folder with them: --features DIR"
        )
    return transform


def to_rows(sets: Encoded, pool: Callable[[Encoded], Tensor]) -> Rows:
    """Cast encoded sets to what is stored; the shortlist's vectors are made from the stored numbers."""
    half = sets.vectors.half()
    finite = torch.isfinite(half).all(dim=1)
    owner = torch.arange(len(sets)).repeat_interleave(sets.lengths.long())
    bad = torch.zeros(len(sets), dtype=torch.long).index_add_(0, owner, (~finite).long())
    stored = Encoded(torch.where(finite[:, None], half, torch.zeros_like(half)).float(), sets.lengths)
    pooled = pool(stored).half()
    is_finite = (bad == 0) & (sets.lengths > 0) & torch.isfinite(pooled).all(dim=1)
    return Rows(half.numpy(), sets.lengths.numpy().astype(np.int32), pooled.numpy(), is_finite.numpy().astype(np.bool_))


@dataclass
class Pending:
    """A shard under construction.

    Attributes:
        items: what is to be registered with it, one for each set.
        bytes: of its tensors so far.
    """

    items: list[Any] = field(default_factory=list)
    vectors: list[Array] = field(default_factory=list)
    lengths: list[Array] = field(default_factory=list)
    pooled: list[Array] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    box_counts: list[int] = field(default_factory=list)
    bytes: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def add(self, items: Sequence[Any], rows: Rows, boxes: Sequence[Array | None] | None = None) -> list[Any]:
        """Take the sets of some items; returns those whose vectors are no finite numbers, which are left out."""
        good: list[int] = np.flatnonzero(rows.is_finite).tolist()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows.lengths, dtype=np.int64)])
        if len(good) < len(items):
            keep = np.repeat(rows.is_finite, rows.lengths)
            vectors, lengths, pooled = rows.vectors[keep], rows.lengths[good], rows.pooled[good]
        else:
            vectors, lengths, pooled = rows.vectors[: offsets[-1]], rows.lengths, rows.pooled
        self.items += [items[k] for k in good]
        self.vectors.append(vectors)
        self.lengths.append(lengths)
        self.pooled.append(pooled)
        self.bytes += vectors.nbytes + lengths.nbytes + pooled.nbytes + 8 * len(good)
        for k in good if boxes is not None else ():
            known = boxes[k] if boxes is not None else None
            self.box_counts.append(0 if known is None else len(known))
            if known is not None:
                self.boxes.append(known)
                self.bytes += known.nbytes
        return [items[k] for k in np.flatnonzero(~rows.is_finite).tolist()]

    def tensors(self) -> dict[str, list[Array]]:
        """What `write_shard` takes. Shortlist vectors that are the vectors themselves are left out."""
        found: dict[str, list[Array]] = {"vectors": self.vectors, "lengths": self.lengths}
        if not all(np.array_equal(a, b) for a, b in zip(self.vectors, self.pooled, strict=True)):
            found["pooled"] = self.pooled
        if self.boxes:
            found["boxes"] = self.boxes
            found["box_counts"] = [np.asarray(self.box_counts, dtype=np.int32)]
        return found
