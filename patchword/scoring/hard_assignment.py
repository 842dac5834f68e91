"""Every word's best patch for all image-caption pairs, without padding and with a sparse gradient.

The words of all captions are concatenated, so one matrix product per tile of images gives all similarities, and only
their maxima over the patches are kept: ``(B, T)`` numbers for T words in all, instead of ``(B, C, R, L)``. The gradient
of a maximum reaches one patch; with hardest negatives it reaches few pairs, and only those are computed again.
Readable form: ``patchword.methods.chan.code_pairs``. Measured: docs/performance.md.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.methods.base import Method
from patchword.methods.chan import Chan, pool_codes
from patchword.types import Encoded

_TILE_FLOATS = 1 << 24  # similarities held at a time
_SPARSE = 0.2  # share of needed pairs below which the backward pass goes image by image


class _BestPatch(torch.autograd.Function):
    """codes[b, t] = max over patches r of image b of <patch r, word t>."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, lengths: Tensor, words: Tensor) -> Tensor:
        ctx.save_for_backward(patches, lengths, words)
        sizes = lengths.tolist()
        codes = patches.new_empty(len(sizes), len(words))
        if len(set(sizes)) == 1:
            tile = max(1, _TILE_FLOATS // (sizes[0] * max(1, len(words))))
            for start in range(0, len(sizes), tile):
                part = patches[start * sizes[0] : (start + tile) * sizes[0]]
                codes[start : start + tile] = (part @ words.T).view(-1, sizes[0], len(words)).amax(1)
            return codes
        for b, part in enumerate(patches.split(sizes)):
            codes[b] = (part @ words.T).amax(0)
        return codes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        patches, lengths, words = ctx.saved_tensors
        (grad,) = grads
        to_patches, to_words = torch.zeros_like(patches), torch.zeros_like(words)
        starts = (lengths.cumsum(0) - lengths).tolist()
        for b, (start, size) in enumerate(zip(starts, lengths.tolist(), strict=True)):
            needed = grad[b].nonzero()[:, 0]
            if len(needed) == 0:
                continue
            part = patches[start : start + size]
            chosen = words if len(needed) > _SPARSE * len(words) else words[needed]
            g = grad[b] if len(chosen) == len(words) else grad[b, needed]
            best = (part @ chosen.T).argmax(0)  # (t,)
            share = part.new_zeros(size, len(chosen)).scatter_(0, best[None], g[None])  # (R, t), one entry per word
            to_patches[start : start + size] = share @ chosen
            update = share.T @ part
            if len(chosen) == len(words):
                to_words += update
            else:
                to_words.index_add_(0, needed, update)
        return to_patches, None, to_words


def best_patches(images: Encoded, captions: Encoded) -> Float[Tensor, "B T"]:
    """Score of every word's best patch, for every image (T = words of all captions)."""
    result: Tensor = _BestPatch.apply(images.vectors, images.lengths, captions.vectors)  # type: ignore[no-untyped-call]
    return result


def word_slots(captions: Encoded) -> Int[Tensor, "C L"]:
    """Position of each caption's l-th word among all words; padding repeats position 0 of the caption."""
    steps = torch.arange(captions.max_length, device=captions.lengths.device)
    real = steps < captions.lengths[:, None]
    return captions.offsets[:-1, None] + steps * real


def chan_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"] | None:
    """CHAN's scores for its published coding ``vha``; None for the others."""
    assert isinstance(method, Chan)
    config = method.config
    if config.coding != "vha" or config.score_padding == "reference":
        return None
    codes = best_patches(images, captions)[:, word_slots(captions)]  # (B, C, L)
    real = torch.arange(codes.shape[2], device=codes.device) < captions.lengths[:, None]  # (C, L)
    return pool_codes(codes, real.expand(len(codes), -1, -1), config.pooling, config.pooling_temperature)
