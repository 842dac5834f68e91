"""Changing an index: under the lock, each step one transaction, so that whatever ends the process leaves a whole index.

The order is always: a shard's file is complete on the disk, then one transaction names it together with its items.
A file that no row names was left by a writer that was killed; the next one removes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import DataError
from patchword.index.records import Known, NewCaption, NewItem, Root
from patchword.index.scan import UNREACHED, Seen, Skip
from patchword.shortlist.saved import is_current, read_saved
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.live import live_bits, live_places
from patchword.store.lock import writer_lock
from patchword.store.manifest import Manifest, read_manifest
from patchword.store.schema import (
    KINDS,
    ShardRow,
    bump_generation,
    complete_tables,
    connect_to_write,
    generation,
    meta,
    register_shard,
    set_meta,
    transaction,
)
from patchword.store.shards import Array, Shard, Written, open_shard, write_shard
from patchword.store.unfinished import finish


class Writer:
    """The one process that changes an index; made by `open_writer`."""

    def __init__(self, folder: IndexFolder, connection: sqlite3.Connection, manifest: Manifest) -> None:
        self.folder, self.connection, self.manifest = folder, connection, manifest
        self._followed: dict[int, Path] = {}  # where roots are now, until `settle` registers it

    def remove_orphans(self) -> int:
        """Remove what killed writers and finished compactions left; returns the number of files.

        The files of shards that were given up are named by the catalog still, and stay.
        """
        named = {row[0] for row in self.connection.execute("SELECT number FROM shards")}
        orphans = [self.folder.shard(number) for number in self.folder.shard_numbers() if number not in named]
        orphans += [*self.folder.shards.glob(".*.new"), *self.folder.path.glob(".*.new")]
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)

    def roots(self) -> list[Root]:
        """All roots, in the order in which they were registered."""
        rows = self.connection.execute("SELECT id, path, kind, follow FROM roots ORDER BY id")
        return [
            Root(number, self._followed.get(number, Path(path)), kind, bool(follow))
            for number, path, kind, follow in rows
        ]

    def follow_root(self, number: int, place: Path) -> None:
        """Take a root to be at another place; it is registered with what the next `settle` finds out there."""
        self._followed[number] = place

    def known(self, root: int) -> dict[str, Known]:
        """The items of a root by path."""
        rows = self.connection.execute(
            "SELECT id, root, path, hash, size, mtime, checked FROM items WHERE root = ? ORDER BY path", (root,)
        )
        return {row[2]: Known(*row) for row in rows}

    def skips(self, root: int) -> dict[str, Skip]:
        """The skipped files of a root by path."""
        rows = self.connection.execute("SELECT path, reason, size, mtime, sticky FROM skipped WHERE root = ?", (root,))
        return {path: Skip(root, path, reason, size, mtime, bool(sticky)) for path, reason, size, mtime, sticky in rows}

    def add_shard(
        self,
        kind: str,
        tensors: Mapping[str, Sequence[Array]],
        items: Sequence[NewItem] | Sequence[NewCaption],
        *,
        skips: Sequence[Skip] = (),
    ) -> NDArray[np.int64]:
        """Write a shard and register it with its items, which replace those at the same paths.

        Args:
            kind: ``image`` or ``caption``.
            tensors: all but the ids, see `patchword.store.shards`.
            items: one for each set.
            skips: files that turned out not to be indexable meanwhile.

        Returns:
            The new ids.
        """
        first = meta(self.connection, "next_id")
        ids = np.arange(first, first + len(items), dtype=np.int64)
        with self._new_shard(kind, ids, tensors) as connection:
            images = {one: item for one, item in zip(ids.tolist(), items, strict=True) if isinstance(item, NewItem)}
            kept = self._make_way(images)
            self._put_items(images, kept)
            texts = [item for item in items if isinstance(item, NewCaption)]
            connection.executemany(
                "INSERT INTO captions VALUES (?, ?, ?)",
                [(one, item.text, item.image) for one, item in zip(ids.tolist(), texts, strict=False)],
            )
            self._put_skips(skips)
            set_meta(connection, "next_id", first + len(ids))
        return ids

    def restore(
        self, kind: str, ids: Sequence[int], tensors: Mapping[str, Sequence[Array]], *, skips: Sequence[Skip] = ()
    ) -> None:
        """Write a shard with the vectors of items that are in the catalog and have none.

        Args:
            kind: ``image`` or ``caption``.
            ids: ascending; no shard of the kind holds ids in between.
            tensors: see `add_shard`.
            skips: files that turned out not to be indexable any more.
        """
        with self._new_shard(kind, np.asarray(ids, dtype=np.int64), tensors):
            self._put_skips(skips)

    @contextmanager
    def _new_shard(
        self, kind: str, ids: NDArray[np.int64], tensors: Mapping[str, Sequence[Array]]
    ) -> Iterator[sqlite3.Connection]:
        """Write a shard, and name it in one transaction with what is done in the block."""
        number = meta(self.connection, "next_shard")
        written = write_shard(self.folder.shard(number), {**tensors, "ids": [ids]})
        with transaction(self.connection) as connection:
            register_shard(connection, whole_shard(number, kind, ids, np.concatenate(tensors["lengths"]), written))
            yield connection
            set_meta(connection, "next_shard", number + 1)
            bump_generation(connection)

    def shard(self, number: int) -> Shard:
        """A shard that the catalog names.

        Raises:
            DataError: its file is missing or damaged.
        """
        path = self.folder.shard(number)
        try:
            return open_shard(path)
        except FileNotFoundError:
            raise DataError(
                f"'{path}' is missing. Encode its images again with: patchword index sync {self.folder.path}"
            ) from None

    def _own(self) -> list[str]:
        """SQL names of the user's columns."""
        return [f"u{row[0]}" for row in self.connection.execute("SELECT id FROM user_columns ORDER BY id")]

    def _make_way(self, items: Mapping[int, NewItem]) -> dict[tuple[int, str], tuple[Any, ...]]:
        """Remove the items at the paths of new ones; returns the values of the user's columns that they had.

        Captions of a picture that is the same, and only encoded anew, go over to the new item.
        """
        own, old = self._own(), list[int]()
        kept: dict[tuple[int, str], tuple[Any, ...]] = {}
        for one, item in items.items():
            place = (item.seen.root, item.seen.path)
            query = f"SELECT {', '.join(['id', 'hash', *own])} FROM items WHERE root = ? AND path = ?"
            row = self.connection.execute(query, place).fetchone()
            if row is not None:
                old.append(row[0])
                kept[place] = row[2:]
                if row[1] == item.hash:
                    self.connection.execute("UPDATE captions SET image = ? WHERE image = ?", (one, row[0]))
        self._kill(sorted(old))
        return kept

    def _put_items(self, items: Mapping[int, NewItem], kept: Mapping[tuple[int, str], tuple[Any, ...]]) -> None:
        """Register new items; they are not skipped any more, and get what their predecessors had."""
        own = self._own()
        for one, item in items.items():
            seen, facts, place = item.seen, item.facts, (item.seen.root, item.seen.path)
            said = (None,) * 7 if facts is None else astuple(facts)
            self.connection.execute(
                "INSERT INTO items (id, root, path, hash, size, mtime, checked, width, height, taken, camera, "
                "orientation, latitude, longitude, feature, feature_hash) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (one, *place, item.hash, seen.size, seen.mtime, item.checked, *said, item.feature, item.feature_hash),
            )
            if own and place in kept:
                marks = ", ".join(f"{name} = ?" for name in own)
                self.connection.execute(f"UPDATE items SET {marks} WHERE id = ?", (*kept[place], one))
        self.connection.executemany(
            "DELETE FROM skipped WHERE root = ? AND path = ?", [(i.seen.root, i.seen.path) for i in items.values()]
        )

    def remove(self, ids: Iterable[int], *, reason: str | None = None) -> None:
        """Remove images; with a reason, so that no later `sync` brings them back."""
        wanted = sorted(set(ids))
        if not wanted:
            return
        with transaction(self.connection) as connection:
            if reason is not None:
                connection.executemany(
                    "INSERT OR REPLACE INTO skipped SELECT root, path, size, mtime, ?, 1 FROM items WHERE id = ?",
                    [(reason, one) for one in wanted],
                )
            self._kill(wanted)
            bump_generation(connection)

    def remove_captions(self, ids: Iterable[int]) -> None:
        """Remove captions."""
        wanted = sorted(set(ids))
        with transaction(self.connection) as connection:
            connection.executemany("DELETE FROM captions WHERE id = ?", [(one,) for one in wanted])
            self._clear("caption", wanted)
            bump_generation(connection)

    def settle(
        self,
        *,
        touched: Sequence[tuple[int, Seen, int]] = (),
        moved: Sequence[tuple[int, Seen, int]] = (),
        gone: Sequence[int] = (),
        skips: Sequence[Skip] = (),
        unskip: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Register, in one transaction, all that a sync finds out without encoding, and where roots are now.

        Args:
            touched: id, file and time of reading: the same content with another time of change.
            moved: the same at another path; an item that is at that path and does not move itself is removed.
            gone: ids of items without a file.
            skips: files that can not be indexed; an item at the path of one is removed, unless nothing is known of it.
            unskip: root and path of files that are not skipped any more.
        """
        if not (touched or moved or gone or skips or unskip or self._followed):
            return
        with transaction(self.connection) as connection:
            connection.executemany(
                "UPDATE roots SET path = ? WHERE id = ?", [(str(place), one) for one, place in self._followed.items()]
            )
            dead, moving = set(gone), {one for one, _, _ in moved}
            places = [(seen.root, seen.path) for _, seen, _ in moved] + _places_of(skips)
            for place in places:
                row = connection.execute("SELECT id FROM items WHERE root = ? AND path = ?", place).fetchone()
                if row is not None and row[0] not in moving:
                    dead.add(row[0])
            self._kill(sorted(dead))
            for one, _, _ in moved:  # out of each other's way first
                connection.execute("UPDATE items SET path = ? WHERE id = ?", (f"\0{one}", one))
            for one, seen, checked in (*moved, *touched):
                connection.execute(
                    "UPDATE items SET root = ?, path = ?, size = ?, mtime = ?, checked = ? WHERE id = ?",
                    (seen.root, seen.path, seen.size, seen.mtime, checked, one),
                )
                connection.execute("DELETE FROM skipped WHERE root = ? AND path = ?", (seen.root, seen.path))
            connection.executemany("DELETE FROM skipped WHERE root = ? AND path = ?", unskip)
            self._put_skips(skips)
            if moved or dead or self._followed:
                bump_generation(connection)
        self._followed.clear()

    def put_skips(self, skips: Sequence[Skip]) -> None:
        """Note files that can not be indexed; items at their paths are removed, as `settle` does."""
        self.settle(skips=skips)

    def _put_skips(self, skips: Sequence[Skip]) -> None:
        for place in _places_of(skips):
            row = self.connection.execute("SELECT id FROM items WHERE root = ? AND path = ?", place).fetchone()
            if row is not None:
                self._kill([row[0]])
        self.connection.executemany(
            "INSERT INTO skipped VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (root, path) DO UPDATE SET "
            "size = excluded.size, mtime = excluded.mtime, reason = excluded.reason, sticky = excluded.sticky "
            f"WHERE NOT (sticky AND excluded.size = {UNREACHED})",  # what was removed on purpose stays out
            [(s.root, s.path, s.size, s.mtime, s.reason, int(s.sticky)) for s in skips],
        )

    def _kill(self, ids: Sequence[int]) -> None:
        """Take images out of the catalog, within a transaction."""
        each = [(one,) for one in ids]
        self.connection.executemany("DELETE FROM items WHERE id = ?", each)
        self.connection.executemany("UPDATE captions SET image = NULL WHERE image = ?", each)
        self._clear("image", ids)

    def _clear(self, kind: str, ids: Sequence[int]) -> None:
        """Clear the live bits of ids, within a transaction."""
        if not ids:
            return
        wanted = np.asarray(ids, dtype=np.int64)
        rows = self.connection.execute(
            "SELECT number, count, live FROM shards WHERE kind = ? AND last >= ? AND first <= ?",
            (kind, int(wanted[0]), int(wanted[-1])),
        ).fetchall()
        for number, count, bits in rows:
            held = self.shard(number).ids
            alive = live_places(bits, count)
            left = alive[~np.isin(held[alive], wanted)]
            if len(left) == len(alive):
                continue
            removed = np.setdiff1d(np.arange(count, dtype=np.int64), left)
            self.connection.execute(
                "UPDATE shards SET live = ?, alive = ? WHERE number = ?", (live_bits(count, removed), len(left), number)
            )


def _places_of(skips: Sequence[Skip]) -> list[tuple[int, str]]:
    """Root and path of the skipped files that can not be in the index; those of which nothing is known may be."""
    return [(skip.root, skip.path) for skip in skips if not skip.is_unknown]


def whole_shard(number: int, kind: str, ids: Array, lengths: Array, written: Written) -> ShardRow:
    """What the catalog says about a new shard, of which nothing is removed.

    Args:
        number: of its file.
        kind: ``image`` or ``caption``.
        ids: ``(n,)`` ascending.
        lengths: ``(n,)`` vectors of each item.
        written: its file.
    """
    return ShardRow(
        number=number,
        kind=kind,
        first=int(ids[0]),
        last=int(ids[-1]),
        count=len(ids),
        vectors=int(lengths.sum()),
        longest=int(lengths.max()),
        live=live_bits(len(ids)),
        alive=len(ids),
        hash=written.hash,
        bytes=written.bytes,
    )


@contextmanager
def open_writer(folder: Path | str | IndexFolder, action: str) -> Iterator[Writer]:
    """Take the lock of an index, tidy up after killed writers, and change it.

    Args:
        folder: an index.
        action: what is being done, for the message that another writer gets.

    Raises:
        DataError: there is no index, or another process writes.
    """
    place = open_folder(folder)
    with writer_lock(place.lock, action), write_locked(place) as writer:
        yield writer


@contextmanager
def write_locked(place: IndexFolder) -> Iterator[Writer]:
    """Open an index for a caller who holds the lock already; when the work is done, the saved shortlist follows."""
    manifest = read_manifest(place)
    try:
        with connect_to_write(place.catalog) as connection:
            complete_tables(connection)
            writer = Writer(place, connection, finish(place, connection, manifest))
            writer.remove_orphans()
            yield writer
            followed = _is_followed(writer)
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:  # a full disk, a damaged file
        raise DataError(f"'{place.catalog}' can not be written: {error}. What it held before is untouched.") from None
    if not followed:
        from patchword.shortlist.build import follow_catalog  # with it comes torch

        follow_catalog(place)


def _is_followed(writer: Writer) -> bool:
    """Whether the saved shortlist holds what the catalog does; one that has nothing to hold need not be there."""
    newest = generation(writer.connection)
    counts = dict(writer.connection.execute("SELECT kind, sum(alive) FROM shards GROUP BY kind"))
    return all(
        is_current(writer.folder, writer.manifest, kind, newest)
        or (not counts.get(kind) and read_saved(writer.folder, kind) is None)
        for kind in KINDS
    )
