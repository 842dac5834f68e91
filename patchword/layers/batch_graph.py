"""A graph over the items of a training batch: how images and captions relate, and layers that let them exchange.

Shared by HREM and AAHR, in training only. Sources: CrossmodalGroup/HREM ``lib/mca.py`` and ``graph_lib.py``;
Image-Text-Matching/AAHR ``graph_lib.py`` (graph convolution).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from patchword.types import real_slots

CHUNK_FLOATS = 1 << 24  # word x region similarities that are held at a time


@dataclass(frozen=True)
class CrossSimilarities:
    """How much images and captions of a batch have in common, from their fragments; without gradients.

    Attributes:
        i2t: ``(B, C)`` mean over regions of each one's best word.
        t2i: ``(C, B)`` mean over words of each one's best region.
        i2t_top, t2i_top: the ``top_k`` best of these regions or words.
    """

    i2t: Float[Tensor, "B C"]
    t2i: Float[Tensor, "C B"]
    i2t_top: Float[Tensor, "B C K"]
    t2i_top: Float[Tensor, "C B K"]


@torch.no_grad()
def cross_similarities(
    regions: Float[Tensor, "B R D"],
    words: Float[Tensor, "C L D"],
    word_lengths: Int[Tensor, " C"],
    top_k: int,
) -> CrossSimilarities:
    """Word x region similarities of all pairs, pooled in both directions as in SCAN.

    S[c, b, w, r] = leaky_relu(cosine of word w and region r, 0.1), and n_c = max(length of c, ``top_k``) words:
    t2i[c, b] = mean over real words w of max over r of S / (norm of S over the n_c words);
    i2t[b, c] = mean over r of max over real words w of S / (norm of S over all r).

    Args:
        regions: all slots count, padded ones too (they are not zero after the projection).
        words: padded word vectors; the first n_c of them, cut at L, enter the norms and ``t2i_top``.
        word_lengths: real words of each caption, at least 1.
        top_k: K; where there are fewer regions or words, the missing ones are 0 (the authors' code stops there).

    Source: CrossmodalGroup/HREM ``lib/mca.py``. Memory: ``CHUNK_FLOATS``, a few captions at a time.
    """
    regions, words = functional.normalize(regions, dim=-1), functional.normalize(words, dim=-1)
    n_regions, n_words = regions.shape[1], words.shape[1]
    size = max(1, CHUNK_FLOATS // max(1, len(regions) * n_regions * n_words))
    i2t, t2i, i2t_top, t2i_top = [], [], [], []
    for start in range(0, len(words), size):
        lengths = word_lengths[start : start + size]
        s = torch.einsum("cwd,brd->cbwr", words[start : start + size], regions)
        s = functional.leaky_relu(s, negative_slope=0.1)
        real = real_slots(lengths, n_words)[:, None, :, None]  # (c, 1, L, 1)
        selected = real_slots(lengths.clamp_min(top_k), n_words)[:, None, :, None]
        over_words = functional.normalize(s.masked_fill(~selected, 0.0), dim=2)
        by_word = over_words.amax(3)  # (c, B, L): best region of each word
        t2i.append(by_word.masked_fill(~real[..., 0], 0.0).sum(2) / lengths[:, None])
        t2i_top.append(_top(by_word.masked_fill(~selected[..., 0], -torch.inf), top_k))
        by_region = functional.normalize(s, dim=3).masked_fill(~real, -torch.inf).amax(2)  # (c, B, R): its best word
        i2t.append(by_region.mean(2))
        i2t_top.append(_top(by_region, top_k))
    return CrossSimilarities(torch.cat(i2t).T, torch.cat(t2i), torch.cat(i2t_top).transpose(0, 1), torch.cat(t2i_top))


def _top(values: Float[Tensor, "C B S"], k: int) -> Float[Tensor, "C B K"]:
    """The k largest values, the largest first; missing ones are 0."""
    best = values.topk(min(k, values.shape[-1]), dim=-1).values
    best = best.masked_fill(best == -torch.inf, 0.0)
    return functional.pad(best, (0, k - best.shape[-1]))


class TopRelation(nn.Module):
    """Two small MLPs that read the ``top_k`` similarities of a pair and correct its mean one (HREM, section 3.3)."""

    def __init__(self, top_k: int) -> None:
        super().__init__()
        self.t2i = nn.Sequential(nn.Linear(top_k, top_k), nn.ReLU(), nn.Linear(top_k, 1))
        self.i2t = copy.deepcopy(self.t2i)  # both start from the same values

    def forward(self, cross: CrossSimilarities) -> tuple[Float[Tensor, "B C"], Float[Tensor, "C B"]]:
        """Relations of images to captions, and of captions to images."""
        return cross.i2t + self.i2t(cross.i2t_top)[..., 0], cross.t2i + self.t2i(cross.t2i_top)[..., 0]


def closeness(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """exp of minus the distance; 1 for equal vectors.

    Above 25 rows torch computes distances through a matrix product, so that those of equal vectors are not exactly 0.

    Example:
        >>> closeness(torch.zeros(1, 2), torch.zeros(1, 2)).tolist()
        [[1.0]]
    """
    return torch.exp(-torch.cdist(a, b))


def connected(values: Float[Tensor, "N M"], share: float) -> Bool[Tensor, "N M"]:
    """The largest ``share`` of every row: at least the k-th largest value, k = int(M * share), but 1 at least.

    All values that equal the k-th are connected.

    Example:
        >>> connected(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), 0.5).tolist()
        [[True, False, True, True]]
    """
    k = max(1, int(values.shape[1] * share))
    return values >= values.topk(k, dim=1).values[:, -1:]


def joined(
    i2i: Shaped[Tensor, "B B"], i2t: Shaped[Tensor, "B B"], t2i: Shaped[Tensor, "B B"], t2t: Shaped[Tensor, "B B"]
) -> Shaped[Tensor, "N N"]:
    """One matrix over images and captions: [[i2i, i2t], [t2i, t2t]]."""
    return torch.cat([torch.cat([i2i, i2t], dim=1), torch.cat([t2i, t2t], dim=1)])


def divergence(a: Float[Tensor, "N M"], b: Float[Tensor, "N M"]) -> Float[Tensor, ""]:
    """Mean over rows of sum softmax(b) (log softmax(b) - log softmax(a)).

    Example:
        >>> divergence(torch.zeros(2, 3), torch.ones(2, 3)).item()
        0.0
    """
    return functional.kl_div(functional.log_softmax(a, -1), functional.softmax(b, -1), reduction="batchmean")


def relation_regulariser(
    images: Float[Tensor, "B D"],
    captions: Float[Tensor, "C D"],
    i2t: Float[Tensor, "B C"],
    t2i: Float[Tensor, "C B"],
) -> Float[Tensor, ""]:
    """How far the relations between the modalities are from the closeness of the vectors; trains the relations only."""
    guide = closeness(images, captions).detach()
    return divergence(guide, i2t) + divergence(guide.T, t2i)


class GraphConvolution(nn.Module):
    """LeakyReLU_0.2(A (dropout(X) W) + b); the adjacency A is used as it is, not normalised by rows."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Float[Tensor, "N D"], adjacency: Float[Tensor, "N N"]) -> Float[Tensor, "N D"]:
        """Exchange along the edges."""
        mixed = adjacency @ (self.dropout(x) @ self.weight) + self.bias
        return functional.leaky_relu(mixed, 0.2)


class InstanceAttention(nn.Module):
    """Transformer encoder layers over the items of a batch as one sequence, with a matrix added to their attention.

    Args:
        width, heads, dropout: of the layers; the feed-forward part has width D.
        layers: how many.
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, dim_feedforward=width, dropout=dropout) for _ in range(layers)
        )

    def forward(self, x: Float[Tensor, "N D"], mask: Float[Tensor, "N N"]) -> Float[Tensor, "N D"]:
        """Let every item attend to the others.

        Args:
            x: the items.
            mask: added to the attention logits of every head; minus infinity where two items are not connected.
        """
        x = x[:, None]  # (N, 1, D): sequence first, one batch
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return x[:, 0]
