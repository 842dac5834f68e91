"""Fewer tokens from a set: keep the patches with the highest scores, mix tokens by learned or drawn softmax weights.

Source: CrossmodalGroup/LAPS and ICME2025ITR/SCTA ``lib/cross_net.py``.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

MOST_WORDS = 100  # mixtures of a caption at most, hence rows of a word bank


def hidden_width(joint_dim: int) -> int:
    """Hidden size of both condensers: int(0.2 * D)."""
    return max(1, int(0.2 * joint_dim))


def kept_count(patches: int, ratio: float) -> int:
    """Patches that are kept: ceil(patches * ratio)."""
    return math.ceil(patches * ratio)


def mixture_count(patches: int, patch_ratio: float, keep_ratio: float) -> int:
    """Mixtures of an image: int(patches * patch_ratio * keep_ratio), multiplied in this order; at least one.

    Example:
        >>> mixture_count(196, 0.3, 0.5), mixture_count(196, 0.4, 0.5), mixture_count(49, 0.6, 0.8)
        (29, 39, 23)
    """
    return max(1, int(patches * patch_ratio * keep_ratio))


def word_counts(lengths: Int[Tensor, " C"], ratio: float) -> Int[Tensor, " C"]:
    """Mixtures of every caption: max(4, min(int(ratio * (length - 1)), 100)).

    Example:
        >>> word_counts(torch.tensor([2, 6, 12, 300]), 0.75).tolist()
        [4, 4, 8, 100]
    """
    return (ratio * (lengths - 1).double()).long().clamp(max=MOST_WORDS).clamp(min=4)


def keep_highest(scores: Float[Tensor, "*N P"], count: int) -> Bool[Tensor, "*N P"]:
    """True at the ``count`` largest scores of each row; of equal ones the first are kept.

    Example:
        >>> keep_highest(torch.tensor([0.1, 0.3, 0.2, 0.3, 0.3]), 2).tolist()
        [False, True, False, True, False]
    """
    least = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    wanted = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= wanted))


@torch.no_grad()
def patch_scores(patches: Float[Tensor, "P D"], means: Float[Tensor, "C D"]) -> Float[Tensor, "C P"]:
    """s[c, l] = <unit mean patch, unit patch l> + <mean c, unit patch l>, in -2..2; no gradient.

    Args:
        patches: of one image, raw, without the class token.
        means: unit mean of the raw words of each caption, special tokens included.
    """
    units = normalize(patches, dim=1)
    return means @ units.T + units @ normalize(patches.mean(0), dim=0)


def image_shares(logits: Float[Tensor, "P A"], scores: Float[Tensor, "C P"], kept: int) -> Float[Tensor, "C A1 P"]:
    """Share of every patch in the mixtures and in the token of the dropped patches, which comes last.

    Mixture t: softmax of logits[:, t] over the ``kept`` patches with the highest scores. Last: softmax of the scores
    over the dropped ones, all zeros when nothing is dropped.
    """
    keep = keep_highest(scores, kept)  # (C, P)
    mixtures = torch.softmax(logits.T.masked_fill(~keep[:, None], -torch.inf), dim=2)  # (C, A, P)
    rest = (
        torch.softmax(scores.masked_fill(keep, -torch.inf), dim=1) if kept < len(logits) else torch.zeros_like(scores)
    )
    return torch.cat([mixtures, rest[:, None]], dim=1)


class PatchCondenser(nn.Module):
    """logits[l, t] = scale * (W3 GELU(W1 LN(x_l) + b1))_t: how much patch l gives to mixture t, before the softmax.

    They depend on the patch alone, not on the caption. The authors' last bias is left out: it is the same for all
    patches of a mixture, so the softmax over patches cancels it.
    """

    def __init__(self, width: int, mixtures: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden_width(width))
        self.fc2 = nn.Linear(hidden_width(width), mixtures, bias=False)
        self.scale = nn.Parameter(torch.ones(1, 1, 1))  # of the authors' shape

    def forward(self, patches: Float[Tensor, "T D"]) -> Float[Tensor, "T A"]:
        """Logits of every patch for every mixture."""
        logits: Tensor = self.fc2(gelu(self.fc1(self.norm(patches)))) * self.scale[0]
        return logits


class WordCondenser(nn.Module):
    """share[j, i] = softmax over words i of scale * <head j, GELU(F1 LN(c_i) + f1)>; the heads are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden_width(width))
        self.scale = nn.Parameter(torch.ones(1, 1))  # of the authors' shape

    def forward(
        self, words: Float[Tensor, "C L D"], real: Bool[Tensor, "C L"], heads: Float[Tensor, "C K h"]
    ) -> Float[Tensor, "C K L"]:
        """Share of every real word in every mixture; every caption needs one real word."""
        hidden = gelu(self.fc1(self.norm(words)))  # (C, L, h)
        logits = self.scale * torch.einsum("ckh,clh->ckl", heads, hidden)
        return torch.softmax(logits.masked_fill(~real[:, None], -torch.inf), dim=2)


def draw_heads(
    counts: Int[Tensor, " C"], width: int, generator: torch.Generator | None = None
) -> list[tuple[Float[Tensor, "k h"], Float[Tensor, " k"]]]:
    """A random linear layer per caption: weight and bias, uniform in -1/sqrt(h)..1/sqrt(h), as torch starts a layer.

    On the CPU these are, bit for bit, the numbers that one ``nn.Linear(h, k)`` per caption draws in this order.

    Args:
        counts: k of every caption.
        width: h.
        generator: torch's own one of the device of ``counts`` by default.
    """
    sizes = counts.tolist()
    bound = 1 / math.sqrt(width)
    flat = torch.empty(sum(sizes) * (width + 1), device=counts.device).uniform_(-bound, bound, generator=generator)
    drawn = []
    for size, part in zip(sizes, flat.split([size * (width + 1) for size in sizes]), strict=True):
        weight, bias = part.split([size * width, size])
        drawn.append((weight.view(size, width), bias))
    return drawn


def word_bank(width: int, seed: int) -> Float[Tensor, "100 h"]:
    """A fixed set of random heads; a caption with k mixtures uses the first k."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return draw_heads(torch.tensor([MOST_WORDS], device="cpu"), width, generator)[0][0].clone()
