"""Every word's best patch for all image-caption pairs, without padding and with a sparse gradient.

The words of all captions are concatenated, so products of a few images with some words give all similarities without
padding, and only their maxima over the patches are kept: ``(B, T)`` numbers for T words in all, instead of
``(B, C, R, L)``. The gradient of a maximum reaches one patch, so the backward pass is two sums of chosen rows and no
product: for each word, of the patches it was assigned to; for each patch, of the words assigned to it. Without
gradients: ``hard_tiles``. Readable form: ``patchword.methods.chan.code_pairs``. Measured: docs/performance.md.
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


class _BestPatch(torch.autograd.Function):
    """codes[b, t] = max over patches r of image b of <patch r, word t>; remembers which patch, for the gradient."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, lengths: Tensor, words: Tensor) -> Tensor:
        sizes, starts = lengths.tolist(), [0, *lengths.cumsum(0).tolist()]
        scale = 1 if patches.device.type == "cpu" else ON_A_DEVICE
        codes = patches.new_empty(len(sizes), len(words))
        learns = any(ctx.needs_input_grad)
        best = torch.empty(codes.shape if learns else (0, 0), dtype=torch.int32, device=codes.device)
        for first, last in pairwise(cuts_by_rows(lengths, PATCHES * scale)):
            part = patches[starts[first] : starts[last]]
            products = part.new_empty(len(part), min(WORDS * scale, len(words)))
            for word in range(0, len(words), WORDS * scale):
                some = words[word : word + WORDS * scale]
                found = torch.mm(part, some.T, out=products[:, : len(some)])
                place = slice(first, last), slice(word, word + len(some))
                if learns:
                    codes[place], best[place] = best_of_patches(found, sizes[first:last])
                else:
                    codes[place] = max_over_patches(found, sizes[first:last])
        ctx.save_for_backward(patches, lengths, words, best)
        return codes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        patches, lengths, words, best = ctx.saved_tensors
        (grad,) = grads
        chosen = best + (lengths.cumsum(0) - lengths).int()[:, None]  # (B, T), places among all patches
        each_word = torch.arange(0, chosen.numel() + 1, len(chosen), dtype=torch.int32, device=best.device)
        to_words = weighted_sums(patches, chosen.T, each_word, grad.T)
        order = best.argsort(1)  # the words of an image, those of its first patch first
        counts = torch.bincount(chosen.flatten(), minlength=len(patches))
        each_patch = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
        to_patches = weighted_sums(words, order.int(), each_patch, grad.gather(1, order))
        return to_patches, None, to_words


def weighted_sums(
    rows: Float[Tensor, "N D"], chosen: Int[Tensor, "a b"], bounds: Int[Tensor, " E"], weights: Float[Tensor, "a b"]
) -> Float[Tensor, "S D"]:
    """Sum s of E - 1 sums: weight * row over the entries from ``bounds[s]`` to ``bounds[s + 1]``."""
    return torch.nn.functional.embedding_bag(
        chosen.flatten(), rows, bounds, mode="sum", per_sample_weights=weights.flatten(), include_last_offset=True
    )


def best_of_patches(
    products: Shaped[Tensor, "P T"], sizes: list[int]
) -> tuple[Shaped[Tensor, "n T"], Int[Tensor, "n T"]]:
    """Largest value of each word among the patches of each image, and which of its patches has it (the first such)."""
    if len(set(sizes)) == 1:
        values, places = products.view(len(sizes), sizes[0], -1).max(1)
        return values, places
    found = [part.max(0) for part in products.split(sizes)]
    return torch.stack([values for values, _ in found]), torch.stack([places for _, places in found])


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
