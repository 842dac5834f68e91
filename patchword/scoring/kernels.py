"""The fused CUDA kernels, each a module of ``scoring`` that needs Triton: where they can be used."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch

Kernel = Literal["best_patch_triton", "two_way_attention_triton"]


def has_kernel(kernel: Kernel, device: torch.device) -> bool:
    """Whether a device is a card that a kernel runs on."""
    return device.type == "cuda" and find_spec("triton") is not None and runs_on(kernel, device)


@cache
def runs_on(kernel: Kernel, device: torch.device) -> bool:
    """Whether a kernel compiles and runs on a device: it needs a C compiler and a card that Triton knows."""
    try:
        import_module(f"patchword.scoring.{kernel}").trial(device)
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, scores can be computed without it
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the kernel of Triton `{kernel}` fails on {device} ({reason}): scoring goes on without it", stacklevel=2
        )
        return False
    return True
