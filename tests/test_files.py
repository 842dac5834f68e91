"""Files are replaced by whole ones, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from patchword.files import replacing, write_whole


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, old: str | None, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old, encoding="utf-8")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(type(error)):
        fail()
    found = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert found == ({} if old is None else {"a.txt": old})


def test_the_new_file_takes_the_place_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with replacing(path) as draft:
        draft.write_text("new", encoding="utf-8")
        assert draft.parent == path.parent
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [False, True])
def test_text_is_written_in_utf8_with_plain_line_feeds(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fsync, []

    def noted(handle: int) -> None:
        synced.append(handle)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(tmp_path / "ß.txt", "é\n", durable=durable)
    assert (tmp_path / "ß.txt").read_bytes() == "é\n".encode()
    assert len(synced) == (2 if durable else 0)  # the file and its folder


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "a.txt", "x")
