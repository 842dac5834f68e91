"""Relations between the fragments (patches or words) of one item, and pooling them to one vector.

Shared by HREM and AAHR. Sources: CrossmodalGroup/HREM ``lib/encoders.py`` (max-k, transformer layer), and
Image-Text-Matching/AAHR ``lib/encoders.py`` (guided pooling, gate).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from patchword.types import real_slots

ShortSets = Literal["reference", "own"]


def counted_largest(lengths: Int[Tensor, " N"], k: int, short_sets: ShortSets = "reference") -> Int[Tensor, " N"]:
    """How many of the largest values each set counts: ``k``, or its size where that is smaller.

    Args:
        lengths: sizes of the sets, at least 1 each.
        k: at least 1.
        short_sets: ``reference``: after a set with fewer than ``k`` vectors, all later sets of the batch count that few
            as well, as in the authors' code; ``own``: only that set does.

    Example:
        >>> lengths = torch.tensor([3, 1, 5])
        >>> counted_largest(lengths, 2).tolist(), counted_largest(lengths, 2, "own").tolist()
        ([2, 1, 1], [2, 1, 2])
    """
    counted = lengths.clamp_max(k)
    return counted.cummin(0).values if short_sets == "reference" else counted


def mean_of_largest(
    vectors: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"], k: int = 2, short_sets: ShortSets = "reference"
) -> Float[Tensor, "N D"]:
    """Mean of the ``k`` largest values of every dimension over the real vectors of a set ("max-k pooling").

    Args:
        vectors: padded sets; rows at or beyond ``lengths`` are ignored, whatever they hold.
        lengths: sizes of the sets, at least 1 each.
        k, short_sets: see ``counted_largest``.

    Example:
        >>> mean_of_largest(torch.tensor([[[1.0], [5.0], [3.0], [9.0]]]), torch.tensor([3])).tolist()
        [[4.0]]
    """
    counted = counted_largest(lengths, k, short_sets)
    filled = vectors.masked_fill(~real_slots(lengths, vectors.shape[1])[..., None], -torch.inf)
    largest = filled.topk(min(k, vectors.shape[1]), dim=1).values  # (N, k, D)
    largest = largest.masked_fill(~real_slots(counted, largest.shape[1])[..., None], 0.0)
    return largest.sum(1) / counted[:, None]


def shares_of_largest(vectors: Float[Tensor, "n D"], k: int = 2) -> Float[Tensor, "n D"]:
    """What each vector of one set contributes to ``mean_of_largest``; the shares add up to it."""
    k = min(k, len(vectors))
    values, places = vectors.topk(k, dim=0)
    return torch.zeros_like(vectors).scatter_(0, places, values / k)


def mean_of_real(vectors: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """Mean over the real vectors of a set."""
    mask = real_slots(lengths, vectors.shape[1])[..., None]
    return vectors.masked_fill(~mask, 0.0).sum(1) / lengths[:, None]


class FragmentGraph(nn.Module):
    """One transformer encoder layer over the fragments of each item: post-norm, ReLU, feed-forward of width D.

    Padded slots are hidden as keys; as queries they are computed like all others and come out as arbitrary values.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        # Sequence first, as in the authors' code: with batch_first torch takes another path in evaluation.
        self.layer = nn.TransformerEncoderLayer(width, heads, dim_feedforward=width, dropout=dropout)

    def forward(self, vectors: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N S D"]:
        """Mix the fragments of each item."""
        padding = ~real_slots(lengths, vectors.shape[1])
        mixed: Tensor = self.layer(vectors.transpose(0, 1), src_key_padding_mask=padding)
        return mixed.transpose(0, 1)


class GuidedPooling(nn.Module):
    """Pool a set to one vector with attention that a guide vector directs; every head is as wide as the input.

    With q_h = normalised Q_h c and k_hr = normalised K_h y_r:  a_h = softmax over r of <q_h, k_hr>, without a
    temperature, and  o = mean over h of sum over r of a_hr V_h y_r.

    The weights of all heads lie in one matrix each: rows ``h * D`` to ``(h + 1) * D`` are head h.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, heads * width) for _ in range(3))

    def weights(
        self, guide: Float[Tensor, "N D"], vectors: Float[Tensor, "N S D"], counted: Bool[Tensor, "N S"] | None
    ) -> Float[Tensor, "N H S"]:
        """Attention of every head over the slots.

        Args:
            guide: c.
            vectors: y.
            counted: slots that take part; None lets every slot take part, the padded ones too.
        """
        n, k, width = vectors.shape
        query = functional.normalize(self.query(guide).view(n, self.heads, width), dim=-1)
        key = functional.normalize(self.key(vectors).view(n, k, self.heads, width), dim=-1)
        logits = torch.einsum("nhd,nkhd->nhk", query, key)
        if counted is not None:
            logits = logits.masked_fill(~counted[:, None], -torch.inf)
        return torch.softmax(logits, dim=-1)

    def values(self, pooled: Float[Tensor, "N H D"]) -> Float[Tensor, "N H D"]:
        """V_h applied to one vector of every head.

        The weights of a head add up to 1, so V_h may come after the sum: sum of a_r V y_r = V (sum of a_r y_r).
        """
        width = pooled.shape[-1]
        weight, bias = self.value.weight.view(self.heads, width, width), self.value.bias.view(self.heads, width)
        return torch.einsum("nhd,hed->nhe", pooled, weight) + bias

    def forward(
        self, guide: Float[Tensor, "N D"], vectors: Float[Tensor, "N S D"], counted: Bool[Tensor, "N S"] | None
    ) -> Float[Tensor, "N D"]:
        """Pool every set; the arguments are those of ``weights``."""
        pooled = torch.einsum("nhk,nkd->nhd", self.weights(guide, vectors, counted), vectors)
        return self.values(pooled).mean(1)

    def shares(self, guide: Float[Tensor, "1 D"], vectors: Float[Tensor, "1 n D"]) -> Float[Tensor, "n D"]:
        """What each vector of one set without padding contributes to the pooled vector; the shares add up to it."""
        attention = self.weights(guide, vectors, None)[0]  # (H, n)
        each = self.values(vectors[0][:, None].expand(-1, self.heads, -1))  # (n, H, D)
        return torch.einsum("hn,nhd->nd", attention, each) / self.heads


class Gate(nn.Module):
    """Elementwise mix of two vectors: z = sigmoid(W [a; b] + bias), z * a + (1 - z) * b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * width, width)

    def weights(self, a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """z, the weight of ``a``."""
        return torch.sigmoid(self.fc(torch.cat([a, b], dim=-1)))

    def forward(self, a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The mix."""
        z = self.weights(a, b)
        return z * a + (1 - z) * b
