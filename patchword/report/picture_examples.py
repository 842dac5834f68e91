"""Which pictures a report lets ask for sentences: the clearest hits, the closest near misses, the worst misses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.evaluate.ranks import rank_scores

_ROWS = 256  # images looked at in one go


@dataclass(frozen=True)
class FoundSentences:
    """What an image found among all captions.

    Attributes:
        image: position of the query.
        rank: of the best of its own captions, from 1; ties count against it.
        top: the first captions found.
        scores: theirs.
        best: its own caption with the highest score.
        best_score: of that caption.
        lead: score of that caption minus that of the best wrong one.
    """

    image: int
    rank: int
    top: tuple[int, ...]
    scores: tuple[float, ...]
    best: int
    best_score: float
    lead: float


@dataclass(frozen=True)
class PictureExamples:
    """The image -> text searches that a report shows."""

    best: tuple[FoundSentences, ...]
    near: tuple[FoundSentences, ...]
    worst: tuple[FoundSentences, ...]


def choose_pictures(
    scores: Float[Tensor, "N M"], owner: Int[np.ndarray, " M"], *, each: int = 3, top: int = 5
) -> PictureExamples:
    """Choose image -> text searches by rank and lead alone; a near miss is no worst miss as well.

    Args:
        scores: of all images and captions.
        owner: image of each caption.
        each: searches in each group.
        top: captions listed for each.
    """
    ranks = rank_scores(scores, owner).i2t.pessimistic + 1
    lead = picture_leads(scores, owner)
    by_lead = np.argsort(-lead, kind="stable").tolist()
    near = [i for i in by_lead if ranks[i] == 2][:each]
    missed = np.flatnonzero(ranks > 1).tolist()
    worst = sorted((i for i in missed if i not in near), key=lambda i: (-int(ranks[i]), float(lead[i])))

    def show(images: Iterable[int]) -> tuple[FoundSentences, ...]:
        return tuple(_found(scores[i], owner, i, int(ranks[i]), float(lead[i]), top) for i in images)

    return PictureExamples(show([i for i in by_lead if ranks[i] == 1][:each]), show(near), show(worst[:each]))


def picture_leads(scores: Float[Tensor, "N M"], owner: Int[np.ndarray, " M"]) -> Float[np.ndarray, " N"]:
    """Score of each image's best own caption minus that of the best other one; infinite without any other.

    Example:
        >>> picture_leads(torch.tensor([[0.9, 0.4, 0.1], [0.5, 0.6, 0.2]]), np.array([0, 1, 1])).round(1).tolist()
        [0.5, 0.1]
    """
    parts, of = [], torch.from_numpy(np.asarray(owner))
    for start in range(0, scores.shape[0], _ROWS):
        block = scores[start : start + _ROWS].double()
        right = of[None] == torch.arange(start, start + len(block))[:, None]
        best = block.masked_fill(~right, -torch.inf).amax(1)
        parts.append(best - block.masked_fill(right, -torch.inf).amax(1))
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def _found(
    row: Float[Tensor, " M"], owner: Int[np.ndarray, " M"], image: int, rank: int, lead: float, top: int
) -> FoundSentences:
    values, right = row.numpy(), owner == image
    order = np.lexsort((right, -values))  # as ranks are counted: a wrong caption with the same score comes first
    first = tuple(int(j) for j in order[:top])
    best = int(next(j for j in order if right[j]))
    return FoundSentences(image, rank, first, tuple(float(values[j]) for j in first), best, float(values[best]), lead)
