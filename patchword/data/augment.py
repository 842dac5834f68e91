"""Size augmentation of both modalities: drop regions or grid cells, mask, replace or delete words.

Every draw comes from a generator that belongs to one (seed, epoch, pair), so that an epoch is the same on any number of
workers and processes, and a resumed run repeats it exactly.
Source: Chen et al. (CVPR 2021), section 3.4; woodfrog/vse_infty ``lib/datasets/image_caption.py`` and
``lib/encoders.py``.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patchword.types import real_slots

DROP_RATE = 0.2


def pair_generator(seed: int, epoch: int, pair: int) -> np.random.Generator:
    """Generator of the image-side draws of one pair in one epoch."""
    return np.random.default_rng([seed, epoch, pair])


def pair_random(seed: int, epoch: int, pair: int) -> random.Random:
    """Python generator of the word-side draws of one pair in one epoch (the authors draw from ``random``)."""
    return random.Random((seed << 64) ^ (epoch << 40) ^ pair)


def kept_regions(count: int, rate: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which regions survive: each is dropped with probability ``rate``; one always stays."""
    keep = generator.random(count) > rate
    if not keep.any():
        keep[generator.integers(count)] = True
    return keep


def keep_cells_mask(
    cell_draws: Float[np.ndarray, "B R"], image_draws: Float[np.ndarray, " B"], rate: float = DROP_RATE
) -> Bool[Tensor, "B R"]:
    """Which grid cells survive: with U2 > rate, cells with U1 > rate * U2; otherwise all of them.

    The drop rate is itself random in (rate^2, rate), and 0 for a share ``rate`` of the images.
    """
    keep = cell_draws > rate * image_draws[:, None]
    keep[np.arange(len(keep)), cell_draws.argmax(1)] = True  # a tiny grid could lose all its cells
    return torch.from_numpy(np.where(image_draws[:, None] > rate, keep, True))


def keep_rows(
    values: Float[Tensor, "B R F"], keep: Bool[Tensor, "B R"]
) -> tuple[Float[Tensor, "B S F"], Int[Tensor, " B"]]:
    """The kept rows of each image in order, zero-padded to the longest; and how many there are. Differentiable.

    Example:
        >>> rows, lengths = keep_rows(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[True, False, True]]))
        >>> rows.flatten().tolist(), lengths.tolist()
        ([1.0, 3.0], [2])
    """
    lengths = keep.sum(1)
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : int(lengths.max())]  # kept rows first
    kept = values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))
    return kept * real_slots(lengths, kept.shape[1])[..., None], lengths
