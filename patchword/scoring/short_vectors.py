"""Short integer vectors whose inner products bound those of the vectors they stand for.

For vectors v and w of width D and a basis B of d orthonormal directions, h = B^T v and t = |v - B h| (what is left),

    <v, w> = <B^T v, B^T w> + <v - B B^T v, w - B B^T w>,    so   |<v, w> - <h_v, h_w>| <= t_v t_w     (Cauchy-Schwarz)

With x_v = (h_v, t_v), which has d + 1 numbers, that is  <v, w> <= <x_v, x_w>  and  <v, w> >= <x_v, x_w> - 2 t_v t_w.
A rotation of x changes no product; a random one spreads x evenly, so that 8 bits suit every direction alike. With
x = s q + e, q of integers up to 127, s one number for the patches of an image and one for every word,

    |<x_v, x_w> - s_v s_w <q_v, q_w>| <= |x_v| |e_w| + |s_w q_w| |e_v|

where |e| is measured, not estimated. Products of integers are exact. h is computed in float64; what that loses, what
float32 loses of x and of norms, and that the directions are orthogonal only to 1e-12 or so, is covered by adding
``ROUNDING`` times the norm of the vector to |x|, |e| and t.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from patchword.scoring.tiles import cuts_by_rows

ROUNDING = 2e-6  # far above what is lost, and far below what 8 bits lose (about 1e-2)
_ROWS = 1 << 10  # vectors that are transformed at a time: more would not stay in the cache
_SAMPLE = 1 << 12  # vectors of each side that the directions are found from


@dataclass(frozen=True)
class ShortVectors:
    """T vectors of one side.

    Attributes:
        integers: q ``(T, K)``, 8 bits, or x itself in float32 when products of integers are slow or wrong here.
        scales: s of each vector.
        lengths: |x|, an upper bound.
        errors: |e|, an upper bound.
        lost: t, an upper bound.
    """

    integers: Shaped[Tensor, "T K"]
    scales: Float[Tensor, " T"]
    lengths: Float[Tensor, " T"]
    errors: Float[Tensor, " T"]
    lost: Float[Tensor, " T"]


@dataclass(frozen=True)
class Shortening:
    """How vectors are shortened.

    Attributes:
        basis: d orthonormal directions ``(D, d)``; None keeps all of the vector, unrotated, and loses nothing.
        exact: keep the shortened vectors in float32 instead of rounding them to 8 bits.
    """

    basis: Float[Tensor, "D K"] | None
    exact: bool = False

    def width(self, dims: int) -> int:
        """Numbers of a shortened vector."""
        return dims if self.basis is None else self.basis.shape[1] + 1


def directions(patches: Float[Tensor, "P D"], words: Float[Tensor, "W D"]) -> Float[Tensor, "D D"]:
    """Orthonormal directions, the last d of which are the d in which patches and words are longest together.

    Any orthonormal directions are correct; these lose least.
    """
    moments = torch.zeros(patches.shape[1], patches.shape[1])
    for side in (patches, words):
        some = side[:: -(-len(side) // _SAMPLE)]
        some = some / some.norm().clamp_min(1e-12)
        moments += some.T @ some
    found: Tensor = torch.linalg.eigh(moments.double()).eigenvectors
    return found


def random_rotation(width: int) -> Float[Tensor, "K K"]:
    """An orthogonal matrix, always the same for a width."""
    draw = torch.Generator().manual_seed(width)
    found: Tensor = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
    return found


def shorten(vectors: Float[Tensor, "T D"], how: Shortening, sizes: Int[Tensor, " N"]) -> ShortVectors:
    """Shorten vectors.

    Args:
        vectors: T vectors, finite.
        how: to which numbers.
        sizes: numbers of consecutive vectors that share a scale; they add up to T.
    """
    count, width = len(vectors), how.width(vectors.shape[1])
    rotation = random_rotation(1 if how.basis is None else width)
    to_head = None if how.basis is None else how.basis @ rotation[:-1]  # (D, K)
    integers = torch.empty(count, width, dtype=torch.float32 if how.exact else torch.int8)
    scales, upward = torch.ones(count), 1 + width * 2.0**-23  # a norm in float32, summed in any order
    lengths, errors, lost = (torch.zeros(count) for _ in range(3))
    cuts, starts = cuts_by_rows(sizes, _ROWS), [0, *sizes.cumsum(0).tolist()]
    for first, last in pairwise(cuts):
        part = slice(starts[first], starts[last])
        norms = vectors[part].norm(dim=1)
        slack = ROUNDING * norms
        if to_head is None:
            x = vectors[part]
        else:
            long = vectors[part].double()
            rotated = long @ to_head  # (n, K): h, rotated
            rest = (long.square().sum(1) - rotated.square().sum(1)).clamp_min(0).sqrt().float() + slack
            x = rotated.float() + rest[:, None] * rotation[-1].float()
            lost[part] = rest + slack
        if how.exact:
            integers[part] = back = x
        else:
            owner = torch.arange(last - first).repeat_interleave(sizes[first:last])
            largest = torch.zeros(last - first).scatter_reduce(0, owner, x.abs().amax(1), "amax")
            scales[part] = torch.where(largest > 0, largest / 127, 1.0)[owner]
            scale = scales[part, None]
            rounded = (x / scale).round_().clamp_(-127, 127)
            integers[part] = rounded.to(torch.int8)
            back = rounded.mul_(scale)
        lengths[part], errors[part] = (x.norm(dim=1) * upward + slack, (x - back).norm(dim=1) * upward + slack)
    return ShortVectors(integers, scales, lengths, errors, lost)
