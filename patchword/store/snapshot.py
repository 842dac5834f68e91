"""What a reader sees of an index: the vector sets of one generation, while writers go on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchword.errors import DataError
from patchword.store.handles import HANDLES, Handle
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.live import live_places
from patchword.store.open_files import allow_more, refuse_if_too_many
from patchword.store.schema import KINDS, ReadConnection, generation, look, one_view
from patchword.store.shards import Shard, open_shard
from patchword.types import Encoded

READERS = 8  # positioned reads that wait for the disk at the same time
TOGETHER = 64  # runs of rows from which on the reads are shared among threads
TRIES = 20


@dataclass(frozen=True)
class Snapshot:
    """The items of one generation that are not removed. Immutable, and safe to read from several threads.

    Its shard files stay mapped: it goes on reading them when a compaction has replaced them.

    Attributes:
        generation: of the catalog when it was taken.
        kind: ``image`` or ``caption``.
        ids: ``(N,)`` ascending.
        lengths: ``(N,)`` vectors of each item.
        width: D.
        pooled_width: G.
        shards: where the vectors are.
        shard_of: ``(N,)`` position in ``shards``.
        place_of: ``(N,)`` position within the shard, removed items counted.
    """

    generation: int
    kind: str
    ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    width: int
    pooled_width: int
    shards: tuple[Shard, ...] = field(repr=False)
    shard_of: NDArray[np.int32] = field(repr=False)
    place_of: NDArray[np.int32] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def max_length(self) -> int:
        """Size of the largest set; 0 without items."""
        return int(self.lengths.max(initial=0))

    def positions(self, ids: Any) -> NDArray[np.int64]:
        """Positions 0..N-1 of ids, in their order.

        Raises:
            DataError: an id is not in this snapshot.
        """
        wanted = np.asarray(ids, dtype=np.int64).reshape(-1)
        found = np.searchsorted(self.ids, wanted)
        missing = np.append(self.ids, np.iinfo(np.int64).max)[found] != wanted
        if missing.any():
            first = int(wanted[missing][0])
            raise DataError(f"{self.kind} {first} is not in the index. It was removed, or never there.")
        return found.astype(np.int64)

    def known(self, ids: Any) -> NDArray[np.int64]:
        """Positions of those ids that are in this snapshot, ascending: what a filter leaves of it."""
        return np.flatnonzero(np.isin(self.ids, np.asarray(ids, dtype=np.int64))).astype(np.int64)

    def sets(self, rows: Any) -> Encoded:
        """The vector sets at these positions, float32, in the order asked; a position may repeat.

        Read from the files, not through their maps: a cold disk gets several requests at a time, and what was read
        does not stay in this process.
        """
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise DataError(f"position {int(wanted[(wanted < 0) | (wanted >= len(self))][0])} of {len(self)} items.")
        lengths = self.lengths[wanted].astype(np.int64)
        ends = np.cumsum(lengths)
        half = np.empty((int(ends[-1]) if len(ends) else 0, self.width), dtype=np.float16)
        runs = self._runs(wanted, lengths, ends - lengths)
        if len(runs) < TOGETHER or not hasattr(os, "preadv"):
            self._read_runs(half, runs)
        else:
            share = -(-len(runs) // READERS)
            parts = [runs[k : k + share] for k in range(0, len(runs), share)]
            for done in [_readers().submit(self._read_runs, half, part) for part in parts]:
                done.result()
        return Encoded(torch.from_numpy(half).float(), torch.from_numpy(lengths))

    def _runs(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], begins: NDArray[np.int64]
    ) -> list[tuple[int, int, int, int]]:
        """What to read, in the order of the files: (shard, first row in it, first row of the result, number of rows).

        Sets that are neighbours in the file and in the result are one read.
        """
        if not len(rows):
            return []
        order = np.argsort(rows, kind="stable")  # positions ascend as shards and their places do
        rows, lengths, begins = rows[order], lengths[order], begins[order]
        shard_of = self.shard_of[rows]
        first = np.empty(len(rows), dtype=np.int64)
        for number in np.unique(shard_of):
            chosen = shard_of == number
            first[chosen] = self.shards[number].offsets[self.place_of[rows[chosen]]]
        follows = (shard_of[1:] == shard_of[:-1]) & (first[1:] == first[:-1] + lengths[:-1])
        follows &= begins[1:] == begins[:-1] + lengths[:-1]
        starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(~follows) + 1])
        counts = np.add.reduceat(lengths, starts)
        columns = (shard_of[starts], first[starts], begins[starts], counts)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _read_runs(self, half: NDArray[np.float16], runs: list[tuple[int, int, int, int]]) -> None:
        """Read runs of rows into their places."""
        for number, first, begin, count in runs:
            shard, target = self.shards[number], half[begin : begin + count]
            handle = HANDLES.of(shard.key, shard.path, shard.stamp) if hasattr(os, "preadv") else None
            if handle is not None:
                _read_at(shard, handle, target, shard.starts["vectors"] + first * self.width * 2)
            else:
                target[:] = shard.vectors[first : first + count]

    def pooled_blocks(self) -> Iterator[tuple[slice, Float[Tensor, "n G"]]]:
        """The one vector per item of each shard, float16, and which positions it holds.

        Mapped, not read, where nothing of the shard is removed.
        """
        bounds = np.searchsorted(self.shard_of, np.arange(len(self.shards) + 1))
        for number, shard in enumerate(self.shards):
            start, stop = int(bounds[number]), int(bounds[number + 1])
            if start == stop:
                continue
            block = torch.from_numpy(shard.pooled)
            if stop - start < len(shard.ids):
                block = block[torch.from_numpy(self.place_of[start:stop].astype(np.int64))]
            yield slice(start, stop), block

    def pooled(self) -> Float[Tensor, "N G"]:
        """The one vector per item, float16: mapped where there is one shard without removals, else a copy."""
        blocks = [block for _, block in self.pooled_blocks()]
        if not blocks:
            return torch.zeros(0, self.pooled_width, dtype=torch.float16)
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def boxes(self, row: int) -> NDArray[np.float32] | None:
        """The boxes x1, y1, x2, y2 in 0..1 of the patches of one item, ``(R, 4)``; None when they are not known."""
        return self.shards[int(self.shard_of[row])].boxes(int(self.place_of[row]))


def _read_at(shard: Shard, handle: Handle, target: NDArray[np.float16], place: int) -> None:
    """Fill an array from a place in a shard's file."""
    view = target.reshape(-1).view(np.uint8).data
    while len(view):
        count = os.preadv(handle.number, [view], place)
        if count == 0:
            raise DataError(f"'{shard.path}' was cut short. Look at the index with: patchword index verify")
        view, place = view[count:], place + count


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads that wait for the disk; made when first needed."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="patchword-read")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_readers.cache_clear)  # threads do not live on in a child


def open_snapshot(folder: Path | str | IndexFolder, kind: str = "image", *, before: Snapshot | None = None) -> Snapshot:
    """The newest generation of an index.

    A compaction may take away a shard between reading the catalog and opening the file; then the catalog is read
    again.

    Args:
        folder: an index.
        kind: ``image`` or ``caption``.
        before: a snapshot whose open shards are used again where their files are still in place.

    Raises:
        DataError: there is no index, a shard that the newest catalog names is missing or damaged, or this process may
            not open so many files.
    """
    place = open_folder(folder)
    known = {} if before is None else {shard.path: shard for shard in before.shards}
    last = -1
    for _ in range(TRIES):
        newest, rows = _read_catalog(place, kind)
        allow_more(sum(place.shard(number) not in known for number, _, _ in rows))
        try:
            return _assemble(place, kind, newest, rows, known)
        except FileNotFoundError as error:
            if newest == last:
                raise DataError(
                    f"'{error.filename}' is missing. Restore it, or encode its images again with: "
                    f"patchword index sync {place.path}"
                ) from None
            last = newest
        except OSError as error:
            refuse_if_too_many(place.path, len(rows), error)
            raise
    raise DataError(f"'{place.path}' is rewritten faster than it can be opened. Try again.")


def _read_catalog(place: IndexFolder, kind: str) -> tuple[int, list[tuple[int, int, bytes]]]:
    """Generation, and number, item count and live bits of each shard, in the order of the ids."""
    if kind not in KINDS:
        raise DataError(f"kind {kind!r} of items. Expected one of {', '.join(KINDS)}.")
    query = "SELECT number, count, live FROM shards WHERE kind = ? ORDER BY first"

    def read(connection: ReadConnection) -> tuple[int, list[tuple[int, int, bytes]]]:
        with one_view(connection):
            return generation(connection), connection.execute(query, (kind,)).fetchall()

    return look(place, read)


def _assemble(
    place: IndexFolder, kind: str, generation: int, rows: list[tuple[int, int, bytes]], known: Mapping[Path, Shard]
) -> Snapshot:
    """Open the shards that are not open yet, and put what is alive of all side by side."""
    shards: list[Shard] = []
    ids, lengths, shard_of, place_of = [], [], [], []
    for number, count, bits in rows:
        path = place.shard(number)
        held = known.get(path)
        shard = held if held is not None and held.is_in_place() else open_shard(path)
        if len(shard.ids) != count:
            raise DataError(
                f"'{shard.path}' holds {len(shard.ids)} items. Expected {count}. "
                f"Look at the index with: patchword index verify {place.path}"
            )
        alive = live_places(bits, count)
        shard_of.append(np.full(len(alive), len(shards), dtype=np.int32))
        shards.append(shard)
        ids.append(shard.ids[alive])
        lengths.append(shard.lengths[alive])
        place_of.append(alive.astype(np.int32))
    return Snapshot(
        generation,
        kind,
        _joined(ids, np.int64),
        _joined(lengths, np.int32),
        shards[0].vectors.shape[1] if shards else 0,
        shards[0].pooled.shape[1] if shards else 0,
        tuple(shards),
        _joined(shard_of, np.int32),
        _joined(place_of, np.int32),
    )


def _joined(parts: list[NDArray[Any]], kind: type) -> NDArray[Any]:
    """One array of several, possibly of none."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype=kind)
