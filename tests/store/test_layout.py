"""Files of an index that several processes write, and names that none can have."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest

from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder, write_whole
from patchword.store.schema import create


def write_often(path: Path, line: str, times: int) -> None:
    for _ in range(times):
        write_whole(path, line)


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    file, context = tmp_path / "candidates.json", multiprocessing.get_context("fork")
    lines = [f"{name * 5000}\n" for name in "ab"]
    both = [context.Process(target=write_often, args=(file, line, 40)) for line in lines]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    assert file.read_text(encoding="utf-8") in lines
    assert list(tmp_path.iterdir()) == [file]


def test_a_draft_that_a_beginning_writer_removed_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, removed = os.fsync, list[Path]()

    def remove_once(handle: int) -> None:
        real(handle)
        if not removed:
            removed.extend(tmp_path.glob(".*.new"))  # as `Writer.remove_orphans` finds them
            removed[0].unlink()

    monkeypatch.setattr("os.fsync", remove_once)
    write_whole(tmp_path / "a.json", "{}\n")
    assert len(removed) == 1
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "{}\n"
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "a.json", "{}\n")


def test_a_draft_of_a_killed_process_goes_with_the_next_one(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.json.1-1.new", tmp_path / ".a.json.2-2.new"
    for draft in (old, young):
        draft.touch()
    os.utime(old, (0, 0))
    write_whole(tmp_path / "a.json", "{}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "a.json"]


@pytest.mark.parametrize("name", ["\ud800", "a/\ud800.png", "a\0b", "\udc80.png", "a" * 5000, ""])
def test_no_image_has_a_name_that_can_not_be_stored(name: str, tmp_path: Path) -> None:
    place = IndexFolder(tmp_path)
    place.manifest.write_text("{}", encoding="utf-8")
    create(place.catalog)
    with sqlite3.connect(place.catalog) as connection:
        connection.execute("INSERT INTO roots VALUES (1, ?, 'folder', 0)", (str(tmp_path),))
    connection.close()
    with Catalog(place) as catalog:
        assert catalog.named(name) is None
