"""How far CHAN's float32 scores can be from what 8-bit products say (``short_vectors.py``), as numbers per set.

For a patch r of image i and a word l let z~ = s_i s_l max_r <q_r, q_l>, a maximum of exact integers. The maximum over
the patches moves by no more than its largest argument does, so the code z = max_r <v_r, w_l> obeys

    z <= z~ + a_i |e_l| + b_i |s_l q_l|,         a_i = max_r |x_r|,  b_i = max_r |e_r|
    z >= the same - 2 (a_i |e_l| + b_i |s_l q_l| + c_i t_l),              c_i = max_r t_r

Pooling by mean, sum, maximum or log-sum-exp grows with every code, so the pooled upper codes bound the score from
above; and it moves by at most the mean, the sum, the maximum, or 1/temperature times the maximum of what the codes move
by, which gives the lower bound. What float32 rounds (u = 2^-24; a sum of n products in any order and blocking, fused or
not, is wrong by at most n u / (1 - n u) times the product of the norms) is added on both sides: in the tile's products,
in pooling, and in the arithmetic of the bounds themselves.

All bounds are products of a few numbers of an image and a few of a word or caption, so they cost one narrow matrix
product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from patchword.methods.base import Pooling
from patchword.scoring.hard_assignment import max_over_patches
from patchword.scoring.short_vectors import Shortening, shorten
from patchword.types import Encoded

_UNIT = 2.0**-24
_UPWARD = 1 + 1e-5  # more than the arithmetic on the errors themselves rounds
_OWN = 16  # roundings of a code in the arithmetic of the bounds, at most


@dataclass(frozen=True)
class Pool:
    """A pooling, how it moves with its codes, and how much float32 rounds it."""

    kind: Pooling
    temperature: float

    def moved(self, by: Float[Tensor, "k T"], captions: Encoded) -> Float[Tensor, "k M"]:
        """How far a score moves at most when the code of each word moves by at most as much as given."""
        if self.kind in ("mean", "sum"):
            owner = torch.arange(len(captions)).repeat_interleave(captions.lengths)
            total = torch.zeros(len(by), len(captions)).index_add_(1, owner, by)
            return total if self.kind == "sum" else total / captions.lengths
        largest = torch.stack([largest_of_sets(one, captions) for one in by])
        return largest / self.temperature if self.kind == "lse" else largest

    def rounding(self, largest: Float[Tensor, " M"], lengths: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Largest rounding error of pooling L codes of size ``largest`` at most, in any order of summation.

        Exponentials and logarithms are taken to be right to 4 units in the last place. In log-sum-exp the codes are
        divided by the temperature, their maximum is taken off, and the logarithm of a sum of 1 .. L is added to it.
        """
        if self.kind == "lse":
            return _UNIT * (16 * largest / self.temperature + 2 * lengths + 16 + 8 * lengths.log())
        return _UNIT * (lengths + 4) * largest * (lengths if self.kind == "sum" else 1.0)


class Level:
    """Short vectors of all images and captions, and the bounds that follow from them.

    Attributes:
        patches: ``(P, K)`` 8-bit integers (float32 when products of 8 bits are not exact on this machine).
        words: ``(T, K)`` likewise.
        image_scales, word_scales: what a product of integers is multiplied with.
        of_image: ``(N, 6)`` numbers of each image: a, b, c, rounding of a product, largest norm, 1.
        of_word: ``(3, T)`` what the upper bound of a code adds, as factors of numbers 0, 1 and 3 of the image.
        spread: ``(6, M)`` how far the lower bound of a score is below the upper one.
        rounded: ``(2, M)`` what the upper bound of a score adds, as factors of numbers 4 and 5 of the image.
        distance: ``(6, M)`` how far two float32 scores of a pair can be from each other, however they were computed.
    """

    def __init__(self, images: Encoded, captions: Encoded, pool: Pool, short: Shortening) -> None:
        patches = shorten(images.vectors, short, images.lengths)
        words = shorten(captions.vectors, short, torch.ones(len(captions.vectors), dtype=torch.long))
        self.patches, self.words, self.word_scales = patches.integers, words.integers, words.scales
        dims = images.vectors.shape[1]
        terms = dims + (short.width(dims) if short.exact else 0)  # a score's own, and those of the bounds
        product_rounding = terms * _UNIT / (1 - terms * _UNIT) + _OWN * _UNIT
        self.image_scales, *errors, reach = (
            largest_of_sets(x, images)
            for x in (patches.scales, patches.lengths, patches.errors, patches.lost, patches.lengths + patches.errors)
        )
        self.of_image = torch.stack([*errors, product_rounding * reach, reach, torch.ones_like(reach)], 1)
        word_reach = words.lengths + words.errors
        self.of_word = torch.stack([words.errors, word_reach, word_reach])
        moved = pool.moved(torch.stack([words.errors, word_reach, words.lost, word_reach]), captions)
        lengths, largest = captions.lengths.float(), largest_of_sets(word_reach, captions)
        constant = pool.rounding(torch.zeros_like(lengths), lengths)
        # Pooled upper codes are at most twice as large as the largest product; and two scores are rounded, not one.
        self.rounded = _UPWARD * torch.stack([2 * (pool.rounding(2 * largest, lengths) - constant), 2 * constant])
        self.spread = torch.cat([_UPWARD * 2 * moved[:3], _UPWARD * 4 * moved[3:], 2 * self.rounded])
        self.distance = torch.cat([torch.zeros_like(moved[:3]), _UPWARD * 2 * moved[3:], self.rounded])

    @property
    def product_type(self) -> torch.dtype:
        """Of the products of the integers."""
        return torch.int32 if self.patches.dtype == torch.int8 else torch.float32

    def upper_codes(
        self,
        images: slice,
        patches: slice,
        sizes: list[int],
        words: Shaped[Tensor, "t K"],
        scales: Float[Tensor, " t"],
        of_word: Float[Tensor, "3 t"],
        products: Shaped[Tensor, "P t"],
    ) -> Float[Tensor, "n t"]:
        """Upper bounds of the codes of words for some images.

        Args:
            images, patches: which ones.
            sizes: number of patches of each of these images.
            words, scales, of_word: of the words.
            products: memory for the products, which fresh memory would cost as much as.
        """
        multiply = torch._int_mm if self.product_type == torch.int32 else torch.mm
        multiply(self.patches[patches], words.T, out=products)
        codes = max_over_patches(products, sizes).float()
        codes *= scales
        codes *= self.image_scales[images, None]
        return torch.addmm(codes, self.of_image[images][:, [0, 1, 3]], of_word)


def largest_of_sets(values: Float[Tensor, " T"], sets: Encoded) -> Float[Tensor, " N"]:
    """Largest value among the vectors of each set; values are not negative."""
    owner = torch.arange(len(sets)).repeat_interleave(sets.lengths)
    return torch.zeros(len(sets)).scatter_reduce(0, owner, values, "amax")
