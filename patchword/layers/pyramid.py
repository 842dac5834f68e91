"""Pyramids of ever narrower vectors, and one bilinear form per level (ESL).

Level 0 is a vector of width D; level l has width floor(D / k^l) and is a linear map of level l - 1: fixed neighbours
are combined by a small filter (``heuristic``), or every output picks the inputs with the largest weights
(``adaptive``).
Source: CrossmodalGroup/ESL, classes ``Image_levels`` and ``Text_levels`` (two pairs under one name) and the calculator
of the similarities.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchword.layers.normalise import unit

CHANNELS = 4  # of a heuristic filter; only their sum matters, but an optimiser moves every one of them
PICKED = 2  # inputs that an output of an adaptive level is made from
EPS = 1e-8


def level_widths(width: int, levels: int, kernel_size: int) -> list[int]:
    """Width of every level.

    Example:
        >>> level_widths(264, 9, 2)
        [264, 132, 66, 33, 16, 8, 4, 2, 1]
    """
    return [width // kernel_size**level for level in range(levels)]


class Pyramid(nn.Module, ABC):
    """What both kinds share: the chain of levels. A kind says how one level is made from the one below."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)

    @abstractmethod
    def reduce(self, level: int, below: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """Level ``level`` (from 1) before normalisation."""

    def forward(self, vectors: Float[Tensor, "*N D"], *, renormalise: bool) -> list[Float[Tensor, "*N _"]]:
        """All levels, level 0 as it is given and the others as unit vectors.

        ``renormalise``: h_l = N(A_l h_{l-1}), as on the image side; without it u_l = A_l u_{l-1} and h_l = N(u_l), as
        on the text side. They differ by the eps in N: the lengths of u_l may shrink below 1e-6.
        """
        levels, chained = [vectors], vectors
        for level in range(1, len(self.widths)):
            reduced = self.reduce(level, chained)
            levels.append(unit(reduced))
            chained = levels[-1] if renormalise else reduced
        return levels


class HeuristicPyramid(Pyramid):
    """(A x)[j] = sum over t of f[t] x[k j + t], f the sum of the filter's channels; a trailing remainder is dropped."""

    def __init__(self, widths: Sequence[int], kernel_size: int) -> None:
        super().__init__(widths)
        bound = 1 / math.sqrt(kernel_size)
        self.filters = nn.ParameterList(
            torch.empty(CHANNELS, 1, kernel_size).uniform_(-bound, bound) for _ in self.widths[1:]
        )

    def reduce(self, level: int, below: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """One value for every ``kernel_size`` neighbours."""
        taps = self.filters[level - 1].sum(dim=(0, 1))  # (k,)
        blocks = below[..., : self.widths[level] * len(taps)].unflatten(-1, (self.widths[level], len(taps)))
        reduced: Tensor = blocks @ taps
        return reduced


class AdaptivePyramid(Pyramid):
    """A = the largest entries of each row of N(M), by signed value, the others 0; ties at the threshold all stay.

    A kept entry is divided by the length of its full row, so the gradient reaches all entries; the choice has none.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.masks = nn.ParameterList(torch.randn(v, w) for w, v in zip(self.widths, self.widths[1:], strict=False))

    def reduce(self, level: int, below: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """One value for every row of the sparse matrix."""
        return below @ self.sparse(level).T

    def sparse(self, level: int) -> Float[Tensor, "V W"]:
        """The matrix A of a level."""
        rows = unit(self.masks[level - 1])
        threshold = rows.detach().topk(min(PICKED, rows.shape[1]), dim=1).values[:, -1:]
        return rows * (rows.detach() >= threshold)


class LevelForms(nn.Module):
    """One full bilinear form per level between word and patch, and how much each level counts.

    W_l = (M_l - mean) / sqrt(var + 1e-8) * gain_l + shift_l, mean and variance over the whole matrix; D_l = b_l W_l.

    sparsified (ESL-H):  t = min|p| + threshold (max|p| - min|p|),  b_l = p_l exp(exp(sharpness) (|p_l| - t)).
    Otherwise (ESL-A):   b_l = p_l.
    """

    def __init__(self, widths: Sequence[int], *, sparsified: bool) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(d, d) for d in widths)
        self.gains = nn.ParameterList(torch.ones(d, d) for d in widths)
        self.shifts = nn.ParameterList(torch.zeros(d, d) for d in widths)
        self.weights = nn.Parameter(torch.full((len(widths),), 0.1))
        self.threshold = nn.Parameter(torch.zeros(())) if sparsified else None
        self.sharpness = nn.Parameter(torch.full((), 3.0)) if sparsified else None

    def level_weights(self) -> Float[Tensor, " levels"]:
        """b, with its sign."""
        if self.threshold is None or self.sharpness is None:
            return self.weights
        size = self.weights.abs()
        t = size.amin() + self.threshold * (size.amax() - size.amin())
        return self.weights * torch.exp(torch.exp(self.sharpness) * (size - t))

    def matrix(self, level: int) -> Float[Tensor, "d d"]:
        """W of a level."""
        m = self.matrices[level]
        return nn.functional.layer_norm(m, list(m.shape), self.gains[level], self.shifts[level], EPS)

    def forward(self, levels: Sequence[Float[Tensor, "*N _"]]) -> Float[Tensor, "*N E"]:
        """Fold the forms into the levels of the patches: z = all D_l h_l, one after the other (E = sum of widths).

        With x = the concatenated levels of a word, <x, z> = sum over l of h_l(word) D_l h_l(patch).
        """
        weights = self.level_weights()
        return torch.cat([h @ (weights[k] * self.matrix(k)).T for k, h in enumerate(levels)], dim=-1)
