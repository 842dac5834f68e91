"""Shards that can not be read and were given up, so that their items are encoded again: kept, for the disk may be back.

What was given up stays in the catalog, as a shard of another kind that nobody reads, and its file, if there is one,
stays where it is. Where it is there as it was written before any of its items was encoded again, it is taken back;
`compact` deletes what nobody needs any more.
"""

from __future__ import annotations

import contextlib
from bisect import bisect, bisect_left
from collections.abc import Sequence

import numpy as np

from patchword.index.damage import TABLES, Damage, lost_ids, shard_damage
from patchword.index.writer import Writer
from patchword.store.live import live_bits
from patchword.store.schema import KINDS, bump_generation, transaction
from patchword.store.shards import open_shard

GIVEN_UP = {kind: f"lost {kind}" for kind in KINDS}


def give_up(writer: Writer, damage: Sequence[Damage]) -> None:
    """Let nobody read damaged shards any more; their items stay, without vectors, and so do files that are there."""
    with transaction(writer.connection) as connection:
        for kind, other in GIVEN_UP.items():
            connection.executemany(
                "UPDATE shards SET kind = ? WHERE kind = ? AND number = ?",
                [(other, kind, one.number) for one in damage],
            )
        bump_generation(connection)


def take_back(writer: Writer) -> list[str]:
    """Use shards again that were given up, whose file is as it was written, and whose items have no other vectors.

    Returns:
        The names of their files.
    """
    return [
        name
        for kind, other in GIVEN_UP.items()
        for row in writer.connection.execute(
            "SELECT number, first, last, hash, bytes FROM shards WHERE kind = ? ORDER BY count DESC, number", (other,)
        ).fetchall()
        if (name := _take_back(writer, kind, *row)) is not None
    ]


def _take_back(writer: Writer, kind: str, number: int, first: int, last: int, digest: str, size: int) -> str | None:
    """Use one shard again, if it can be; returns the name of its file."""
    taken = "SELECT 1 FROM shards WHERE kind = ? AND first <= ? AND last >= ?"
    if writer.connection.execute(taken, (kind, last, first)).fetchone() is not None:
        return None  # some of its items were encoded again
    query = f"SELECT id FROM {TABLES[kind]} WHERE id BETWEEN ? AND ?"
    there = [row[0] for row in writer.connection.execute(query, (first, last))]
    path = writer.folder.shard(number)
    with contextlib.suppress(OSError):
        if there and shard_damage(path, digest, size, whole=True) is None:
            ids = open_shard(path).ids
            removed = np.flatnonzero(~np.isin(ids, np.asarray(there, dtype=np.int64)))
            with transaction(writer.connection) as connection:
                connection.execute(
                    "UPDATE shards SET kind = ?, live = ?, alive = ? WHERE number = ?",
                    (kind, live_bits(len(ids), removed), len(ids) - len(removed), number),
                )
                bump_generation(connection)
            return path.name
    return None


def clear_given_up(writer: Writer) -> int:
    """Delete the files of shards that were given up and whose items all have vectors again; returns how many."""
    done = list[int]()
    for kind, other in GIVEN_UP.items():
        rows = writer.connection.execute("SELECT number, first, last FROM shards WHERE kind = ?", (other,)).fetchall()
        lost = lost_ids(writer, kind) if rows else []
        done += [
            number
            for number, first, last in rows
            if bisect(lost, last) == bisect_left(lost, first) and writer.folder.shard(number).is_file()
        ]
    with transaction(writer.connection) as connection:
        connection.executemany("DELETE FROM shards WHERE number = ?", [(number,) for number in done])
    for number in done:  # where this is not reached, the next writer does it
        writer.folder.shard(number).unlink(missing_ok=True)
    return len(done)
