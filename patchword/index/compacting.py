"""Rewriting shards without what was removed, and small neighbours as one; readers of the old files go on."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from patchword.console import ProgressBar
from patchword.index.damage import lost_ids
from patchword.index.quarantine import clear_given_up
from patchword.index.results import Compacted
from patchword.index.writer import Writer, open_writer, whole_shard
from patchword.store.estimate import require_space
from patchword.store.live import live_places
from patchword.store.schema import KINDS, bump_generation, generation, meta, register_shard, set_meta, transaction
from patchword.store.shards import Array, Shard, write_shard

MANY = 8  # small shards from which on they are joined after a change
SMALL = 0.25  # of the size at which a shard is closed


@dataclass(frozen=True)
class _Part:
    """A shard as the catalog has it."""

    number: int
    count: int
    live: bytes
    alive: int
    bytes: int
    first: int
    last: int

    @property
    def alive_bytes(self) -> float:
        """About how many bytes are left of it without what was removed."""
        return self.bytes * self.alive / max(1, self.count)


def compact(index: Path | str, *, console: Console | None = None) -> Compacted:
    """Give back the room of what was removed, and join small shards. Ids stay.

    Each new shard is on the disk before one transaction puts it in the place of the old ones, whose files go then.
    Readers that have the old files open read on; one that comes too late for a file takes the newest generation.

    Raises:
        DataError: another process writes, or the disk has no room for one more shard.
    """
    with open_writer(index, "compact") as writer:
        before = _parts(writer)
        dropped = sum(part.count - part.alive for parts in before.values() for part in parts)
        limit = writer.manifest.shard_mb * 1e6
        groups = {kind: _groups(parts, limit, lost_ids(writer, kind)) for kind, parts in before.items()}
        total = sum(part.count for each in groups.values() for group in each for part in group)
        with ProgressBar(total, "compacting", "items", console or Console(quiet=True)) as shown:
            for kind, each in groups.items():
                for group in each:
                    _rewrite(writer, kind, group)
                    shown.advance(sum(part.count for part in group))
        cleared = clear_given_up(writer)
        after = _parts(writer)
        return Compacted(
            shards_before=sum(map(len, before.values())),
            shards_after=sum(map(len, after.values())),
            bytes_before=sum(part.bytes for parts in before.values() for part in parts),
            bytes_after=sum(part.bytes for parts in after.values() for part in parts),
            dropped=dropped,
            generation=generation(writer.connection),
            cleared=cleared,
        )


def join_small(writer: Writer) -> None:
    """Join small shards that lie side by side, once there are many of them."""
    limit = writer.manifest.shard_mb * 1e6
    for kind, parts in _parts(writer).items():
        if sum(part.bytes < SMALL * limit for part in parts) <= MANY:
            continue
        run, lost = list[_Part](), lost_ids(writer, kind)
        for part in [*parts, None]:
            fits = part is not None and part.bytes < SMALL * limit and sum(p.bytes for p in run) + part.bytes <= limit
            if part is not None and fits and (not run or _meet(run[-1], part, lost)):
                run.append(part)
                continue
            if len(run) > 1:
                _rewrite(writer, kind, run)
            run = [part] if part is not None and part.bytes < SMALL * limit else []


def _parts(writer: Writer) -> dict[str, list[_Part]]:
    """The shards of each kind, in the order of their ids."""
    query = "SELECT number, count, live, alive, bytes, first, last FROM shards WHERE kind = ? ORDER BY first"
    return {kind: [_Part(*row) for row in writer.connection.execute(query, (kind,))] for kind in KINDS}


def _meet(part: _Part, following: _Part, lost: Sequence[int]) -> bool:
    """Whether two neighbours can become one: an item that is encoded again needs a shard at the place of its id."""
    return bisect(lost, part.last) == bisect(lost, following.first)


def _groups(parts: Sequence[_Part], limit: float, lost: Sequence[int]) -> list[list[_Part]]:
    """Neighbours that become one shard: those with something removed, and those that fit together into one."""
    groups: list[list[_Part]] = []
    for part in parts:
        fits = bool(groups) and sum(p.alive_bytes for p in groups[-1]) + part.alive_bytes <= limit
        if fits and _meet(groups[-1][-1], part, lost):
            groups[-1].append(part)
        else:
            groups.append([part])
    return [group for group in groups if len(group) > 1 or group[0].alive < group[0].count]


def _rewrite(writer: Writer, kind: str, group: Sequence[_Part]) -> None:
    """Put one shard in the place of several."""
    folder = writer.folder
    require_space(folder.path, int(sum(part.alive_bytes for part in group)))
    number = meta(writer.connection, "next_shard")
    shards = [writer.shard(part.number) for part in group]
    places = [live_places(part.live, part.count) for part in group]
    ids = np.concatenate([shard.ids[alive] for shard, alive in zip(shards, places, strict=True)])
    lengths = np.concatenate([shard.lengths[alive] for shard, alive in zip(shards, places, strict=True)])
    written = None
    if len(ids):
        written = write_shard(folder.shard(number), live_tensors(shards, places, ids, lengths))
    with transaction(writer.connection) as connection:
        connection.executemany("DELETE FROM shards WHERE number = ?", [(part.number,) for part in group])
        if written is not None:
            register_shard(connection, whole_shard(number, kind, ids, lengths, written))
        set_meta(connection, "next_shard", number + 1)
        bump_generation(connection)
    for part in group:
        folder.shard(part.number).unlink(missing_ok=True)


def live_tensors(
    shards: Sequence[Shard], places: Sequence[Array], ids: Array, lengths: Array
) -> dict[str, list[Array]]:
    """The tensors of one shard with the items of some shards that are not removed.

    Args:
        shards: in the order of their ids.
        places: positions in each that are not removed.
        ids, lengths: of all of them.
    """
    pairs = list(zip(shards, places, strict=True))
    found: dict[str, list[Array]] = {"ids": [ids], "lengths": [lengths]}
    found["vectors"] = [_ragged(shard.vectors, shard.lengths, alive) for shard, alive in pairs]
    if any("pooled" in shard.arrays for shard in shards):
        found["pooled"] = [_some(shard.pooled, alive) for shard, alive in pairs]
    if any("boxes" in shard.arrays for shard in shards):
        counts = [shard.arrays.get("box_counts", np.zeros(len(shard.ids), np.int32)) for shard in shards]
        none = np.zeros((0, 4), np.float16)
        found["box_counts"] = [_some(each, alive) for each, (_, alive) in zip(counts, pairs, strict=True)]
        found["boxes"] = [
            _ragged(shard.arrays.get("boxes", none), each, alive)
            for each, (shard, alive) in zip(counts, pairs, strict=True)
        ]
    return found


def _some(array: Array, places: Array) -> Array:
    """Rows of an array; the array itself where it is all of them."""
    return array if len(places) == len(array) else array[places]


def _ragged(array: Array, lengths: Array, places: Array) -> Array:
    """Rows of the sets at some places."""
    if len(places) == len(lengths):
        return array
    keep = np.zeros(len(lengths), dtype=np.bool_)
    keep[places] = True
    return array[np.repeat(keep, lengths)]
