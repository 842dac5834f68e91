"""Checking an index to the last byte: files, hashes, counts, numbers, and that catalog and shards say the same."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from safetensors import SafetensorError, safe_open

from patchword.console import ProgressBar
from patchword.errors import CheckpointError
from patchword.index.damage import shard_damage
from patchword.index.quarantine import GIVEN_UP
from patchword.index.results import Verified
from patchword.index.scan import UNREACHED
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.live import live_places
from patchword.store.lock import writer_lock
from patchword.store.manifest import Manifest, read_manifest
from patchword.store.model_hash import hash_checkpoint
from patchword.store.schema import KINDS, connect_to_read, meta
from patchword.store.shards import Array, Shard, open_shard

SHOWN = 5  # ids named in one sentence
BLOCK = 1 << 20  # numbers looked at together


def verify(index: Path | str, *, console: Console | None = None) -> Verified:
    """Read everything and list what is wrong. Nothing is changed; no writer works meanwhile.

    Checked are: the catalog's own integrity; of each shard that it is there, has its hash and size, is a readable
    safetensors file, and holds finite numbers of the right shape; that ids ascend and none occurs twice or lies ahead
    of the counter; that live vectors and the catalog's rows are the same items; that rows name roots and images that
    exist; that the model, where it is at hand, is the one of the index.

    Raises:
        DataError: there is no index, or another process writes.
    """
    place = open_folder(index)
    with contextlib.ExitStack() as stack:
        if os.access(place.path, os.W_OK):  # nobody writes to a read-only disk
            stack.enter_context(writer_lock(place.lock, "verify"))
        manifest = read_manifest(place)
        connection = connect_to_read(place)
        stack.callback(connection.close)
        check = _Check(place, manifest, connection)
        return check.run(console or Console(quiet=True))


class _Check:
    """One verification."""

    def __init__(self, place: IndexFolder, manifest: Manifest, connection: sqlite3.Connection) -> None:
        self.place, self.manifest, self.connection = place, manifest, connection
        self.problems: list[str] = []
        self.shards = self.bytes = self.damaged = 0

    def run(self, console: Console) -> Verified:
        self.problems += [
            f"catalog.sqlite: {row[0]}" for row in self.connection.execute("PRAGMA integrity_check") if row[0] != "ok"
        ]
        query = "SELECT coalesce(sum(bytes), 0) FROM shards WHERE kind IN (?, ?)"
        total = self.connection.execute(query, KINDS).fetchone()[0]
        counts = dict[str, int]()
        everything: list[Array] = []
        with ProgressBar(total, "verifying", "bytes", console) as shown:
            for kind in KINDS:
                live, held = self._kind(kind, shown)
                everything.append(held)
                counts[kind] = len(live)
        self._ids(np.concatenate(everything))
        self._rows()
        self._model()
        rows = self.connection.execute("SELECT number FROM shards WHERE kind IN (?, ?)", tuple(GIVEN_UP.values()))
        left = sum(self.place.shard(row[0]).is_file() for row in rows)
        return Verified(
            tuple(self.problems), counts["image"], counts["caption"], self.shards, self.bytes, self.damaged, left
        )

    def _kind(self, kind: str, shown: ProgressBar) -> tuple[Array, Array]:
        """Check the shards of a kind; returns the live ids, and all ids."""
        rows = self.connection.execute(
            "SELECT number, first, last, count, vectors, live, alive, hash, bytes FROM shards WHERE kind = ? "
            "ORDER BY first",
            (kind,),
        ).fetchall()
        live, held, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for number, first, last, count, vectors, bits, alive, digest, size in rows:
            self.shards += 1
            shard = self._open(number, digest, size)
            shown.advance(size)
            if shard is None:
                continue
            ids, name = shard.ids, shard.path.name
            found = (len(ids), len(shard.vectors), int(ids[0]) if len(ids) else -1, int(ids[-1]) if len(ids) else -1)
            if found != (count, vectors, first, last):
                self.problems.append(
                    f"{name}: {found[0]} items, {found[1]} vectors, ids {found[2]} to {found[3]}; "
                    f"the catalog says {count}, {vectors}, {first} to {last}."
                )
                continue
            if not (np.diff(ids) > 0).all() or first <= before:
                self.problems.append(f"{name}: its ids do not ascend, or are those of an earlier shard.")
            before = last
            places = live_places(bits, count)
            if len(places) != alive:
                self.problems.append(f"{name}: {len(places)} live items; the catalog says {alive}.")
            live.append(ids[places])
            held.append(ids)
        ids = np.concatenate(live)
        table = "items" if kind == "image" else "captions"
        there = np.fromiter(
            (row[0] for row in self.connection.execute(f"SELECT id FROM {table} ORDER BY id")), np.int64
        )
        self._compare(kind, np.sort(ids), there)
        return ids, np.concatenate(held)

    def _open(self, number: int, digest: str, size: int) -> Shard | None:
        """A shard whose file is as it was written, with numbers that make sense; None with a problem noted."""
        path = self.place.shard(number)
        try:
            reason = shard_damage(path, digest, size, whole=True)
            if reason is not None:
                self.problems.append(f"{path.name}: {reason}")
                self.damaged += 1
                return None
            self.bytes += size
            with safe_open(path, framework="np") as file:
                names = set(file.keys())
            shard = open_shard(path)
        except (OSError, SafetensorError) as error:
            self.problems.append(f"{path.name}: {error}")
            return None
        self.problems += [f"{path.name}: {problem}" for problem in self._numbers(shard, names)]
        return shard

    def _numbers(self, shard: Shard, names: set[str]) -> Iterator[str]:
        """What is wrong with the tensors of a shard."""
        if names != set(shard.arrays):
            yield f"its tensors are {', '.join(sorted(names))}."
        if not (shard.lengths > 0).all() or int(shard.lengths.sum()) != len(shard.vectors):
            yield f"its lengths add up to {int(shard.lengths.sum())}, it has {len(shard.vectors)} vectors."
        if shard.vectors.shape[1] != self.manifest.width:
            yield f"its vectors have width {shard.vectors.shape[1]}; the manifest says {self.manifest.width}."
        expected = (len(shard.ids), self.manifest.pooled.width)
        if shard.pooled.shape != expected:
            yield f"its shortlist vectors have shape {shard.pooled.shape}. Expected {expected}."
        counts = shard.arrays.get("box_counts")
        if (counts is None) != ("boxes" not in shard.arrays) or (
            counts is not None and (len(counts) != len(shard.ids) or counts.sum() != len(shard.arrays["boxes"]))
        ):
            yield "its boxes do not fit their counts."
        for name in ("vectors", "pooled", "boxes"):
            array = shard.arrays.get(name)
            if array is not None and not all(
                np.isfinite(array[k : k + BLOCK // max(1, array.shape[1])]).all()
                for k in range(0, len(array), BLOCK // max(1, array.shape[1]))
            ):
                yield f"`{name}` holds NaN or infinite numbers."

    def _compare(self, kind: str, live: Array, there: Array) -> None:
        """Check that the live vectors and the rows of the catalog are the same items."""
        for missing, what in (
            (np.setdiff1d(live, there), f"{kind}s with live vectors have no row in the catalog"),
            (np.setdiff1d(there, live), f"{kind}s of the catalog have no live vectors"),
        ):
            if len(missing):
                self.problems.append(f"{len(missing):,} {what}: {_some(missing)}.")

    def _ids(self, held: Array) -> None:
        """Check that no id occurs twice and that none lies ahead of the counter."""
        unique, times = np.unique(held, return_counts=True)
        if (times > 1).any():
            self.problems.append(f"{int((times > 1).sum()):,} ids occur twice: {_some(unique[times > 1])}.")
        next_id, next_shard = meta(self.connection, "next_id"), meta(self.connection, "next_shard")
        if len(unique) and unique[-1] >= next_id:
            self.problems.append(f"id {unique[-1]} is in use; the next one to be given is {next_id}.")
        number = self.connection.execute("SELECT coalesce(max(number), 0) FROM shards").fetchone()[0]
        if number >= next_shard:
            self.problems.append(f"shard {number} is in use; the next one to be written is {next_shard}.")

    def _rows(self) -> None:
        """Check that rows name what exists."""
        for query, what in (
            ("SELECT id FROM items WHERE root NOT IN (SELECT id FROM roots)", "images lie in no known folder"),
            ("SELECT id FROM items WHERE substr(path, 1, 1) = char(0)", "images have no path"),
            (
                "SELECT captions.id FROM captions LEFT JOIN items ON items.id = captions.image "
                "WHERE captions.image IS NOT NULL AND items.id IS NULL",
                "captions name an image that is not there",
            ),
            (
                "SELECT items.id FROM items JOIN skipped ON skipped.root = items.root AND skipped.path = items.path "
                f"WHERE skipped.size <> {UNREACHED}",
                "images are also listed as skipped",
            ),
        ):
            rows = [row[0] for row in self.connection.execute(query)]
            if rows:
                self.problems.append(f"{len(rows):,} {what}: {_some(np.asarray(rows))}.")

    def _model(self) -> None:
        """Check that the model, where it is at hand, is that of the index."""
        stamp = self.manifest.model
        if not Path(stamp.path).is_dir():
            return
        try:
            found = hash_checkpoint(Path(stamp.path))
        except CheckpointError as error:
            self.problems.append(str(error))
            return
        if found != stamp.hash:
            self.problems.append(
                f"the model '{stamp.path}' has changed: its hash is {found[:12]}, the index was made with "
                f"{stamp.hash[:12]}."
            )


def _some(ids: Array) -> str:
    """The first few ids."""
    return ", ".join(str(int(one)) for one in ids[:SHOWN]) + (" ..." if len(ids) > SHOWN else "")
