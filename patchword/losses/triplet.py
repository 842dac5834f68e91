"""Hinge ranking loss over a square score matrix: all negatives, the hardest one, or the k hardest.

Source: Faghri et al., "VSE++" (BMVC 2018), eq. 5-6; woodfrog/vse_infty ``lib/loss.py``. A sum, never a mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def violations(
    scores: Float[Tensor, "B B"], margin: float, ignore: Bool[Tensor, "B B"] | None = None
) -> tuple[Float[Tensor, "B B"], Float[Tensor, "B B"]]:
    """How much every negative violates the margin, per image (rows) and per caption (columns).

    by_image[i, j] = max(0, margin + s[i, j] - s[i, i]);  by_caption[i, j] = max(0, margin + s[i, j] - s[j, j]);  the
    diagonal, and pairs where ``ignore`` is True, are 0.
    """
    positive = scores.diagonal()
    skip = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if ignore is not None:
        skip = skip | ignore
    by_image = (margin + scores - positive[:, None]).clamp_min(0).masked_fill(skip, 0.0)
    by_caption = (margin + scores - positive[None, :]).clamp_min(0).masked_fill(skip, 0.0)
    return by_image, by_caption


def hinge(
    scores: Float[Tensor, "B B"],
    margin: float,
    *,
    hardest: int | None = None,
    ignore: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of violated margins over negatives, in both directions.

    Args:
        scores: row = image, column = caption, true pairs on the diagonal.
        margin: in units of the score.
        hardest: count only the k largest violations of each image and of each caption (1 = hardest negative);
            None counts all negatives.
        ignore: pairs that are no negatives although off the diagonal (captions of the same image).

    Example:
        >>> s = torch.tensor([[0.5, 0.4], [0.0, 0.1]])
        >>> round(hinge(s, 0.2).item(), 4), round(hinge(s, 0.2, hardest=1).item(), 4)
        (0.7, 0.7)
    """
    by_image, by_caption = violations(scores, margin, ignore)
    if hardest is None:
        return by_image.sum() + by_caption.sum()
    if hardest == 1:
        return by_image.max(1).values.sum() + by_caption.max(0).values.sum()
    k = min(hardest, len(scores))
    return by_image.topk(k, dim=1).values.sum() + by_caption.topk(k, dim=0).values.sum()
