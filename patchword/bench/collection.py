"""Collections of any size for measuring search: vector sets with the statistics of a trained model.

By default with the means and deviations of a CHAN trained on Flickr8k (36 x 256, 3 kB in ``statistics.safetensors``):
a patch is unit(mean + what its image shares + its own), a word is unit(mean + what its caption shares + its own), each
part normal along the directions in which images differ most. Scores of such sets lie like the real ones (mean 0.107,
deviation 0.130 and best of 8,000 0.53; real 0.111, 0.141 and 0.64), and their shortlist is a little harder (recall@10
of 50 among 8,000 candidates 0.974; real 0.988). With a run and its data: real encoded sets, patches of each mixed with
those of a neighbour, and moved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from patchword.bench.shapes import caption_lengths
from patchword.shortlist.pooled import mean_vectors
from patchword.types import Encoded

PATCHES = 36
_NEAR = 20  # neighbours of an image that its patches are mixed with
_FOREIGN, _MOVED = 0.3, 0.4  # share of a neighbour's patches; length of what is added to a unit vector


class Maker(ABC):
    """What makes vector sets.

    Attributes:
        width: D.
    """

    width: int

    @abstractmethod
    def images(self, count: int) -> Encoded:
        """The next images."""

    @abstractmethod
    def captions(self, count: int) -> Encoded:
        """The next captions."""


@dataclass
class Statistics(Maker):
    """Normal parts with the stored means and deviations.

    Args:
        seed: of all draws.
    """

    seed: int = 0
    width: int = 256

    @cached_property
    def _values(self) -> dict[str, Tensor]:
        stored = load_file(Path(__file__).with_name("statistics.safetensors"))
        return {name: value.float() for name, value in stored.items()}

    @cached_property
    def _draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self.width, generator=self._draw)

    def images(self, count: int) -> Encoded:
        """36 patches each."""
        v = self._values
        shared = v["patch_mean"] + self._normal(count, 1) * v["image_sd"]
        patches = normalize(shared + self._normal(count, PATCHES) * v["patch_sd"], dim=2)
        return Encoded(patches.flatten(0, 1), torch.full((count,), PATCHES))

    def captions(self, count: int) -> Encoded:
        """As many words as COCO's captions have."""
        v = self._values
        lengths = caption_lengths(count, np.random.default_rng(int(torch.randint(1 << 30, (1,), generator=self._draw))))
        shared = v["word_mean"] + self._normal(count) * v["caption_sd"]
        own = self._normal(int(lengths.sum())) * v["word_sd"]
        return Encoded(normalize(shared.repeat_interleave(lengths, dim=0) + own, dim=1), lengths)


class Resampled(Maker):
    """Encoded images and captions of a split, multiplied.

    Args:
        images, captions: encoded, all images of one size.
        seed: of all draws.
    """

    def __init__(self, images: Encoded, captions: Encoded, seed: int = 0) -> None:
        self.width = images.vectors.shape[1]
        self._images, self._captions = images, captions
        self._patches = images.vectors.view(len(images), -1, self.width)
        means = mean_vectors(images)
        near = [block @ means.T for block in means.split(1000)]
        self._near: Int[Tensor, "N n"] = torch.cat([s.topk(min(_NEAR, s.shape[1]), dim=1).indices for s in near])
        self._draw = torch.Generator().manual_seed(seed)

    def _choose(self, high: int, *shape: int) -> Int[Tensor, ...]:
        return torch.randint(high, shape, generator=self._draw)

    def images(self, count: int) -> Encoded:
        """Patches of an image and of one near it, each moved along the difference of two patches of other images."""
        size, total = self._patches.shape[1], len(self._patches)
        base = self._choose(total, count)
        other = self._near[base, self._choose(self._near.shape[1], count)]
        is_foreign = torch.rand(count, size, generator=self._draw) < _FOREIGN
        owner = torch.where(is_foreign, other[:, None], base[:, None])
        flat = self._images.vectors
        patches = flat[owner * size + torch.arange(size)]  # (count, size, D)
        moved = flat[self._choose(len(flat), count, size)] - flat[self._choose(len(flat), count, size)]
        made: Float[Tensor, "n s D"] = normalize(patches + _MOVED * normalize(moved, dim=2), dim=2)
        return Encoded(made.flatten(0, 1), torch.full((count,), size))

    def captions(self, count: int) -> Encoded:
        """Captions of the split, at random."""
        return self._captions.select(self._choose(len(self._captions), count))
