"""How fast a method trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from patchword.bench.product import timed
from patchword.bench.shapes import caption_lengths, published
from patchword.config import TrainConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ConfigError
from patchword.methods.base import Step
from patchword.scoring.matrix import pair_scores
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images, real_slots


def bench_train(
    name: str, *, batch: int = 128, steps: int = 5, negatives: Literal["hardest", "all"] = "hardest"
) -> Iterator[dict[str, Any]]:
    """One whole training step (36 x 2048 regions, BiGRU, hinge over hardest or all negatives) in pairs per second.

    Raises:
        ConfigError: the published model reads pictures, or is never trained.
    """
    method = published(name).train()
    config: Any = method.config
    if not isinstance(getattr(config, "image", None), RegionsConfig):
        raise ConfigError(
            f"'{name}' of published size reads no region features, which is what this trains on. "
            "Use another --method, or `patchword train`, which prints its rate."
        )
    generator = np.random.default_rng(0)
    lengths = caption_lengths(batch, generator)
    tokens = torch.randint(4, 11354, (batch, int(lengths.max())))
    kept = tokens * real_slots(lengths, tokens.shape[1])
    captions = Captions(kept, lengths, _extras(method.caption_extras, batch, config))
    regions = torch.rand(batch, 36, 2048)
    images = Images(regions, torch.full((batch,), 36), None, _extras(method.image_extras, batch, config))
    optimizer = build_optimizer(method, TrainConfig())
    parameters = list(method.parameters())
    where = Step(epoch=1 if negatives == "hardest" else 0)  # the first epoch counts all negatives

    def step() -> None:
        optimizer.zero_grad()
        a, b = method.encode_images(images), method.encode_captions(captions)
        scores = pair_scores(method, a, b)
        torch.autograd.backward(method.losses(scores, a, b, where)["total"])
        clip_gradients(parameters, 2.0)
        optimizer.step()

    yield timed(step, batch, steps, "pairs", {"bench": "train", "method": name, "batch": batch, "negatives": negatives})


def _extras(names: Sequence[str], batch: int, config: Any) -> dict[str, Tensor]:
    """Random side inputs: neighbours of regions (CEFG), CLIP's vectors (AAHR)."""
    return {
        name: torch.rand(batch, 36, 36) < 0.1 if name.startswith("adjacency") else torch.randn(batch, config.clip_dim)
        for name in names
    }
