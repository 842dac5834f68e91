"""Memory for temporaries that is used again: fresh memory would cost as much as what is done with it."""

from __future__ import annotations

import math
import threading

import torch
from jaxtyping import Shaped
from torch import Tensor


class Space(threading.local):
    """Blocks of memory by name, each as large as was ever needed; every thread has its own."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(
        self, name: str, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Shaped[Tensor, ...]:
        """An uninitialised tensor, on the CPU by default; valid until the same name is taken again."""
        key, count = (name, dtype, device or torch.device("cpu")), math.prod(shape)
        held = self._held.get(key)
        if held is None or held.numel() < count:
            held = self._held[key] = torch.empty(count, dtype=dtype, device=key[2])
        return held[:count].view(shape)
