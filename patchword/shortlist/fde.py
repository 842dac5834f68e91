"""MUVERA's fixed-dimensional encodings: one vector per set whose inner products follow a max-sim score.

Dhulipala, Hadian, Jayaram, Lee, Mirrokni: "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings" (2024,
arXiv 2405.19504), section 2. Space is cut by random hyperplanes (SimHash) into 2^bits cells, several times. A caption's
encoding holds in each cell the sum of its words there, an image's the mean of its patches there; where an image has
none in a cell, its patch nearest to the cell in Hamming distance stands in. So the inner product is about
sum over words of max over patches of <word, patch>.

Measured on real vectors against the other shortlist vectors: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.types import Encoded

_BLOCK = 1 << 24  # floats of one temporary


@dataclass(frozen=True)
class FixedEncoding:
    """The random parts of an encoding, drawn from a seed.

    Attributes:
        source: D, width of the vectors of a set.
        bits: hyperplanes of a repetition ("k_sim").
        repetitions: how often space is cut anew ("R_reps").
        inner: width that vectors are projected to within a cell ("d_proj"); as wide as D: not projected.
        width: of the encoding after the final projection; 0 leaves repetitions * 2^bits * inner.
        seed: of all draws.
    """

    source: int
    bits: int = 4
    repetitions: int = 8
    inner: int = 16
    width: int = 2048
    seed: int = 0

    @property
    def full_width(self) -> int:
        """Width before the final projection."""
        return self.repetitions * (1 << self.bits) * min(self.inner, self.source)

    @property
    def final_width(self) -> int:
        """Width of an encoding."""
        return min(self.width, self.full_width) if self.width else self.full_width

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Hyperplanes ``(P, D, k)``, inner projections ``(P, D, d)``, place and sign of the final projection."""
        draw = torch.Generator().manual_seed(self.seed)
        planes = torch.randn(self.repetitions, self.source, self.bits, generator=draw)
        signs = None
        if self.inner < self.source:
            signs = torch.randint(0, 2, (self.repetitions, self.source, self.inner), generator=draw) * 2.0 - 1.0
            signs /= self.inner**0.5
        places = torch.randint(0, self.final_width, (self.full_width,), generator=draw)
        return planes, signs, places, torch.randint(0, 2, (self.full_width,), generator=draw) * 2.0 - 1.0

    def images(self, sets: Encoded) -> Float[Tensor, "N G"]:
        """Encode sets of patches: the mean of each cell, empty cells filled."""
        return self._in_blocks(sets, of_images=True)

    def captions(self, sets: Encoded) -> Float[Tensor, "N G"]:
        """Encode sets of words: the sum of each cell."""
        return self._in_blocks(sets, of_images=False)

    def _in_blocks(self, sets: Encoded, *, of_images: bool) -> Float[Tensor, "N G"]:
        step = max(1, _BLOCK // ((1 << self.bits) * max(self.source, sets.max_length, 1)))
        parts = [
            self._encode(sets.slice(start, min(start + step, len(sets))), of_images)
            for start in range(0, len(sets), step)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.final_width)

    def _encode(self, sets: Encoded, of_images: bool) -> Float[Tensor, "N G"]:
        planes, signs, places, flips = self._drawn
        owner = torch.arange(len(sets)).repeat_interleave(sets.lengths)  # (T,)
        out = torch.zeros(len(sets), self.final_width)
        step = (1 << self.bits) * min(self.inner, self.source)
        for turn in range(self.repetitions):
            cells = cells_of(sets.vectors @ planes[turn])  # (T,)
            inner = sets.vectors if signs is None else sets.vectors @ signs[turn]  # (T, d)
            found = sum_by_cell(inner, owner, cells, len(sets), self.bits)  # (N, 2^k, d)
            if of_images:
                found = fill_cells(found, inner, owner, cells, sets.lengths, self.bits)
            part = slice(turn * step, (turn + 1) * step)
            flat = found.flatten(1)
            if self.final_width == self.full_width:
                out[:, part] = flat
            else:
                out.index_add_(1, places[part], flat * flips[part])
        return out


def cells_of(sides: Float[Tensor, "T k"]) -> Int[Tensor, " T"]:
    """Number of the cell of each vector, from its side of each hyperplane.

    Example:
        >>> cells_of(torch.tensor([[1.0, -1.0], [1.0, 2.0]])).tolist()
        [1, 3]
    """
    return ((sides > 0) * (1 << torch.arange(sides.shape[1]))).sum(1)


def sum_by_cell(
    vectors: Float[Tensor, "T d"], owner: Int[Tensor, " T"], cells: Int[Tensor, " T"], sets: int, bits: int
) -> Float[Tensor, "N cells d"]:
    """Sum of the vectors of each set in each cell."""
    found = vectors.new_zeros(sets << bits, vectors.shape[1])
    found.index_add_(0, (owner << bits) + cells, vectors)
    return found.view(sets, 1 << bits, vectors.shape[1])


def fill_cells(
    sums: Float[Tensor, "N cells d"],
    vectors: Float[Tensor, "T d"],
    owner: Int[Tensor, " T"],
    cells: Int[Tensor, " T"],
    lengths: Int[Tensor, " N"],
    bits: int,
) -> Float[Tensor, "N cells d"]:
    """The mean of each cell; in an empty one the vector of the set whose cell differs in the fewest bits.

    Of several such vectors the first one.
    """
    every = torch.arange(1 << bits)
    counts = torch.zeros(len(lengths) << bits).index_add_(0, (owner << bits) + cells, torch.ones(len(cells)))
    counts = counts.view(len(lengths), -1)  # (N, cells)
    means = sums / counts.clamp(min=1)[..., None]
    apart = sum(((every[:, None] ^ every) >> bit) & 1 for bit in range(bits))
    # the nearest vector of each set to each cell: the smallest (distance, place) by one number
    rank = torch.as_tensor(apart)[cells] * (1 << 40) + torch.arange(len(cells))[:, None]  # (T, cells)
    near = torch.full((len(lengths), 1 << bits), torch.iinfo(torch.long).max)
    near = near.scatter_reduce(0, owner[:, None].expand_as(rank), rank, "amin")
    return torch.where((counts == 0)[..., None], vectors[near & ((1 << 40) - 1)], means)
