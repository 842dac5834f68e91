"""How fast a method trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from patchword.bench.product import timed
from patchword.bench.shapes import caption_lengths, published
from patchword.config import TrainConfig
from patchword.methods.base import Step
from patchword.scoring.matrix import pair_scores
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images


def bench_train(name: str, *, batch: int = 128, steps: int = 5) -> Iterator[dict[str, Any]]:
    """One whole training step (36 x 2048 regions, BiGRU, hardest negatives) in pairs per second."""
    method = published(name).train()
    generator = np.random.default_rng(0)
    lengths = caption_lengths(batch, generator)
    tokens = torch.randint(4, 11354, (batch, int(lengths.max())))
    captions = Captions(tokens * (torch.arange(tokens.shape[1]) < lengths[:, None]), lengths)
    images = Images(torch.rand(batch, 36, 2048), torch.full((batch,), 36))
    optimizer = build_optimizer(method, TrainConfig())
    parameters = list(method.parameters())

    def step() -> None:
        optimizer.zero_grad()
        a, b = method.encode_images(images), method.encode_captions(captions)
        scores = pair_scores(method, a, b)
        torch.autograd.backward(method.losses(scores, a, b, Step(epoch=1))["total"])
        clip_gradients(parameters, 2.0)
        optimizer.step()

    yield timed(step, batch, steps, "pairs", {"bench": "train", "method": name, "batch": batch})
