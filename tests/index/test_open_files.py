"""How many files an index of many shards holds open, and what happens where they are too many."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_toys import save_pictures

from patchword.errors import DataError
from patchword.index import build, compact, open_snapshot, remove
from patchword.model import Model
from patchword.store import open_files
from patchword.store.handles import HANDLES, Handles, stamp_of
from patchword.store.snapshot import Snapshot

SHARDS = 40

# Opens an index of many shards three times: where the soft limit is too low but may be raised, where the limit just
# holds one file for each shard, and where it does not.
CHILD = """
import os, resource, subprocess, sys
from patchword.errors import DataError
from patchword.retrieve.engine import Index
from patchword.loading import load

folder, shards = sys.argv[1], int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

def opened():
    return len(os.listdir("/dev/fd"))

def limit(soft, hard):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

with Index.open(folder) as index:
    model = index.model
del index  # all modules are loaded now
start = opened()
limit(start + 20, hard)
with Index.open(folder, model=model) as index:
    print("raised", resource.getrlimit(resource.RLIMIT_NOFILE)[0] > start + shards, len(index))
del index
limit(start + shards + 25, start + shards + 25)
with Index.open(folder, model=model) as index:
    held = opened()
    subprocess.run([sys.executable, "-c", f"from patchword.index import remove; remove({folder!r}, [1])"], check=True)
    assert index.refresh()
    found = index.similar(10, 40)
    print("held", len(index), len(found.hits), opened() - held <= 20)
del index, found
limit(start + 20, start + 20)
try:
    Index.open(folder, model=model)
except DataError as error:
    print(error)
print("left", opened() - start <= 5)
"""


@pytest.fixture(scope="module")
def many(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("many")
    build(save_pictures(place / "p", SHARDS), place / "i", model=model, shard_mb=1e-7, batch=1)
    assert len(open_snapshot(place / "i").shards) == SHARDS
    return place / "i"


def opened() -> int:
    return len(os.listdir("/dev/fd"))


def everything(snapshot: Snapshot) -> np.ndarray:
    """All sets, read in an order in which no two are neighbours."""
    rows = np.arange(len(snapshot))
    return snapshot.sets(np.concatenate([rows[::2], rows[1::2]])).vectors.numpy()


def test_low_limits_of_open_files(many: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(many), str(SHARDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"raised True {SHARDS}", f"held {SHARDS - 1} {SHARDS - 2} True"], done.stderr
    assert f"has {SHARDS} shards, and this process may have" in lines[2]
    assert f"ulimit -n {SHARDS + 512}" in lines[2]
    assert lines[3:] == ["left True"]


def test_a_shard_takes_one_file_and_the_next_snapshot_none(index: Path) -> None:
    start = opened()
    before = open_snapshot(index)
    assert opened() - start <= len(before.shards)
    remove(index, [5])
    held = opened()
    after = open_snapshot(index, before=before)
    assert opened() == held
    assert [one.key for one in after.shards] == [one.key for one in before.shards]
    assert (len(before), len(after)) == (12, 11)
    everything(before)
    keys = [shard.key for shard in before.shards]
    assert set(keys) & set(HANDLES._open)
    del before, after
    assert not set(keys) & set(HANDLES._open)
    assert opened() <= start


def test_a_file_of_the_same_name_is_not_taken_for_the_same_shard(index: Path) -> None:
    before = open_snapshot(index)
    place = before.shards[1].path
    content = place.read_bytes()
    place.unlink()
    place.with_name("fresh").write_bytes(content)
    place.with_name("fresh").rename(place)
    after = open_snapshot(index, before=before)
    assert [a is b for a, b in zip(after.shards, before.shards, strict=True)] == [True, False, True, True]


def test_a_shard_whose_name_is_gone_is_read_through_its_map(index: Path) -> None:
    snapshot = open_snapshot(index)
    expected = everything(snapshot)
    other = open_snapshot(index)
    remove(index, [1, 4, 7, 10])  # one of each shard
    compact(index)
    assert not any(shard.path.exists() for shard in other.shards)
    np.testing.assert_array_equal(everything(other), expected)  # never read by position before
    np.testing.assert_array_equal(everything(snapshot), expected)


def test_few_files_are_open_for_reading(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = open_snapshot(many)
    few = Handles(most=3)
    monkeypatch.setattr("patchword.store.snapshot.HANDLES", few)
    start = opened()
    everything(snapshot)
    assert len(few) == 3
    assert opened() - start == 3


def test_a_handle_lives_as_long_as_it_is_read(tmp_path: Path) -> None:
    few, files = Handles(most=1), [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(file.name, encoding="utf-8")
    first = few.of(1, files[0], stamp_of(files[0].stat()))
    second = few.of(2, files[1], stamp_of(files[1].stat()))
    assert first is not None
    assert second is not None
    assert (os.pread(first.number, 9, 0), os.pread(second.number, 9, 0)) == (b"a", b"b")
    assert few.of(1, tmp_path / "gone", (0, 0, 0, 0)) is None
    assert few.of(1, files[0], (0, 0, 0, 0)) is None  # another file by now
    few.forget(2)
    assert len(few) == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_a_free_file_the_map_has_to_do(many: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    snapshot = open_snapshot(many)
    expected = everything(snapshot)
    monkeypatch.setattr("patchword.store.snapshot.HANDLES", Handles())

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("patchword.store.handles.os.open", refuse)
    np.testing.assert_array_equal(everything(snapshot), expected)


def test_other_errors_are_not_about_the_number_of_files(tmp_path: Path) -> None:
    open_files.refuse_if_too_many(tmp_path, 5, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(DataError, match="ulimit -n 517"):
        open_files.refuse_if_too_many(tmp_path, 5, OSError(errno.EMFILE, "Too many open files"))


@pytest.mark.parametrize(("soft", "hard", "most"), [(1024, 4096, 4096), (4096, 4096, 4096), (9000, 9000, None)])
def test_the_soft_limit_is_raised_to_the_hard_one(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int | None
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    open_files.allow_more(100)
    assert not set_to
    open_files.allow_more(4000)
    assert set_to == ([] if most is None else [(most, hard)])
