"""Exact scores of many images with few captions, as a search needs them: blocks that stay in the cache.

``scoring/`` is made for many captions at a time. With the dozen words of a query a product is cheap, and what costs is
reading the patches once; so blocks of images are multiplied whole and reduced at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.base import Method
from patchword.scoring.matrix import pair_scores, tile_sizes
from patchword.scoring.pooled_words import WordSlots, pool_words
from patchword.types import Encoded

ROWS = 2048  # patches of a block: with 256 numbers each, 2 MB of float32
_MANY = 512  # words from which on the kernels of scoring/ are as good


def blocks_of(sets: Encoded, rows: int = ROWS) -> Iterator[tuple[slice, Encoded]]:
    """Consecutive sets of about ``rows`` vectors together, as views."""
    if len(sets) == 0:
        return
    offsets = sets.offsets
    start = 0
    while start < len(sets):
        limit = offsets[start] + rows
        stop = max(start + 1, int(torch.searchsorted(offsets, limit, right=True)) - 1)
        part = sets.vectors[int(offsets[start]) : int(offsets[stop])]
        yield slice(start, stop), Encoded(part, sets.lengths[start:stop])
        start = stop


class Scorer:
    """The exact score of any images with some captions, which are looked at once.

    Args:
        method: in evaluation mode.
        captions: C vector sets.
    """

    def __init__(self, method: Method, captions: Encoded) -> None:
        self.method, self.captions = method, captions.float()
        few = len(captions.vectors) <= _MANY and len(captions) > 0
        self._pooling = method.best_patch_pooling if few else None
        self._slots = None if self._pooling is None else WordSlots.of(captions.lengths)

    @torch.no_grad()
    def __call__(self, images: Encoded) -> Float[Tensor, "B C"]:
        """Scores of one block of images, float32."""
        images, captions = images.float(), self.captions
        if self._pooling is not None and self._slots is not None:
            return pool_words(best_of_sets(images, captions.vectors).T, self._slots, *self._pooling)
        step = tile_sizes(self.method, images, captions)[0]
        if step >= len(images):
            return pair_scores(self.method, images, captions).float()
        parts = [images.slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]
        return torch.cat([pair_scores(self.method, part, captions).float() for part in parts])


def best_of_sets(images: Encoded, words: Float[Tensor, "T D"]) -> Float[Tensor, "T B"]:
    """max over the patches of each image of <word, patch>."""
    products = words @ images.vectors.T  # (T, rows)
    lengths = images.lengths
    size = int(lengths[0]) if len(lengths) else 0
    if size and len(products.T) == size * len(lengths) and bool((lengths == size).all()):
        return products.view(len(words), len(lengths), size).amax(2)
    return torch.segment_reduce(products.T.contiguous(), "max", lengths=lengths, axis=0).T


def score_sets(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "N C"]:
    """Scores of all images with some captions, float32: those of ``score_matrix`` up to rounding."""
    scorer = Scorer(method, captions)
    parts = [scorer(block) for _, block in blocks_of(images)]
    return torch.cat(parts) if parts else torch.zeros(0, len(captions))
