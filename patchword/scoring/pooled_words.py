"""The words of a block of captions, and their codes pooled to scores without a padded copy of the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.methods.base import Pooling


@dataclass(frozen=True)
class WordSlots:
    """Where the words of C captions stand among the T codes of a block, as a padded table.

    Attributes:
        slots: ``(C * L)`` position of each caption's l-th code; padding repeats the first one.
        real: ``(C, L)`` 1 at real words and 0 at padding.
        padding: ``(C, L)`` 0 at real words and -inf at padding.
        lengths: ``(C,)`` number of words, as floats.
    """

    slots: Int[Tensor, " CL"]
    real: Float[Tensor, "C L"]
    padding: Float[Tensor, "C L"]
    lengths: Float[Tensor, " C"]

    @classmethod
    def of(cls, lengths: Int[Tensor, " C"]) -> WordSlots:
        """Captions of these lengths, one after the other."""
        steps = torch.arange(int(lengths.max()), device=lengths.device)
        real = steps < lengths[:, None]  # (C, L)
        slots = (lengths.cumsum(0) - lengths)[:, None] + steps * real
        padding = torch.zeros(real.shape, device=lengths.device).masked_fill(~real, -torch.inf)
        return cls(slots.reshape(-1), real.float(), padding, lengths.float())


def pool_words(
    codes: Float[Tensor, "B T"], words: WordSlots, pooling: Pooling, temperature: float
) -> Float[Tensor, "B C"]:
    """Pool the codes of every caption; the formulas are those of ``patchword.methods.chan.pool_codes``.

    Each pooling but ``softmax`` grows with every code.
    """
    table = codes.index_select(1, words.slots).view(len(codes), *words.real.shape)  # (B, C, L)
    if pooling == "max":
        return (table + words.padding).amax(2)
    if pooling in ("mean", "sum"):
        total = (table * words.real).sum(2)
        return total if pooling == "sum" else total / words.lengths
    logits = table / temperature + words.padding
    if pooling == "lse":
        return torch.logsumexp(logits, dim=2)
    return (torch.softmax(logits, dim=2) * table * words.real).sum(2)
