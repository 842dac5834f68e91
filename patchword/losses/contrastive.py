"""InfoNCE with a margin on the negatives, and with label smoothing.

Source: ppanzx/CHAN ``lib/loss.py`` (InfoNCELoss), computed with log-sum-exp so that small temperatures do not overflow.
Label smoothing, which is not in the authors' code: Szegedy et al., "Rethinking the Inception Architecture for Computer
Vision" (CVPR 2016), section 7.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def info_nce(
    scores: Float[Tensor, "B B"],
    temperature: float,
    margin: float = 0.0,
    *,
    label_smoothing: float = 0.0,
    ignore: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over images plus mean over captions of log(1 + sum over negatives of exp((s_neg - s_pos + margin) / tau)).

    Args:
        scores: row = image, column = caption, true pairs on the diagonal.
        temperature: tau.
        margin: added to negatives only.
        label_smoothing: share of each query's target that is spread evenly over its positive and its negatives.
        ignore: pairs that are no negatives although off the diagonal.

    Example:
        >>> round(info_nce(torch.zeros(2, 2), 1.0).item(), 4)      # log 2 per direction
        1.3863
    """
    positive = scores.diagonal()
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    left_out = torch.zeros_like(diagonal) if ignore is None else ignore & ~diagonal

    def direction(anchor: Float[Tensor, ...], dim: int) -> Float[Tensor, ""]:
        logits = ((scores - anchor + margin) / temperature).masked_fill(diagonal, 0.0)  # the positive counts exp(0)
        losses = torch.logsumexp(logits.masked_fill(left_out, -torch.inf), dim=dim)
        if label_smoothing:
            mean = logits.masked_fill(left_out, 0.0).sum(dim) / (~left_out).sum(dim)
            losses = losses - label_smoothing * mean
        return losses.mean()

    return direction(positive[:, None], 1) + direction(positive[None, :], 0)
