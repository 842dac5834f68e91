"""What momentum contrast needs: encoders that follow the trained ones slowly, and queues of their outputs.

Both are state of training: they are saved for resuming and left out of checkpoints. Source: He et al., "Momentum
Contrast for Unsupervised Visual Representation Learning" (CVPR 2020), as used in Image-Text-Matching/AAHR
``lib/vse.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def key_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters are not trained."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(keys: Iterable[nn.Module], trained: Iterable[nn.Module], momentum: float) -> None:
    """key = momentum * key + (1 - momentum) * trained, for every parameter; buffers are left alone.

    A momentum of 0 copies.
    """
    for key, source in zip(keys, trained, strict=True):
        for k, p in zip(key.parameters(), source.parameters(), strict=True):
            k.copy_(k * momentum + p * (1 - momentum))


class KeyQueue(nn.Module):
    """The last keys of both modalities, in the order in which they came.

    It starts with random unit vectors, which are all replaced by real keys before it counts as full.

    Args:
        width: D.
        size: keys of each modality.
    """

    images: Tensor
    captions: Tensor
    seen: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        for name in ("images", "captions"):
            self.register_buffer(name, functional.normalize(torch.rand(size, width), dim=1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @property
    def is_full(self) -> bool:
        """Whether all random starting vectors are gone."""
        return int(self.seen) >= self.size

    @torch.no_grad()
    def push(self, images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"]) -> None:
        """Let a batch of keys replace the oldest ones; of a batch larger than the queue the last ones stay."""
        start = int(self.seen)
        count = len(images)
        kept = min(count, self.size)
        places = torch.arange(start + count - kept, start + count, device=images.device) % self.size
        self.images[places] = images[count - kept :].to(self.images.dtype)
        self.captions[places] = captions[count - kept :].to(self.captions.dtype)
        self.seen += count
