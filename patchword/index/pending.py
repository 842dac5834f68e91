"""Encoded items on their way into a shard: a batch as a source gives it, and the shard under construction.

A shard under construction is the only thing that grows, and it is closed at ``shard_mb``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchword.index.records import NewItem
from patchword.index.scan import Seen, Skip
from patchword.store.shards import Array


@dataclass(frozen=True)
class Rows:
    """Vector sets of some items in the form in which they are stored.

    Attributes:
        vectors: ``(T, D)`` float16.
        lengths: ``(n,)``.
        pooled: ``(n, G)`` float16.
        is_finite: ``(n,)``: whether the model gave numbers that can be stored.
    """

    vectors: NDArray[np.float16]
    lengths: NDArray[np.int32]
    pooled: NDArray[np.float16]
    is_finite: NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Some encoded items.

    Attributes:
        items: to be registered.
        rows: their vector sets.
        boxes: of the patches of each item, where they are known.
    """

    items: list[NewItem]
    rows: Rows
    boxes: list[Array | None] | None = None


@runtime_checkable
class Source(Protocol):
    """What turns files into batches."""

    def open(self) -> None:
        """Load what encodes; it fails here rather than at the first batch."""
        ...

    def batches(self, files: Sequence[Seen]) -> Iterator[Batch | Skip]:
        """Encode files; those that can not be indexed come out as skips."""
        ...


@dataclass
class Pending:
    """A shard under construction.

    Attributes:
        items: what is to be registered with it, one for each set.
        bytes: of its tensors so far.
    """

    items: list[Any] = field(default_factory=list)
    vectors: list[Array] = field(default_factory=list)
    lengths: list[Array] = field(default_factory=list)
    pooled: list[Array] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    box_counts: list[int] = field(default_factory=list)
    bytes: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def add(self, items: Sequence[Any], rows: Rows, boxes: Sequence[Array | None] | None = None) -> list[Any]:
        """Take the sets of some items; returns those whose vectors are no finite numbers, which are left out."""
        good: list[int] = np.flatnonzero(rows.is_finite).tolist()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows.lengths, dtype=np.int64)])
        if len(good) < len(items):
            keep = np.repeat(rows.is_finite, rows.lengths)
            vectors, lengths, pooled = rows.vectors[keep], rows.lengths[good], rows.pooled[good]
        else:
            vectors, lengths, pooled = rows.vectors[: offsets[-1]], rows.lengths, rows.pooled
        self.items += [items[k] for k in good]
        self.vectors.append(vectors)
        self.lengths.append(lengths)
        self.pooled.append(pooled)
        self.bytes += vectors.nbytes + lengths.nbytes + pooled.nbytes + 8 * len(good)
        for k in good if boxes is not None else ():
            known = boxes[k] if boxes is not None else None
            self.box_counts.append(0 if known is None else len(known))
            if known is not None:
                self.boxes.append(known)
                self.bytes += known.nbytes
        return [items[k] for k in np.flatnonzero(~rows.is_finite).tolist()]

    def tensors(self) -> dict[str, list[Array]]:
        """What `write_shard` takes. Shortlist vectors that are the vectors themselves are left out."""
        found: dict[str, list[Array]] = {"vectors": self.vectors, "lengths": self.lengths}
        if not all(np.array_equal(a, b) for a, b in zip(self.vectors, self.pooled, strict=True)):
            found["pooled"] = self.pooled
        if self.boxes:
            found["boxes"] = self.boxes
            found["box_counts"] = [np.asarray(self.box_counts, dtype=np.int32)]
        return found

    def chosen(self, places: Sequence[int]) -> Pending:
        """The items at some places, in that order."""
        vectors = _split(self.vectors, np.concatenate(self.lengths))
        lengths, pooled = np.concatenate(self.lengths), np.concatenate(self.pooled)
        found = Pending(
            items=[self.items[k] for k in places],
            vectors=[vectors[k] for k in places],
            lengths=[lengths[k : k + 1] for k in places],
            pooled=[pooled[k : k + 1] for k in places],
        )
        if self.boxes:
            boxes = _split(self.boxes, np.asarray(self.box_counts))
            found.boxes = [boxes[k] for k in places]
            found.box_counts = [self.box_counts[k] for k in places]
        return found


def _split(blocks: Sequence[Array], lengths: Array) -> list[Array]:
    """The rows of each item, of blocks that hold them one item after the other."""
    whole = np.concatenate(blocks)
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    return [whole[start:stop] for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
