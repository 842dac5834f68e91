"""The catalog's tables, how they are opened, and the statements that several modules need.

There is one writer, and any number of readers that never wait for it. Writers leave the log and its index
(``catalog.sqlite-wal``, emptied, and ``-shm``) in the folder: a reader that may not make them needs them to follow.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from patchword.errors import DataError
from patchword.store.layout import IndexFolder

# `checked` is when the content was last read: a file written in the same two seconds may have changed unseen.
# `live` holds one bit per item of a shard, the first in the lowest bit: what is not removed.
# `feature_hash` is of the region features that an item was encoded from; `feature_files` are the files of them, as they
# were when all items were last compared with them.
# `column_files` are those of the user's columns, as they were when the columns were set from them, in the order in
# which they were named.
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
    feature TEXT, feature_hash TEXT, UNIQUE (root, path));
CREATE TABLE captions (id INTEGER PRIMARY KEY, text TEXT NOT NULL, image INTEGER);
CREATE INDEX captions_of ON captions (image);
CREATE TABLE user_columns (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL);
CREATE TABLE skipped (
    root INTEGER NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, reason TEXT NOT NULL,
    sticky INTEGER NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
CREATE TABLE feature_files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE column_files (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    hash TEXT NOT NULL);
"""
KINDS = ("image", "caption")  # of items, each with shards of their own
WAIT_S = 30.0
T = TypeVar("T")
_LEAVE_MS = 1000  # that a writer waits at its end for readers, before it leaves the log as it is
_LOOKS = 20  # at a catalog that changes while it is read without a lock


def create(path: Path) -> None:
    """Make an empty catalog."""
    with connect_to_write(path) as connection:
        connection.executescript("BEGIN;" + TABLES + "COMMIT;")


def complete_tables(connection: sqlite3.Connection) -> None:
    """Add what catalogs of older versions lack; only writers need it."""
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    lacking = [name for name in ("feature_files", "column_files") if name not in there]
    has_hash = any(row[1] == "feature_hash" for row in connection.execute("PRAGMA table_info(items)"))
    if has_hash and not lacking:
        return
    with transaction(connection):
        if not has_hash:
            connection.execute("ALTER TABLE items ADD COLUMN feature_hash TEXT")
        for name in lacking:
            start = TABLES.index(f"CREATE TABLE {name}")
            connection.execute(TABLES[start : TABLES.index(";", start)])


@contextmanager
def connect_to_write(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes; every transaction is begun and ended by hand."""
    connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit outlives a loss of power
        yield connection
    finally:
        _leave(connection, path)


def _leave(connection: sqlite3.Connection, path: Path) -> None:
    """Close a connection that writes: all goes into the catalog's file, and the log stays, empty.

    SQLite takes the log away when the last connection closes that may write, so one that may only read is the last.
    Where that does not work (a full disk, a catalog that is not made yet), the log is left as SQLite leaves it.
    """
    with contextlib.ExitStack() as last, contextlib.closing(connection), contextlib.suppress(sqlite3.Error):
        last.enter_context(contextlib.closing(_open(path, "mode=ro")))
        connection.execute(f"PRAGMA busy_timeout = {_LEAVE_MS}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class ReadConnection(sqlite3.Connection):
    """A connection that can only read.

    Attributes:
        is_immutable: it takes no lock and expects no writer: good for one look, see `look`.
    """

    is_immutable: bool = False


def connect_to_read(folder: IndexFolder) -> ReadConnection:
    """A connection that can only read; on a read-only disk without a writer's log, one that expects no writer.

    Raises:
        DataError: the catalog can not be read.
    """
    try:
        return _open(folder.catalog, "mode=ro")
    except sqlite3.Error as error:
        if not may_be_immutable(folder):
            _refuse(folder, error)
        try:
            connection = _open(folder.catalog, "mode=ro&immutable=1")
        except sqlite3.Error as second:
            _refuse(folder, second)
        connection.is_immutable = True
        return connection


def look(folder: IndexFolder, work: Callable[[ReadConnection], T]) -> T:
    """Read something with a connection of its own.

    A connection that expects no writer may have seen pages of two states when there was one after all: then the
    catalog's file is not as it was before, and it is read again.

    Args:
        folder: an index.
        work: reads; it may be called again.

    Raises:
        DataError: the catalog can not be read.
    """
    for _ in range(_LOOKS):
        before = _stamp(folder)
        with contextlib.closing(connect_to_read(folder)) as connection:
            try:
                found = work(connection)
            except Exception:
                if not connection.is_immutable or _stamp(folder) == before:
                    raise
                continue
        if not connection.is_immutable or _stamp(folder) == before:
            return found
    raise DataError(f"'{folder.catalog}' is rewritten faster than it can be read. Try again.")


def identity(folder: IndexFolder) -> tuple[int, int]:
    """Device and inode of the catalog: others when the folder, or a link to it, leads to another index.

    Raises:
        DataError: it is gone.
    """
    try:
        about = folder.catalog.stat()
    except OSError as error:
        raise DataError(f"'{folder.catalog}' can not be read: {error.strerror}. Is the disk mounted?") from None
    return about.st_dev, about.st_ino


def may_be_immutable(folder: IndexFolder) -> bool:
    """Whether a catalog that can not be opened as usual may be read without looking at a log.

    Only where nothing can be written, and where no log holds what the catalog's file lacks.
    """
    log = _log_of(folder)
    return _is_read_only(folder) and (log is None or log == 0)


def _log_of(folder: IndexFolder) -> int | None:
    """Bytes of the writers' log; None where there is none."""
    try:
        return folder.catalog.with_name(f"{folder.catalog.name}-wal").stat().st_size
    except OSError:
        return None


def _stamp(folder: IndexFolder) -> tuple[int, ...]:
    """What changes when the catalog is written to."""
    log = _log_of(folder)
    try:
        about = folder.catalog.stat()
    except OSError:
        return (-1 if log is None else log,)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, -1 if log is None else log


def _open(path: Path, how: str) -> ReadConnection:
    name = path.resolve().as_uri()  # percent-encoded, so that no name becomes an option
    connection = sqlite3.connect(
        f"{name}?{how}",
        uri=True,
        timeout=WAIT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=ReadConnection,
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
    except OSError as error:
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return False


def _refuse(folder: IndexFolder, error: sqlite3.Error) -> NoReturn:
    """Say why the catalog can not be read.

    Raises:
        DataError: always.
    """
    name = folder.catalog
    try:
        os.close(os.open(name, os.O_RDONLY))
    except OSError as reason:
        if reason.errno in (errno.EMFILE, errno.ENFILE):
            raise DataError(f"'{name}' can not be opened: {reason.strerror}. Allow more with: ulimit -n") from None
    if _is_read_only(folder) and _log_of(folder):
        raise DataError(
            f"'{name}' can not be read: the log beside it ({_log_of(folder):,} bytes) was left by a writer that was "
            "killed, and nothing can be written here. Run patchword index sync where it can be, and copy it again."
        )
    raise DataError(f"'{name}' can not be read: {error}. Restore it from a copy, or build the index again.")


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
