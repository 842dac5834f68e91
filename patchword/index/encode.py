"""From pixels or features to what a shard holds: the model of an index, loaded when something is to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from patchword.data.pictures import PictureFiles, Transform
from patchword.errors import ConfigError
from patchword.index.pending import Rows
from patchword.model import Model, prepare_source
from patchword.shortlist.pooled import PoolSpec
from patchword.store.manifest import Manifest
from patchword.store.model_hash import ModelGiven, open_model
from patchword.types import Encoded, Images


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
