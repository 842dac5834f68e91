"""Batches of random regions and words of several lengths, zero-padded, for the tests of methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from patchword.types import Captions, Images

WIDTH, WORD_ROWS = 5, 12  # numbers of a region, and rows of the word table


def padded_images(lengths: Sequence[int], *, extra: int = 0) -> Images:
    """Images of these many regions; one with the same place and length is the same in every batch.

    Args:
        lengths: regions of each image.
        extra: padded slots beyond the longest image.
    """
    values = torch.zeros(len(lengths), max(lengths) + extra, WIDTH)
    for k, (row, length) in enumerate(zip(values, lengths, strict=True)):
        row[:length] = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(10 * k + length))
    return Images(values, torch.tensor(lengths))


def padded_captions(lengths: Sequence[int], *, extra: int = 0) -> Captions:
    """Captions of these many words; see ``padded_images``. Padding is token 0, which no word is."""
    tokens = torch.zeros(len(lengths), max(lengths) + extra, dtype=torch.long)
    for k, (row, length) in enumerate(zip(tokens, lengths, strict=True)):
        row[:length] = torch.randint(1, WORD_ROWS, (length,), generator=torch.Generator().manual_seed(k))
    return Captions(tokens, torch.tensor(lengths))
