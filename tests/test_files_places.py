"""Where whole files go: through links, into pipes and devices, over files with permissions of their own."""

from __future__ import annotations

import os
import pty
import stat
import threading
from pathlib import Path

import pytest

from patchword.files import replacing, write_whole

PAGE = "a page\n" * 20_000  # more than a pipe holds


def read_all(handle: int) -> str:
    """What comes out of a pipe until its other end is closed."""
    with os.fdopen(handle, "rb") as file:
        return file.read().decode()


def test_a_named_pipe_stays_one_and_gets_the_whole_text(tmp_path: Path) -> None:
    path, found = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    write_whole(path, PAGE, durable=True)
    reader.join(20)
    assert found == [PAGE]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no open files by name")
def test_an_open_pipe_is_written_by_its_name() -> None:
    """What a shell gives a program for ``>(cat)``."""
    out, into = os.pipe()
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(read_all(out)), daemon=True)
    reader.start()
    write_whole(Path(f"/dev/fd/{into}"), PAGE)
    os.close(into)
    reader.join(20)
    assert found == [PAGE]


def test_a_terminal_is_written_and_stays() -> None:
    master, slave = pty.openpty()
    path = Path(os.ttyname(slave))
    write_whole(path, "a line\n")
    assert os.read(master, 100) == b"a line\r\n"
    assert path.is_char_device()
    for handle in (master, slave):
        os.close(handle)


def test_nothing_goes_into_a_pipe_when_the_writing_failed(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("half", encoding="utf-8")
            raise ValueError("no page")

    with pytest.raises(ValueError, match="no page"):
        fail()
    assert os.read(held, 10) == b""
    os.close(held)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "kept").mkdir()
    target, link, second = tmp_path / "kept" / "a.html", tmp_path / "b.html", tmp_path / "c.html"
    if there:
        target.write_text("old", encoding="utf-8")
    link.symlink_to("kept/a.html")
    second.symlink_to(link)
    write_whole(second, "new", durable=True)
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.html", "b.html", "c.html", "kept"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    path.chmod(mode)
    with replacing(path) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600  # nobody else reads along
        draft.write_text("new", encoding="utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text(encoding="utf-8") == "new"


def test_a_new_file_may_be_read_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_whole(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    os.chown(path, 1234, 1235)
    write_whole(path, "x")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


@pytest.mark.parametrize("name", ["a" * 255, "ß" * 127])
def test_a_name_that_just_fits_is_written(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_errors_name_the_path_and_not_the_draft(tmp_path: Path) -> None:
    cases: list[tuple[Path, type[OSError]]] = [
        (tmp_path, IsADirectoryError),
        (tmp_path / "nowhere" / "a.txt", FileNotFoundError),
        (tmp_path / ("a" * 256), OSError),
    ]
    for path, kind in cases:
        with pytest.raises(kind) as caught:
            write_whole(path, "x")
        assert caught.value.filename == str(path)
        assert ".tmp" not in str(caught.value).replace(str(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_folder_are_drafted_at_the_same_time(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "b") as second, replacing(tmp_path / "a") as third:
        for draft, text in ((first, "1"), (second, "2"), (third, "3")):
            draft.write_text(text, encoding="utf-8")
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in "ab"] == ["1", "2"]
