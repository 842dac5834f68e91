"""Generalised pooling operator: a learned weighted sum over the sorted values of every dimension.

Source: Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding" (CVPR 2021), section 3.2;
woodfrog/vse_infty ``lib/modules/aggr/gpo.py``.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchword.precision import in_float32
from patchword.types import real_slots


def positional_encoding(count: int, width: int, like: Tensor) -> Float[Tensor, "count width"]:
    """Sinusoidal positions: PE[p, 2j] = sin(p * 10000^(-2j/width)), PE[p, 2j+1] = cos(the same).

    Example:
        >>> positional_encoding(2, 4, torch.zeros(()))[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    position = torch.arange(count, device=like.device, dtype=like.dtype)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * -(math.log(10000.0) / width))
    encoding = like.new_zeros(count, width)
    encoding[:, 0::2] = torch.sin(position * rate)
    encoding[:, 1::2] = torch.cos(position * rate)
    return encoding


class Gpo(nn.Module):
    """Pool a set of vectors to one: pooled_d = sum over k of w_k * (k-th largest value of dimension d).

    The weights come from a small BiGRU over sinusoidal positions and depend on the set's size only, never on its
    content; they are therefore computed once per distinct size.

    Args:
        width: of the position encoding and of the BiGRU (32 in the paper).
        temperature: of the softmax over positions (0.1, hard-coded in the authors' code).
    """

    def __init__(self, width: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.width, self.temperature = width, temperature
        self.gru = nn.GRU(width, width, num_layers=1, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(width, 1, bias=False)

    def weights(self, lengths: Int[Tensor, " N"], size: int | None = None) -> Float[Tensor, "N S"]:
        """Position weights for sets of the given sizes, zero beyond each size.

        Args:
            lengths: sizes of the sets, at least 1 each.
            size: S, the padded size; the largest length by default.
        """
        distinct, which = torch.unique(lengths, return_inverse=True)  # the GRU runs once per distinct size
        longest = int(distinct[-1])
        size = longest if size is None else size
        mask = real_slots(distinct, longest)  # (U, S)
        positions = positional_encoding(longest, self.width, self.linear.weight) * mask[..., None]  # (U, S, 32)
        packed = nn.utils.rnn.pack_padded_sequence(positions, distinct.cpu(), batch_first=True, enforce_sorted=False)
        with in_float32(positions):
            states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=longest)
        hidden = (states[..., : self.width] + states[..., self.width :]) / 2  # mean of the two directions
        logits = self.linear(hidden)[..., 0].masked_fill(~mask, -torch.inf)  # (U, S)
        weights = torch.softmax(logits / self.temperature, dim=1)
        return nn.functional.pad(weights, (0, size - longest))[which]

    def forward(self, vectors: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Pool each set of the padded block ``vectors`` to one vector.

        Args:
            vectors: raw vectors; rows at or beyond ``lengths`` are ignored, whatever they hold.
            lengths: number of real vectors of each set, at least 1.
        """
        size = vectors.shape[1]
        ordered = sort_descending(vectors, real_slots(lengths, size))
        return torch.einsum("nk,nkd->nd", self.weights(lengths, size), ordered)


def sort_descending(vectors: Float[Tensor, "N S D"], mask: Bool[Tensor, "N S"]) -> Float[Tensor, "N S D"]:
    """Sort every dimension of every set on its own, largest first; padding ends up as zeros at the end."""
    filled = vectors.masked_fill(~mask[..., None], -torch.inf)
    ordered = filled.transpose(1, 2).sort(dim=2, descending=True).values.transpose(1, 2)  # (N, S, D)
    return ordered.masked_fill(~mask[..., None], 0.0)
