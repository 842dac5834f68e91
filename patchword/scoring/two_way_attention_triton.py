"""ESL's two attentions of a pair in one CUDA kernel: the cells of words and patches never leave the chip.

Used only where a CUDA device and Triton are there (``two_way_tiles``), and only without gradients: training has
``two_way_attention``. Products are full float32 (no TF32), so the scores are those that ranks are made of. Sums run
over a block whose size depends on the pair alone, so equal images and equal captions score equally. Tested in Triton's
interpreter, and compiled for cards; not run on one. Readable form: ``patchword.methods.esl.split_scores``.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.esl import EPS, SLOPE
from patchword.types import Encoded

if find_spec("triton") is not None:  # it comes with CUDA builds of torch
    import triton
    import triton.language as tl

PATCHES, WORDS = 128, 64  # of the largest pair whose cells stay in registers: compiled, 128 x 128 do not
_LEAST = 16  # side of the smallest product
_DIMS = 32  # numbers of a vector that a program holds at a time


@cache
def _kernel() -> Any:
    return triton.jit(_two_way_attention)


def _two_way_attention(  # type: ignore[no-untyped-def]
    patches,
    patch_starts,
    images,
    words,
    word_starts,
    captions,
    scores,
    columns,
    temperature,
    dims: tl.constexpr,
    PATCHES: tl.constexpr,
    WORDS: tl.constexpr,
    DIMS: tl.constexpr,
    SLOPE: tl.constexpr,
    EPS: tl.constexpr,
):
    """One image and one caption; s, p and the powers are (WORDS, PATCHES), 0 in padding."""
    image, caption = tl.load(images + tl.program_id(0)), tl.load(captions + tl.program_id(1))
    first_patch, first_word = tl.load(patch_starts + image), tl.load(word_starts + caption)
    n_patches = (tl.load(patch_starts + image + 1) - first_patch).to(tl.int32)
    n_words = (tl.load(word_starts + caption + 1) - first_word).to(tl.int32)
    patch, word = tl.arange(0, PATCHES), tl.arange(0, WORDS)
    is_patch, is_word = patch < n_patches, word < n_words
    s = tl.zeros((WORDS, PATCHES), tl.float32)
    for start in range(0, dims, DIMS):
        at = start + tl.arange(0, DIMS)
        a = tl.load(
            words + (first_word + word)[:, None] * dims + at[None, :],
            mask=is_word[:, None] & (at < dims)[None, :],
            other=0.0,
        )
        b = tl.load(
            patches + (first_patch + patch)[None, :] * dims + at[:, None],
            mask=is_patch[None, :] & (at < dims)[:, None],
            other=0.0,
        )
        s += tl.dot(a, b, input_precision="ieee")
    s = tl.where(is_word[:, None] & is_patch[None, :], s, 0.0)  # 0 times infinity is NaN

    # tanh: the quotient has lost the last digits of a small cell, where the series is exact to float32
    square = s * s
    near = s * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315 - square * (62 / 2835)))))
    e = tl.exp(-2 * tl.abs(s))
    far = (1 - e) / (1 + e)
    t = tl.where(square < 0.0625, near, tl.where(s < 0, -far, far))
    p = tl.where(t > 0, t, SLOPE * t)

    square = p * p
    factor = temperature / (tl.sqrt(tl.sum(square, axis=0)) + EPS)  # (PATCHES,), lengths over words
    logits = tl.where(is_patch[None, :], p * factor[None, :], float("-inf"))
    powers = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    by_word = tl.sum(powers * s, axis=1) / tl.sum(powers, axis=1)
    factor = temperature / (tl.sqrt(tl.sum(square, axis=1)) + EPS)  # (WORDS,), lengths over patches
    logits = tl.where(is_word[:, None], p * factor[:, None], float("-inf"))
    powers = tl.exp(logits - tl.max(logits, axis=0)[None, :])
    by_patch = tl.sum(powers * s, axis=0) / tl.sum(powers, axis=0)
    score = tl.sum(by_word, axis=0) / n_words + tl.sum(by_patch, axis=0) / n_patches
    tl.store(scores + image * columns + caption, score)


def fused_scores(images: Encoded, captions: Encoded, temperature: float) -> Float[Tensor, "B C"]:
    """ESL's scores of every pair, without a gradient; NaN or infinite where a product of the pair is.

    Args:
        images: of at most ``PATCHES`` patches; float32.
        captions: at most 65,535, of at most ``WORDS`` words; float32.
        temperature: tau.
    """
    patches, words = images.vectors, captions.vectors
    has_gradient = torch.is_grad_enabled() and (patches.requires_grad or words.requires_grad)
    assert not has_gradient, "the kernel has no gradient: training scores with two_way_attention.esl_scores"
    assert images.max_length <= PATCHES, "an image is larger than a program"
    assert captions.max_length <= WORDS, "a caption is larger than a program"
    scores = patches.new_empty(len(images), len(captions))
    pictures = patches.contiguous(), images.offsets.to(torch.int64)
    texts = words.contiguous(), captions.offsets.to(torch.int64)
    fixed = {"dims": patches.shape[1], "DIMS": _DIMS, "SLOPE": SLOPE, "EPS": EPS}
    with torch.cuda.device(patches.device) if patches.is_cuda else nullcontext():  # Triton launches on the current one
        for (height, rows), (width, columns) in product(_by_block(images).items(), _by_block(captions).items()):
            sizes = {"PATCHES": height, "WORDS": width, "num_warps": warps(height, width)}
            launch = _kernel()[len(rows), len(columns)]
            launch(*pictures, rows, *texts, columns, scores, len(captions), temperature, **fixed, **sizes)
    return scores


def warps(patches: int, words: int) -> int:
    """Warps of a program: a thread holds 16 cells of a block or fewer, and 32 of the largest."""
    return 4 if patches * words <= 2048 else 8


def _by_block(sets: Encoded) -> dict[int, Tensor]:
    """Positions of the sets that are padded to each power of two."""
    blocks = [max(_LEAST, 1 << (size - 1).bit_length()) for size in sets.lengths.tolist()]
    return {
        block: torch.tensor([item for item, other in enumerate(blocks) if other == block], device=sets.vectors.device)
        for block in sorted(set(blocks))
    }


def trial(device: torch.device) -> None:
    """Run it on the largest pair, which asks most of a card."""
    image, caption = (
        Encoded(torch.ones(size, 3, device=device), torch.tensor([size], device=device)) for size in (PATCHES, WORDS)
    )
    fused_scores(image, caption, 1.0).cpu()  # an error of the launch is seen by now
