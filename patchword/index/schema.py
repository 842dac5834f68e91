"""The catalog's tables, how they are opened, and the statements that several modules need.

There is one writer, and any number of readers that never wait for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from patchword.errors import DataError
from patchword.index.layout import IndexFolder

# `checked` is when the content was last read: a file written in the same two seconds may have changed unseen.
# `live` holds one bit per item of a shard, the first in the lowest bit: what is not removed.
# `sticky` marks a file that was removed on purpose.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('generation', 1), ('next_id', 1), ('next_shard', 1);
CREATE TABLE roots (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, kind TEXT NOT NULL, follow INTEGER NOT NULL, UNIQUE (path, kind));
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    count INTEGER NOT NULL, vectors INTEGER NOT NULL, longest INTEGER NOT NULL, live BLOB NOT NULL,
    alive INTEGER NOT NULL, hash TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE items (
    id INTEGER PRIMARY KEY, root INTEGER NOT NULL REFERENCES roots (id), path TEXT NOT NULL, hash TEXT NOT NULL,
    size INTEGER NOT NULL, mtime INTEGER NOT NULL, checked INTEGER NOT NULL,
    width INTEGER, height INTEGER, taken TEXT, camera TEXT, orientation INTEGER, latitude REAL, longitude REAL,
    feature TEXT, UNIQUE (root, path));
CREATE TABLE captions (id INTEGER PRIMARY KEY, text TEXT NOT NULL, image INTEGER);
CREATE INDEX captions_of ON captions (image);
CREATE TABLE user_columns (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL);
CREATE TABLE skipped (
    root INTEGER NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, reason TEXT NOT NULL,
    sticky INTEGER NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
"""
KINDS = ("image", "caption")  # of items, each with shards of their own
WAIT_S = 30.0


def create(path: Path) -> None:
    """Make an empty catalog."""
    with connect_to_write(path) as connection:
        connection.executescript("BEGIN;" + TABLES + "COMMIT;")


@contextmanager
def connect_to_write(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes; every transaction is begun and ended by hand."""
    connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit outlives a loss of power
        yield connection
    finally:
        connection.close()


def connect_to_read(folder: IndexFolder) -> sqlite3.Connection:
    """A connection that can only read; on a read-only disk, one that expects no writer.

    Raises:
        DataError: the catalog can not be read.
    """
    try:
        return _open(folder.catalog, "mode=ro")
    except sqlite3.Error as error:
        try:
            return _open(folder.catalog, "mode=ro&immutable=1") if _is_read_only(folder) else _refuse(folder, error)
        except sqlite3.Error as second:
            return _refuse(folder, second)


def _open(path: Path, how: str) -> sqlite3.Connection:
    name = path.resolve().as_uri()  # percent-encoded, so that no name becomes an option
    connection = sqlite3.connect(
        f"{name}?{how}", uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        generation(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_read_only(folder: IndexFolder) -> bool:
    try:
        probe = folder.path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError:
        return True
    return False


def _refuse(folder: IndexFolder, error: sqlite3.Error) -> sqlite3.Connection:
    raise DataError(f"'{folder.catalog}' can not be read: {error}. Restore it from a copy, or build the index again.")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run a block as one transaction: all of its changes are kept, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def one_view(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Let several reads see the same moment."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


def meta(connection: sqlite3.Connection, key: str) -> int:
    """One of the catalog's counters: ``generation``, ``next_id`` or ``next_shard``."""
    return int(connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def set_meta(connection: sqlite3.Connection, key: str, value: int) -> None:
    """Set a counter, within a transaction."""
    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))


def generation(connection: sqlite3.Connection) -> int:
    """The number that grows with every change of what is in the index."""
    return meta(connection, "generation")


def bump_generation(connection: sqlite3.Connection) -> None:
    """Tell readers that there is something new, within a transaction."""
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")


def count_items(connection: sqlite3.Connection) -> int:
    """The number of indexed images."""
    return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])


@dataclass(frozen=True)
class ShardRow:
    """What the catalog says about a shard; its fields are the columns of the table.

    Attributes:
        number: of the shard's file.
        kind: ``image`` or ``caption``.
        first, last: smallest and largest id in it.
        count: items in it, removed ones included.
        vectors: of all its items.
        longest: vectors of its largest set.
        live: one bit per item, the first in the lowest bit: whether it is not removed.
        alive: items that are not removed.
        hash, bytes: of the file.
    """

    number: int
    kind: str
    first: int
    last: int
    count: int
    vectors: int
    longest: int
    live: bytes
    alive: int
    hash: str
    bytes: int


def register_shard(connection: sqlite3.Connection, row: ShardRow) -> None:
    """Register a shard, within a transaction."""
    connection.execute(
        "INSERT INTO shards (number, kind, first, last, count, vectors, longest, live, alive, hash, bytes) VALUES "
        "(:number, :kind, :first, :last, :count, :vectors, :longest, :live, :alive, :hash, :bytes)",
        asdict(row),
    )
