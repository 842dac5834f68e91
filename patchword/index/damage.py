"""Vectors that were lost: which shards can not be read, and which items of the catalog have no vectors any more.

A damaged shard is given up before its items are encoded again, so that the index can be read meanwhile, and so that a
sync that was killed is gone on with by the next one: an item without vectors is one that still has to be encoded.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from patchword.errors import DataError
from patchword.index.writer import Writer
from patchword.store.live import live_places
from patchword.store.schema import KINDS
from patchword.store.shards import hash_file, open_shard

TABLES = {"image": "items", "caption": "captions"}
MISSING = "the file is missing."


@dataclass(frozen=True)
class Damage:
    """A shard that can not be read.

    Attributes:
        number: of its file.
        reason: what is wrong with it.
    """

    number: int
    reason: str


def shard_damage(path: Path, digest: str, size: int, *, whole: bool) -> str | None:
    """What is wrong with the file of a shard; None when it is as it was written.

    Args:
        path: its file.
        digest, size: hash and bytes that were written.
        whole: read it to the last byte; else only its size and its header are looked at.

    Raises:
        OSError: it is there, and can not be read.
    """
    try:
        there = path.stat().st_size
        if there != size:
            return f"{there:,} bytes; {size:,} were written."
        if whole and hash_file(path) != digest:
            return "its content has changed since it was written."
        open_shard(path)
    except FileNotFoundError:
        return MISSING
    except DataError as error:
        return str(error)
    return None


def find_damage(writer: Writer, *, whole: bool = False) -> list[Damage]:
    """The shards that can not be read, of those that were not given up; see `shard_damage`.

    Raises:
        DataError: a file is there, and the system does not let it be read.
    """
    found = []
    query = "SELECT number, hash, bytes FROM shards WHERE kind IN (?, ?) ORDER BY number"
    for number, digest, size in writer.connection.execute(query, KINDS).fetchall():
        path = writer.folder.shard(number)
        try:
            reason = shard_damage(path, digest, size, whole=whole)
        except OSError as error:
            raise DataError(f"'{path}' can not be read: {error.strerror}. Make it readable, and sync again.") from None
        if reason is not None:
            found.append(Damage(number, reason))
    return found


def require_present(writer: Writer, damage: Sequence[Damage]) -> None:
    """Refuse to give up vectors whose disk may just not be there.

    Raises:
        DataError: more than half of the shards are missing.
    """
    query = "SELECT count(*) FROM shards WHERE kind IN (?, ?)"
    total = int(writer.connection.execute(query, KINDS).fetchone()[0])
    missing = sum(one.reason == MISSING for one in damage)
    if 2 * missing > total:
        raise DataError(
            f"{missing:,} of {total:,} vector files are missing from '{writer.folder.shards}'. If their disk is not "
            "there, mount it; if they are really gone, encode their images again with: "
            f"patchword index sync {writer.folder.path} --restore"
        )


def lost_ids(writer: Writer, kind: str) -> list[int]:
    """Ids of the items without vectors, ascending. The shards are read only where the counts differ.

    Args:
        writer: of the index.
        kind: ``image`` or ``caption``.
    """
    connection, table = writer.connection, TABLES[kind]
    alive = connection.execute("SELECT coalesce(sum(alive), 0) FROM shards WHERE kind = ?", (kind,)).fetchone()[0]
    if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == alive:
        return []
    rows = connection.execute("SELECT number, count, live FROM shards WHERE kind = ?", (kind,)).fetchall()
    held = [writer.shard(number).ids[live_places(bits, count)] for number, count, bits in rows]
    there = np.fromiter((row[0] for row in connection.execute(f"SELECT id FROM {table}")), np.int64)
    lost: list[int] = np.setdiff1d(there, np.concatenate([np.zeros(0, np.int64), *held])).tolist()
    return lost


def runs(writer: Writer, kind: str, ids: Sequence[int], most: int) -> Iterator[list[int]]:
    """Ids cut into what may become one shard each: no shard that is there holds ids in between.

    Args:
        writer: of the index.
        kind: of the items.
        ids: ascending, of items without vectors.
        most: ids in a run.
    """
    starts = [row[0] for row in writer.connection.execute(
        "SELECT first FROM shards WHERE kind = ? ORDER BY first", (kind,)
    )]  # fmt: skip
    for _, group in groupby(ids, key=lambda one: bisect(starts, one)):
        run = list(group)
        yield from (run[start : start + most] for start in range(0, len(run), most))
