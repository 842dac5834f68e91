"""CHAN's float32 scores at the rate of a matrix product.

A tile is the product of the patches of a few images with a few hundred words of neighbouring captions, just large
enough for the product to run at its full rate and small enough for its result to stay in the cache until the maximum
over the patches has read it. Nothing is padded: captions follow each other without gaps, and images of different sizes
too. Readable form: ``patchword.methods.chan.code_pairs``. Measured: docs/performance.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.base import Method, Pooling
from patchword.methods.chan import Chan
from patchword.methods.clip import Clip
from patchword.scoring.hard_assignment import ON_A_DEVICE, PATCHES, WORDS, max_over_patches
from patchword.scoring.kernels import has_kernel
from patchword.scoring.pooled_words import WordSlots, pool_words
from patchword.scoring.space import Space
from patchword.scoring.tiles import Tiles, cuts_by_rows
from patchword.types import Encoded

_PATCHES, _WORDS = PATCHES, WORDS  # of a tile of wide vectors on a CPU
_WIDE = 400  # from this width on; below, a tile has twice of each to outweigh what a call costs


class HardTiles(Tiles):
    """score[b, c] = pooled over the words l of c of the best <patch of b, word l>."""

    def __init__(self, images: Encoded, captions: Encoded, pooling: Pooling, temperature: float) -> None:
        self.image_sets, self.caption_sets = images.float(), captions.float()
        self.pooling, self.temperature = pooling, temperature
        scale = 1 if images.vectors.shape[1] >= _WIDE else 2
        if images.vectors.device.type != "cpu":
            scale = ON_A_DEVICE
        self.width = _WORDS * scale
        self.image_cuts = cuts_by_rows(images.lengths, _PATCHES * scale)
        self.caption_cuts = cuts_by_rows(captions.lengths, self.width)
        self.captions = torch.arange(len(captions))
        self.patch_starts, self.word_starts = images.offsets.tolist(), captions.offsets.tolist()
        self.tile_bytes = 8 * self.width * max(_PATCHES * scale, images.max_length)
        self._sizes = images.lengths.tolist()
        self._slots: dict[int, WordSlots] = {}
        self._space = Space()

    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile."""
        codes = self.codes(row, column)
        if column not in self._slots:
            self._slots[column] = WordSlots.of(self.caption_sets.lengths[self.places_of(column)])
        return pool_words(codes, self._slots[column], self.pooling, self.temperature)

    def codes(self, row: int, column: int) -> Float[Tensor, "n t"]:
        """Score of the best patch for every word of a tile.

        The product is as wide for every tile, a multiple of 16 words, because that is faster: beyond the words of the
        tile it goes on with those of the next one, which are dropped.
        """
        block, places = self.images_of(row), self.places_of(column)
        first, last = self.word_starts[places.start], self.word_starts[places.stop]
        end = max(last, min(first + self.width, self.word_starts[-1]))
        patches = self.image_sets.vectors[self.patch_starts[block.start] : self.patch_starts[block.stop]]
        if has_kernel("best_patch_triton", patches.device):
            from patchword.scoring.best_patch_triton import best_patch

            starts = torch.tensor(self.patch_starts[block.start : block.stop + 1], device=patches.device)
            return best_patch(patches, starts - starts[0], self.caption_sets.vectors[first:last])
        found = self._space.take("products", len(patches), end - first, device=patches.device)
        torch.mm(patches, self.caption_sets.vectors[first:end].T, out=found)
        return max_over_patches(found, self._sizes[block])[:, : last - first]


def chan_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles | None:
    """Tiles for the published coding ``vha``; None for the others."""
    assert isinstance(method, Chan)
    config = method.config
    if config.coding != "vha" or config.score_padding == "reference":
        return None
    return HardTiles(images, captions, config.pooling, config.pooling_temperature)


def late_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles | None:
    """Tiles for the late interaction of a ready-made model; None for its global vectors."""
    assert isinstance(method, Clip)
    return HardTiles(images, captions, "mean", 1.0) if method.config.interaction == "patches" else None
