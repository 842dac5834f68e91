"""float32 means float32: what torch would round further, under autocast or on a graphics card."""

from __future__ import annotations

import torch
from torch import Tensor


def in_float32(like: Tensor) -> torch.autocast:
    """Leave autocast, on the device of a tensor.

    For what scores depend on after the encoders, and for recurrent layers: torch's autocast on a card computes these in
    float16, whose gradients vanish without a scale, whatever type was asked for.
    """
    return torch.autocast(like.device.type, enabled=False)


def forbid_tf32() -> None:
    """Let products, convolutions and recurrent layers on a card keep all bits of float32.

    torch's default for the latter two is TF32, with 10 bits after the point instead of 23: vectors of a card would
    differ from those of a CPU, and ranks with them. This holds for the whole process.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
