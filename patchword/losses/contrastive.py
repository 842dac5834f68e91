"""InfoNCE with a margin on the negatives.

Source: ppanzx/CHAN ``lib/loss.py`` (InfoNCELoss), computed with log-sum-exp so that small temperatures do not overflow.
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
    ignore: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over images plus mean over captions of log(1 + sum over negatives of exp((s_neg - s_pos + margin) / tau)).

    Args:
        scores: row = image, column = caption, true pairs on the diagonal.
        temperature: tau.
        margin: added to negatives only.
        ignore: pairs that are no negatives although off the diagonal.

    Example:
        >>> round(info_nce(torch.zeros(2, 2), 1.0).item(), 4)      # log 2 per direction
        1.3863
    """
    positive = scores.diagonal()
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)

    def direction(anchor: Float[Tensor, ...], dim: int) -> Float[Tensor, ""]:
        logits = ((scores - anchor + margin) / temperature).masked_fill(diagonal, 0.0)  # the positive counts exp(0)
        if ignore is not None:
            logits = logits.masked_fill(ignore & ~diagonal, -torch.inf)
        return torch.logsumexp(logits, dim=dim).mean()

    return direction(positive[:, None], 1) + direction(positive[None, :], 0)
