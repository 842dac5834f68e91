"""What the vector sets of a training batch hold beside the vectors that are scored.

A method whose losses need more than its scores packs it into the same sets: they are what is gathered from all
processes, with gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.types import Encoded


@dataclass(frozen=True)
class Rows:
    """What the vector sets of a training batch hold, as blocks.

    Attributes:
        heads: the first rows of every set: what is scored, then what only losses need.
        counts: real fragments of each item.
        fragments: all slots, padded ones included.
    """

    heads: list[Float[Tensor, "N D"]]
    counts: Int[Tensor, " N"]
    fragments: Float[Tensor, "N S D"]


def pack(
    heads: Sequence[Float[Tensor, "N D"]], counts: Int[Tensor, " N"], fragments: Float[Tensor, "N S D"]
) -> Encoded:
    """Vector sets of a training batch: the heads, a row filled with the number of real fragments, all fragments.

    The fragments have no gradient: the graph reads relations from them and moves only what makes the relations.
    Rows of half precision become float32, in which the numbers stay whole.
    """
    width = fragments.shape[-1]
    count = counts.float()[:, None, None].expand(-1, 1, width)
    rows = torch.cat([torch.stack(list(heads), dim=1), count, fragments.detach()], dim=1)
    return Encoded.from_padded(rows, torch.full_like(counts, rows.shape[1]))


def unpack(sets: Encoded, heads: int) -> Rows:
    """The inverse of ``pack``; all sets of a batch have the same size."""
    block = sets.vectors.view(len(sets), -1, sets.vectors.shape[1])
    counts = block[:, heads, 0].detach().round().long()
    return Rows(list(block[:, :heads].unbind(1)), counts, block[:, heads + 1 :].detach())


def first_rows(sets: Encoded) -> Float[Tensor, "N D"]:
    """The vector of each set that is scored: its first row, in training the only one of several."""
    return sets.vectors[sets.offsets[:-1]]
