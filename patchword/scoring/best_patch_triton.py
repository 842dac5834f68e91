"""The best patch of every word in one CUDA kernel: the products of a patch and a word never leave the chip.

Used only where a CUDA device and Triton are there (``hard_tiles``). Products are full float32 (no TF32), so the scores
are those that ranks are made of. Tested in Triton's interpreter; its speed on a device has not been measured.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if find_spec("triton") is not None:  # it comes with CUDA builds of torch
    import triton
    import triton.language as tl

_WORDS, _DIMS = 64, 32  # words and numbers of a vector that a program holds at a time


@cache
def _kernel() -> Any:
    return triton.jit(_best_patch)


def _best_patch(  # type: ignore[no-untyped-def]
    patches,
    starts,
    words,
    codes,
    n_words,
    dims: tl.constexpr,
    LONGEST: tl.constexpr,
    PATCHES: tl.constexpr,
    WORDS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """One image and some words; a program goes through the patches of the image block by block."""
    image = tl.program_id(1)
    word = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    is_word = word < n_words
    first, last = tl.load(starts + image), tl.load(starts + image + 1)
    best = tl.full((WORDS,), float("-inf"), tl.float32)
    odd = tl.zeros((WORDS,), tl.int32)
    for block in range(0, LONGEST, PATCHES):
        patch = first + block + tl.arange(0, PATCHES)
        is_patch = patch < last
        products = tl.zeros((PATCHES, WORDS), tl.float32)
        for start in range(0, dims, DIMS):
            at = start + tl.arange(0, DIMS)
            a = tl.load(
                patches + patch[:, None] * dims + at[None, :],
                mask=is_patch[:, None] & (at < dims)[None, :],
                other=0.0,
            )
            b = tl.load(
                words + word[None, :] * dims + at[:, None],
                mask=is_word[None, :] & (at < dims)[:, None],
                other=0.0,
            )
            products += tl.dot(a, b, input_precision="ieee")
        products = tl.where(is_patch[:, None], products, float("-inf"))
        odd = tl.maximum(odd, tl.max((products != products).to(tl.int32), axis=0))  # a maximum drops NaN
        best = tl.maximum(best, tl.max(products, axis=0))
    tl.store(codes + image.to(tl.int64) * n_words + word, tl.where(odd > 0, float("nan"), best), mask=is_word)


def best_patch(
    patches: Float[Tensor, "P D"], starts: Int[Tensor, " n1"], words: Float[Tensor, "T D"]
) -> Float[Tensor, "n T"]:
    """codes[b, t] = max over the patches r of image b of <patch r, word t>; NaN where one of these products is.

    Args:
        patches: of n images, one after the other; contiguous.
        starts: where each image's patches begin, with P at the end.
        words: contiguous.
    """
    images, count = len(starts) - 1, len(words)
    codes = patches.new_empty(images, count)
    longest = int((starts[1:] - starts[:-1]).max())
    # The block of patches that pads the largest image least: 36 patches are three blocks of 16, but one of 64.
    block = min((64, 32, 16), key=lambda size: -(-longest // size) * size)
    grid = (triton.cdiv(count, _WORDS), images)
    launch = _kernel()[grid]
    sizes = {"LONGEST": longest, "PATCHES": block, "WORDS": _WORDS, "DIMS": _DIMS}
    with torch.cuda.device(patches.device) if patches.is_cuda else nullcontext():  # Triton launches on the current one
        launch(patches, starts.to(torch.int64), words, codes, count, dims=patches.shape[1], **sizes)
    return codes


def trial(device: torch.device) -> None:
    """Run it once, on next to nothing."""
    best_patch(torch.ones(2, 3, device=device), torch.tensor([0, 2], device=device), torch.ones(4, 3, device=device))
