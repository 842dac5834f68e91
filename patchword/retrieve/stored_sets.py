"""The vector sets of a snapshot as half-precision views of the mapped shards, for scoring block by block.

A block is made float32 only when it is scored, while it is in the processor's cache: that costs a tenth of reading it,
and half-precision is half as much to read. So nothing but the system's page cache holds the sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patchword.retrieve.rescore import ROWS
from patchword.store.shards import Shard
from patchword.store.snapshot import Snapshot
from patchword.types import Encoded


@dataclass(frozen=True)
class Piece:
    """Neighbouring or chosen items of one shard that are scored together.

    Attributes:
        shard: position of the shard in the snapshot.
        places: within the shard: a slice, or positions.
        rows: ``(n,)`` where the results go.
    """

    shard: int
    places: slice | NDArray[np.int64]
    rows: NDArray[np.int64]


Block = list[Piece]


class ShardSets:
    """The sets of one shard."""

    def __init__(self, shard: Shard) -> None:
        self.vectors: Float[Tensor, "T D"] = torch.from_numpy(shard.vectors)
        self.lengths: Int[Tensor, " N"] = torch.from_numpy(shard.lengths).long()
        self.offsets: Int[Tensor, " N1"] = torch.from_numpy(shard.offsets)

    @cached_property
    def size(self) -> int:
        """Size of every set; 0 when they differ."""
        first = int(self.lengths[0]) if len(self.lengths) else 0
        return first if bool((self.lengths == first).all()) else 0

    def take(self, places: slice | NDArray[np.int64]) -> Encoded:
        """Some sets, half-precision; a view for a slice."""
        if isinstance(places, slice):
            start, stop = int(self.offsets[places.start]), int(self.offsets[places.stop])
            return Encoded(self.vectors[start:stop], self.lengths[places])
        chosen = torch.from_numpy(places)
        if self.size:
            found = self.vectors.view(-1, self.size, self.vectors.shape[1]).index_select(0, chosen)
            return Encoded(found.flatten(0, 1), self.lengths[chosen])
        return Encoded(self.vectors, self.lengths).select(chosen)


class StoredSets:
    """The sets of a snapshot.

    Args:
        snapshot: what is read.
        before: the sets of an older snapshot, whose open shards are used again.
    """

    def __init__(self, snapshot: Snapshot, before: StoredSets | None = None) -> None:
        self.snapshot = snapshot
        known: dict[int, ShardSets] = {} if before is None else before._by_key
        self._by_key: dict[int, ShardSets] = {
            shard.key: known.get(shard.key) or ShardSets(shard) for shard in snapshot.shards
        }
        self._shards = [self._by_key[shard.key] for shard in snapshot.shards]

    def take(self, block: Block) -> Encoded:
        """The sets of a block, half-precision."""
        parts = [self._shards[piece.shard].take(piece.places) for piece in block]
        return parts[0] if len(parts) == 1 else Encoded.concat(parts)

    def blocks(self, rows: NDArray[np.int64] | None = None) -> list[Block]:
        """All items, or those at ascending positions, as what is scored together: candidates lie far apart, a few in
        each shard, and scoring so few at a time would take longer than reading them."""
        lengths = self.snapshot.lengths if rows is None else self.snapshot.lengths[rows]
        longest = max(1, int(lengths.max(initial=0)))
        found: list[Block] = []
        room = 0
        for piece in self.pieces(rows):
            size = len(piece.rows) * longest
            if size > room:
                found.append([])
                room = ROWS
            found[-1].append(piece)
            room -= size
        return found

    def pieces(self, rows: NDArray[np.int64] | None = None) -> list[Piece]:
        """All items, or those at ascending positions, cut into blocks.

        The result of a block goes to ``piece.rows``: positions in the snapshot, or in ``rows`` where it is given.
        """
        snapshot = self.snapshot
        chosen = np.arange(len(snapshot)) if rows is None else rows
        if not len(chosen):
            return []
        shard_of, place_of = snapshot.shard_of[chosen], snapshot.place_of[chosen].astype(np.int64)
        found = []
        bounds = [0, *(np.flatnonzero(np.diff(shard_of)) + 1).tolist(), len(chosen)]
        for start, stop in pairwise(bounds):
            number = int(shard_of[start])
            longest = max(1, int(self.snapshot.lengths[chosen[start:stop]].max()))
            step = max(1, ROWS // longest)
            for first in range(start, stop, step):
                last = min(first + step, stop)
                places = place_of[first:last]
                is_run = int(places[-1]) - int(places[0]) == last - first - 1
                where = slice(int(places[0]), int(places[-1]) + 1) if is_run else places
                found.append(Piece(number, where, np.arange(first, last)))
        return found
