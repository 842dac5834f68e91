"""Triplet loss whose negatives are drawn with probabilities that even out their distances.

Source: Wu et al., "Sampling Matters in Deep Embedding Learning" (ICCV 2017), as used in CrossmodalGroup/HREM
``lib/loss.py`` (TripletLoss), defects included: see ``negative_weights``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DIMENSION = 512  # of the sphere that the density is that of; a constant of the authors' code, not the joint width
NEAREST = 0.5  # distances below count as this


@dataclass(frozen=True)
class Sampled:
    """A triplet loss and what happened while its negatives were drawn. Counts are over both directions.

    Attributes:
        loss: sum over positive pairs and both directions.
        zeroed: directions in which some anchor had no negative of positive weight: their loss is 0.
        far_anchors: anchors whose largest weight lay on an easy negative (negative score): it takes nearly all draws,
            or, beyond the cut-off, leaves its anchor without any.
        above_one: pairs with a score above 1, which are never drawn.
        weights: probabilities of every row's negatives, image -> caption and caption -> image.
    """

    loss: Float[Tensor, ""]
    zeroed: Int[Tensor, ""]
    far_anchors: Int[Tensor, ""]
    above_one: Int[Tensor, ""]
    weights: tuple[Float[Tensor, "B B"], Float[Tensor, "B B"]]


@torch.no_grad()
def negative_weights(
    scores: Float[Tensor, "N M"], positive: Bool[Tensor, "N M"], cutoff: float
) -> tuple[Float[Tensor, "N M"], Bool[Tensor, " N"]]:
    """Probability of every negative of every row, and the rows whose largest weight lay on an easy negative.

    d = max(sqrt(2 - 2 s), 0.5);  log weight = (2 - 512) ln d - (509 / 2) ln(1 - d^2 / 4), 0 where that is no number;
    weight = exp(log weight - its row's maximum) for negatives with d < ``cutoff``, else 0; rows add up to 1.

    The maximum is taken over all entries, positives (as 0) and cut-off negatives too, and the log weight is large at
    both ends: one negative beyond the cut-off can make all weights of its row underflow, which then are all 0. A score
    above 1 gives no distance, hence weight 0.

    Args:
        scores: dot products of (nearly) unit vectors.
        positive: pairs of the same image.
        cutoff: negatives at this distance or farther are never drawn.

    Example:
        >>> weights, _ = negative_weights(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[True, False, False]]), 1.7)
        >>> [round(w, 3) for w in weights[0].tolist()]
        [0.0, 1.0, 0.0]
    """
    distance = (2 - 2 * scores).sqrt().clamp_min(NEAREST)  # NaN above 1
    log_weight = (2.0 - DIMENSION) * distance.log() - ((DIMENSION - 3.0) / 2.0) * (1.0 - 0.25 * distance**2).log()
    log_weight = torch.where(log_weight.isfinite() & ~positive, log_weight, 0.0)
    largest, place = log_weight.max(dim=1, keepdim=True)
    far = (largest > 0) & (distance.gather(1, place) > math.sqrt(2))
    weights = torch.exp(log_weight - largest) * (~positive & (distance < cutoff))
    return weights / (weights.sum(1, keepdim=True) + 1e-20), far[:, 0]


def distance_weighted(
    scores: Float[Tensor, "B B"],
    same_image: Bool[Tensor, "B B"],
    *,
    margin: float,
    cutoff: float,
    draws: Sequence[Int[Tensor, " P"] | None] | None = None,
) -> Sampled:
    """Sum over positive pairs (a, p) of max(0, margin + s[a, n] - s[a, p]), n drawn for each; in both directions.

    Gradients flow through the two scores, not through the weights.

    Args:
        scores: row = image, column = caption.
        same_image: positives; the diagonal is True.
        margin: in units of the score.
        cutoff: see ``negative_weights``.
        draws: column of the negative of every positive pair, in row-major order of the positives, for image -> caption
            and caption -> image; drawn from torch's generator by default.
    """
    loss, kept = scores.new_zeros(()), []
    zeroed = far_anchors = torch.zeros((), dtype=torch.long, device=scores.device)
    for way, (s, positive) in enumerate(((scores, same_image), (scores.T, same_image.T))):
        weights, far = negative_weights(s, positive, cutoff)
        kept.append(weights)
        anchor, other = positive.nonzero(as_tuple=True)
        possible = (weights.sum(1) > 0).all()
        negative = None if draws is None else draws[way]
        if negative is None:
            negative = torch.multinomial(torch.where(possible, weights, 1.0)[anchor], 1)[:, 0]
        violated = (margin + s[anchor, negative] - s[anchor, other]).clamp_min(0).sum()
        loss = loss + torch.where(possible, violated, 0.0)
        zeroed, far_anchors = zeroed + ~possible, far_anchors + far.sum()
    return Sampled(loss, zeroed, far_anchors, 2 * (scores > 1).sum(), (kept[0], kept[1]))
