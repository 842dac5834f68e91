"""Every word's best patch for all image-caption pairs, without padding and with a sparse gradient.

The words of all captions are concatenated, so products of a few images with some words give all similarities without
padding, and only their maxima over the patches are kept: ``(B, T)`` numbers for T words in all, instead of
``(B, C, R, L)``. The gradient of a maximum reaches one patch; with hardest negatives it reaches few pairs, and only
those are computed again. Without gradients: ``hard_tiles``. Readable form: ``patchword.methods.chan.code_pairs``.
Measured: docs/performance.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from patchword.methods.base import Method
from patchword.methods.chan import Chan, pool_codes
from patchword.scoring.tiles import cuts_by_rows
from patchword.types import Encoded, real_slots

PATCHES, WORDS = 288, 512  # of one product: its result (0.6 MB) stays in the cache until its maxima are taken
ON_A_DEVICE = 32  # times as many of each on an accelerator
_SPARSE = 0.2  # share of needed pairs below which the backward pass goes image by image


class _BestPatch(torch.autograd.Function):
    """codes[b, t] = max over patches r of image b of <patch r, word t>."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, lengths: Tensor, words: Tensor) -> Tensor:
        ctx.save_for_backward(patches, lengths, words)
        sizes, starts = lengths.tolist(), [0, *lengths.cumsum(0).tolist()]
        scale = 1 if patches.device.type == "cpu" else ON_A_DEVICE
        codes = patches.new_empty(len(sizes), len(words))
        for first, last in pairwise(cuts_by_rows(lengths, PATCHES * scale)):
            part = patches[starts[first] : starts[last]]
            products = part.new_empty(len(part), min(WORDS * scale, len(words)))
            for word in range(0, len(words), WORDS * scale):
                some = words[word : word + WORDS * scale]
                found = torch.mm(part, some.T, out=products[:, : len(some)])
                codes[first:last, word : word + len(some)] = max_over_patches(found, sizes[first:last])
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


def max_over_patches(products: Shaped[Tensor, "P T"], sizes: list[int]) -> Shaped[Tensor, "n T"]:
    """Largest value of each word among the patches of each image, which follow each other."""
    if len(set(sizes)) == 1:
        return products.view(len(sizes), sizes[0], -1).amax(1)
    return torch.stack([part.amax(0) for part in products.split(sizes)])


def best_patches(images: Encoded, captions: Encoded) -> Float[Tensor, "B T"]:
    """Score of every word's best patch, for every image (T = words of all captions)."""
    result: Tensor = _BestPatch.apply(images.vectors, images.lengths, captions.vectors)  # type: ignore[no-untyped-call]
    return result


def word_slots(captions: Encoded) -> Int[Tensor, "C L"]:
    """Position of each caption's l-th word among all words; padding repeats position 0 of the caption."""
    steps = torch.arange(captions.max_length, device=captions.lengths.device)
    return captions.offsets[:-1, None] + steps * real_slots(captions.lengths, len(steps))


def chan_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"] | None:
    """CHAN's scores for its published coding ``vha``; None for the others."""
    assert isinstance(method, Chan)
    config = method.config
    if config.coding != "vha" or config.score_padding == "reference":
        return None
    codes = best_patches(images, captions)[:, word_slots(captions)]  # (B, C, L)
    real = real_slots(captions.lengths, codes.shape[2])  # (C, L)
    return pool_codes(codes, real.expand(len(codes), -1, -1), config.pooling, config.pooling_temperature)
