"""The best items of many queries, while their scores go by."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class Best:
    """The k largest scores of each of Q queries; of equal scores that of the smallest item. Added in any order.

    Attributes:
        scores: ``(Q, k)``, descending; -inf where fewer than k were added.
        items: of each score.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.scores = torch.full((queries, k), -torch.inf)
        self.items = torch.full((queries, k), torch.iinfo(torch.long).max)

    def add_block(self, first: int, items: Int[Tensor, " m"], scores: Float[Tensor, "q m"]) -> None:
        """Add the scores of neighbouring queries, from the ``first`` one on, with some items."""
        k = self.scores.shape[1]
        least = self.scores[first : first + len(scores), -1:]
        if scores.shape[1] > k and int((scores >= least).sum()) > 4 * k * len(scores):
            least = torch.maximum(least, scores.topk(k, dim=1).values[:, -1:])
        rows, columns = (scores >= least).nonzero(as_tuple=True)
        self.add(rows + first, items[columns], scores[rows, columns])

    def add(self, queries: Int[Tensor, " n"], items: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> None:
        """Add single scores."""
        touched = torch.unique(queries)
        k = self.scores.shape[1]
        queries = torch.cat([touched.repeat_interleave(k), queries])
        items = torch.cat([self.items[touched].view(-1), items])
        scores = torch.cat([self.scores[touched].view(-1), scores])
        order = descending(queries, items, scores)
        queries, items, scores = queries[order], items[order], scores[order]
        place = places_within(queries)
        kept = place < k
        self.items[queries[kept], place[kept]] = items[kept]
        self.scores[queries[kept], place[kept]] = scores[kept]


def descending(queries: Int[Tensor, " n"], items: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Order by query, then by falling score, then by item."""
    return torch.from_numpy(np.lexsort((items.numpy(), -scores.numpy(), queries.numpy())))


def places_within(queries: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Place of each entry among those of its query; entries of a query stand together, queries ascending.

    Example:
        >>> places_within(torch.tensor([2, 2, 5, 5, 5])).tolist()
        [0, 1, 0, 1, 2]
    """
    return torch.arange(len(queries)) - torch.searchsorted(queries, queries)
