"""Which searches a report shows: the clearest hits, near misses in which a twin picture wins, the worst misses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.evaluate.ranks import rank_scores

_COLUMNS = 1024  # captions looked at in one go


@dataclass(frozen=True)
class Found:
    """What a caption found among all images.

    Attributes:
        caption: position of the query.
        right: its own image.
        rank: of that image, from 1; ties count against it.
        top: the first images found.
        scores: theirs.
        right_score: of the right image.
        lead: score of the right image minus that of the best wrong one.
    """

    caption: int
    right: int
    rank: int
    top: tuple[int, ...]
    scores: tuple[float, ...]
    right_score: float
    lead: float


@dataclass(frozen=True)
class Twin:
    """A near miss: the winner and how much the model sees the two pictures alike.

    Attributes:
        found: the search; its first image is the winner.
        likeness: correlation of the two images' scores over all captions.
    """

    found: Found
    likeness: float


@dataclass(frozen=True)
class Examples:
    """The searches that a report shows, and the captions whose words it lights."""

    best: tuple[Found, ...]
    twins: tuple[Twin, ...]
    worst: tuple[Found, ...]
    lit: tuple[Found, ...]


def choose_examples(
    scores: Float[Tensor, "N M"], owner: Int[np.ndarray, " M"], *, each: int = 3, top: int = 5
) -> Examples:
    """Choose text -> image searches by rank and lead alone; no image is shown twice in one group.

    Args:
        scores: of all images and captions.
        owner: image of each caption.
        each: searches in each group.
        top: images listed for each.
    """
    ranks = rank_scores(scores, owner).t2i.pessimistic + 1
    lead = leads(scores, owner)
    by_lead = np.argsort(-lead, kind="stable")
    first = [int(j) for j in by_lead if ranks[j] == 1]
    worst = sorted(np.flatnonzero(ranks > 1).tolist(), key=lambda j: (-int(ranks[j]), float(lead[j])))

    def show(captions: Iterable[int]) -> tuple[Found, ...]:
        return tuple(_found(scores, owner, j, int(ranks[j]), float(lead[j]), top) for j in captions)

    best = _different(first, owner, each)
    spread = [first[round(k * (len(first) - 1) / max(1, 2 * each))] for k in range(2 * each + 1)] if first else []
    taken = {int(owner[j]) for j in best}
    by_rank = np.lexsort((-lead, ranks)).tolist()  # for splits with few hits or none
    lit = _different([*(j for j in spread if int(owner[j]) not in taken), *by_rank], owner, each)
    near = [(j, likeness) for j, likeness in _near_misses(scores, owner, ranks, lead) if likeness > 0]
    chosen = _different([j for j, _ in near], owner, each)
    alike = dict(near)
    return Examples(
        show(best),
        tuple(Twin(found, alike[found.caption]) for found in show(chosen)),
        show(_different(worst, owner, each)),
        show(lit),
    )


def leads(scores: Float[Tensor, "N M"], owner: Int[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Score of each caption's own image minus that of the best other image; infinite without any other.

    Example:
        >>> leads(torch.tensor([[0.9, 0.4], [0.5, 0.6]]), np.array([0, 1])).round(1).tolist()
        [0.4, 0.2]
    """
    parts = []
    for start in range(0, scores.shape[1], _COLUMNS):
        block = scores[:, start : start + _COLUMNS].to(torch.float64, copy=True)  # changed below
        rows, columns = torch.from_numpy(owner[start : start + _COLUMNS]), torch.arange(block.shape[1])
        right = block[rows, columns]
        block[rows, columns] = -torch.inf
        parts.append(right - block.amax(0))
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def _near_misses(
    scores: Float[Tensor, "N M"],
    owner: Int[np.ndarray, " M"],
    ranks: Int[np.ndarray, " M"],
    lead: Float[np.ndarray, " M"],
    most: int = 500,
) -> list[tuple[int, float]]:
    """Captions whose image came second (the ``most`` closest), with the likeness of the two, the most alike first."""
    second = sorted(np.flatnonzero(ranks == 2).tolist(), key=lambda j: -float(lead[j]))[:most]
    found = []
    for j in second:
        column = scores[:, j].clone()
        column[int(owner[j])] = -torch.inf
        pair = torch.stack([scores[int(owner[j])], scores[int(column.argmax())]]).double()
        likeness = float(torch.corrcoef(pair)[0, 1]) if pair.shape[1] > 1 else 0.0
        found.append((j, likeness if np.isfinite(likeness) else 0.0))
    return sorted(found, key=lambda one: -one[1])


def _different(captions: Iterable[int], owner: Int[np.ndarray, " M"], most: int) -> list[int]:
    """The first captions that belong to different images."""
    chosen: dict[int, int] = {}
    for j in captions:
        chosen.setdefault(int(owner[j]), int(j))
        if len(chosen) == most:
            break
    return list(chosen.values())


def _found(
    scores: Float[Tensor, "N M"], owner: Int[np.ndarray, " M"], caption: int, rank: int, lead: float, top: int
) -> Found:
    column, right = scores[:, caption], int(owner[caption])
    order = torch.argsort(column, descending=True, stable=True).tolist()
    if rank > 1:  # as ranks are counted: a wrong image with the same score comes first
        ahead = [i for i in order if i != right and column[i] >= column[right]]
        order = [*ahead, right, *(i for i in order if i != right and column[i] < column[right])]
    first = tuple(int(i) for i in order[:top])
    return Found(caption, right, rank, first, tuple(float(column[i]) for i in first), float(column[right]), lead)
