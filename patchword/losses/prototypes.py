"""Contrast through prototypes (SwAV) and through a queue of momentum keys (MoCo), across two modalities.

Source: Image-Text-Matching/AAHR ``lib/loss.py`` (SwAVContrastiveLoss, InfoNCELoss). Caron et al., "Unsupervised
Learning of Visual Features by Contrasting Cluster Assignments" (NeurIPS 2020); He et al. (CVPR 2020).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "B K"], epsilon: float, rounds: int) -> Float[Tensor, "B K"]:
    """Soft assignment of items to prototypes with equal shares of all prototypes; rows add up to 1.

    Q = exp(scores / epsilon)^T / sum, then ``rounds`` times: rows to 1 / K, columns to 1 / B.

    The largest score is taken off first, which changes nothing but the range: ``exp`` of a score above 8.8 would be
    infinite at the published epsilon of 0.1.

    Example:
        >>> sinkhorn(torch.zeros(2, 4), 0.1, 3).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    q = torch.exp((scores - scores.max()) / epsilon).T  # (K, B)
    q = q / q.sum()
    prototypes, items = q.shape
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / items
    return (q * items).T


def prototype_contrast(
    images: Float[Tensor, "B D"],
    captions: Float[Tensor, "B D"],
    prototypes: Float[Tensor, "K D"],
    *,
    temperature: float,
    epsilon: float,
    rounds: int,
) -> Float[Tensor, ""]:
    """Each modality's prototypes are to be predicted from the other one's assignment.

    o = item . prototypes;  - mean over items of sum over k of Q_caption log softmax(o_image / temperature), plus the
    same with image and caption exchanged; the assignments Q are those of ``sinkhorn`` and have no gradient.

    Args:
        images, captions: true pairs in the same row, not normalised.
        prototypes: unit vectors; the caller normalises them.
        temperature: of the prediction.
        epsilon, rounds: of ``sinkhorn``.
    """
    o_images, o_captions = images @ prototypes.T, captions @ prototypes.T
    q_images, q_captions = (sinkhorn(o.detach(), epsilon, rounds) for o in (o_images, o_captions))
    by_image = (q_captions * functional.log_softmax(o_images / temperature, dim=1)).sum(1).mean()
    by_caption = (q_images * functional.log_softmax(o_captions / temperature, dim=1)).sum(1).mean()
    return -by_image - by_caption


def queue_contrast(
    images: Float[Tensor, "B D"],
    captions: Float[Tensor, "B D"],
    image_keys: Float[Tensor, "B D"],
    caption_keys: Float[Tensor, "B D"],
    image_queue: Float[Tensor, "Q D"],
    caption_queue: Float[Tensor, "Q D"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Every query is to find its pair's key of the other modality among the keys in the queue; means over the batch.

    Cross entropy of [q_image . key_caption ; q_image . queue_caption] / temperature with the first as the right one,
    plus the same with image and caption exchanged. All vectors are divided by their length.

    Args:
        images, captions: queries; gradients flow here only.
        image_keys, caption_keys: of the same pairs.
        image_queue, caption_queue: keys of earlier batches; those of the same image are not left out.
        temperature: of both directions.

    Example:
        >>> one = torch.eye(2)
        >>> round(queue_contrast(one, one, one, one, one[:1], one[:1], 1.0).item(), 4)
        1.0064
    """
    total = images.new_zeros(())
    for query, key, queue in ((images, caption_keys, caption_queue), (captions, image_keys, image_queue)):
        q, k, others = (functional.normalize(x, dim=1) for x in (query, key.detach(), queue.detach()))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ others.T], dim=1) / temperature  # (B, 1 + Q)
        right = torch.zeros(len(q), dtype=torch.long, device=q.device)
        total = total + functional.cross_entropy(logits, right)
    return total
