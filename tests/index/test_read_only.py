"""Reading a catalog where nothing can be written: changes are seen, and never half of one."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchword.errors import DataError
from patchword.index import Catalog, info, open_snapshot, remove
from patchword.store import schema
from patchword.store.layout import IndexFolder

# Reads a number of generations over one connection, a line for each, as somebody who may not write into the folder.
READER = """
import os, sys
from pathlib import Path
from patchword.index import Catalog
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[1])
assert not os.access(folder, os.W_OK)
with Catalog(folder) as catalog:
    for _ in sys.stdin:
        print(catalog.generation(), catalog.count(), len(catalog.where("id > 0")), len(catalog._free), flush=True)
"""


def log_of(index: Path) -> Path:
    return index / "catalog.sqlite-wal"


@pytest.fixture
def readable(index: Path) -> Iterator[Path]:
    """The index where everybody can read and only its owner can write."""
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        copy = shutil.copytree(index, place / "i")
        with schema.connect_to_write(copy / "catalog.sqlite"):
            pass  # the last one here could write
        yield copy
    finally:
        (place / "i").chmod(0o755)
        shutil.rmtree(place)


@pytest.fixture
def unlocked(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index on a read-only disk without a writer's log: there the usual way to open the catalog fails."""
    real = schema._open

    def refuse(path: Path, how: str) -> schema.ReadConnection:
        if how == "mode=ro":
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, how)

    monkeypatch.setattr(schema, "_open", refuse)
    monkeypatch.setattr(schema, "_is_read_only", lambda _: True)
    for name in ("-wal", "-shm"):
        index.joinpath(f"catalog.sqlite{name}").unlink(missing_ok=True)
    return index


def test_writers_leave_an_empty_log_and_a_whole_catalog(index: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with schema.connect_to_write(index / "catalog.sqlite") as connection, schema.transaction(connection):
            schema.bump_generation(connection)
        assert log_of(index).stat().st_size == 0
        assert index.joinpath("catalog.sqlite-shm").is_file()
        alone = tmp_path / "alone.sqlite"
        shutil.copy(index / "catalog.sqlite", alone)
        with sqlite3.connect(alone) as copy:
            assert schema.generation(copy) == info(index).generation
            assert schema.count_items(copy) == info(index).images
        copy.close()


def test_who_may_not_write_follows_over_one_connection(readable: Path) -> None:
    if os.geteuid() != 0:
        readable.chmod(0o555)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(readable)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None
    assert reader.stdout is not None

    def told() -> str:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
        return reader.stdout.readline().strip()

    try:
        first, *rest = map(int, told().split())
        assert rest == [12, 12, 1]  # the one connection is kept
        for step, left in enumerate((11, 10, 9), start=1):
            readable.chmod(0o755)
            remove(readable, [step])
            if os.geteuid() != 0:
                readable.chmod(0o555)
            assert told() == f"{first + step} {left} {left} 1"
    finally:
        reader.stdin.close()
        reader.stdout.close()
        assert reader.wait(60) == 0


def test_a_log_is_not_passed_over(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = IndexFolder(index)
    assert not schema.may_be_immutable(place)  # here one can write
    monkeypatch.setattr(schema, "_is_read_only", lambda _: True)
    assert schema.may_be_immutable(place)  # of an empty log
    log_of(index).write_bytes(b"half a commit")
    assert not schema.may_be_immutable(place)
    log_of(index).unlink()
    assert schema.may_be_immutable(place)


def test_a_log_that_can_not_be_read_is_said(unlocked: Path) -> None:
    log_of(unlocked).write_bytes(b"half a commit")
    with pytest.raises(DataError, match=r"the log beside it \(13 bytes\) was left"):
        Catalog(unlocked)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENOSPC])
def test_only_what_can_not_be_written_is_read_only(index: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "touch", refuse)
    assert schema._is_read_only(IndexFolder(index)) == (number in (errno.EROFS, errno.EACCES))


def test_a_connection_that_expects_no_writer_is_not_kept(unlocked: Path) -> None:
    with Catalog(unlocked) as catalog:
        before = catalog.generation()
        assert catalog.count() == 12
        for step, left in enumerate((11, 10), start=1):
            remove(unlocked, [step])
            assert (catalog.generation(), catalog.count(), len(catalog.where("id > 0"))) == (before + step, left, left)
            assert sorted(catalog.find(range(20))) == list(range(step + 1, 13))
            assert len(open_snapshot(unlocked)) == left
        assert catalog._free == []


@pytest.mark.parametrize("breaks", [False, True])
def test_what_changes_while_it_is_read_is_read_again(unlocked: Path, breaks: bool) -> None:
    calls = 0

    def work(connection: schema.ReadConnection) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        items = schema.count_items(connection)
        if calls < 3:
            remove(unlocked, [calls])  # a writer comes in between, and takes its log in
            if breaks:
                raise sqlite3.DatabaseError("database disk image is malformed")
        return items, schema.count_items(connection)

    assert schema.look(IndexFolder(unlocked), work) == (10, 10)
    assert calls == 3


def test_an_error_of_its_own_is_not_tried_again(unlocked: Path) -> None:
    calls = 0

    def work(_: schema.ReadConnection) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        schema.look(IndexFolder(unlocked), work)
    assert calls == 1
