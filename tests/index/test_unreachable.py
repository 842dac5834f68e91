"""Files that can not be looked at or read for a moment: what is indexed of them stays, and is counted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from store_toys import age, save_picture

from patchword.errors import DataError
from patchword.index import Catalog, add, add_captions, build, open_snapshot, remove, sync, verify
from patchword.model import Model

ERRORS = (errno.EACCES, errno.ESTALE, errno.EIO)


class Listing:
    """A folder as `os.scandir` gives it, some entries of which the system says nothing about."""

    def __init__(self, entries: Any, code: int, is_bad: Callable[[str], bool], calls: tuple[str, ...]) -> None:
        self.entries, self.code, self.is_bad, self.calls = entries, code, is_bad, calls

    def __enter__(self) -> Iterator[Any]:
        return (self.spoilt(entry) if self.is_bad(entry.path) else entry for entry in self.entries)

    def __exit__(self, *_: object) -> None:
        self.entries.close()

    def spoilt(self, entry: Any) -> Any:
        fake = Mock(spec=os.DirEntry)
        fake.name, fake.path = entry.name, entry.path
        for call in ("is_symlink", "is_dir"):
            getattr(fake, call).return_value = getattr(entry, call)()
        for call in self.calls:
            getattr(fake, call).side_effect = OSError(self.code, os.strerror(self.code), entry.path)
        return fake


def break_lookups(
    patch: pytest.MonkeyPatch, code: int, is_bad: Callable[[str], bool], calls: tuple[str, ...] = ("stat",)
) -> None:
    """Folders can be listed, and some of what is in them can not be looked at."""
    look = os.scandir
    patch.setattr(os, "scandir", lambda path: Listing(look(path), code, is_bad, calls))


def break_calls(patch: pytest.MonkeyPatch, name: str, code: int, is_bad: Callable[[str], bool]) -> None:
    """A function of `os` fails for some paths."""
    do = getattr(os, name)

    def call(path: Any, *more: Any, **options: Any) -> Any:
        if isinstance(path, str | Path) and is_bad(str(path)):
            raise OSError(code, os.strerror(code), str(path))
        return do(path, *more, **options)

    patch.setattr(os, name, call)


def reasons(index: Path) -> dict[str, str]:
    lines = (index / "skipped.jsonl").read_text(encoding="utf-8").split("\n")
    return {record["path"]: record["reason"] for record in map(json.loads, filter(None, lines))}


def items(index: Path) -> dict[int, tuple[str, object]]:
    """Path and tag of each image."""
    with Catalog(index) as catalog:
        return {one: (item.path, item.columns.get("tag")) for one, item in catalog.find(range(100)).items()}


@pytest.fixture
def tagged(index: Path, model: Model, tmp_path: Path) -> Path:
    """The index with a column and a caption of one picture."""
    (tmp_path / "tags.csv").write_text("path,tag\na/p001.png,sea\n", encoding="utf-8")
    (tmp_path / "captions.jsonl").write_text('{"caption": "a red dog", "image": "a/p001.png"}\n', encoding="utf-8")
    add(index, columns=tmp_path / "tags.csv")
    add_captions(index, tmp_path / "captions.jsonl", model=model)
    return index


@pytest.mark.parametrize("code", ERRORS)
def test_a_file_that_can_not_be_looked_at_keeps_its_item(
    code: int, tagged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, vectors = items(tagged), open_snapshot(tagged).sets([0, 1, 2]).vectors
    for _ in range(2):
        with monkeypatch.context() as patch:
            break_lookups(patch, code, lambda path: path.endswith(("p001.png", "p003.png")))
            changes = sync(tagged, model="/no/such/model")
        assert (changes.found, changes.unchanged, changes.skipped, changes.unreachable) == (12, 10, 2, 2)
        assert (changes.removed, changes.unseen, changes.images) == (0, 0, 12)
        assert "2 of the skipped can not be read now, and what is indexed of them was kept" in changes.line()
        assert "gone" not in changes.line()
        assert reasons(tagged) == {f"a/p00{k}.png": f"can not be read: {os.strerror(code)}" for k in (1, 3)}
        assert verify(tagged).problems == ()
        assert items(tagged) == before
    with Catalog(tagged) as catalog:
        assert [caption.image_id for caption in catalog.find_captions(range(100)).values()] == [
            next(one for one, (path, _) in before.items() if path == "a/p001.png")
        ]
    changes = sync(tagged, model="/no/such/model")
    assert (changes.unchanged, changes.unreachable, reasons(tagged)) == (12, 0, {})
    assert (items(tagged), open_snapshot(tagged).sets([0, 1, 2]).vectors.equal(vectors)) == (before, True)


def test_a_file_that_is_gone_by_the_time_it_is_looked_at_goes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_lookups(monkeypatch, errno.ENOENT, lambda path: path.endswith("p001.png"))
    changes = sync(index, model="/no/such/model")
    assert (changes.skipped, changes.unreachable, changes.removed, changes.images) == (1, 0, 1, 11)


@pytest.mark.parametrize("calls", [("stat",), ("is_dir", "stat"), ("is_symlink", "is_dir", "stat")])
def test_a_folder_of_which_nothing_can_be_looked_at_is_refused(
    calls: tuple[str, ...], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = items(index)
    with monkeypatch.context() as patch:
        break_lookups(patch, errno.ESTALE, lambda path: path.endswith(".png") or calls != ("stat",), calls)
        for allow_empty in (False, True):
            with pytest.raises(DataError, match="where 12 indexed images come from, can be read now") as told:
                sync(index, model="/no/such/model", allow_empty=allow_empty)
    assert os.strerror(errno.ESTALE) in str(told.value)
    assert items(index) == before
    assert sync(index, model="/no/such/model").unchanged == 12


def test_what_may_be_a_folder_keeps_what_is_below_it(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that do not say in a listing what is a folder are asked, and may not answer."""
    break_lookups(monkeypatch, errno.EIO, lambda path: path.endswith("/b"), ("is_dir", "stat"))
    changes = sync(index, model="/no/such/model")
    assert (changes.unchanged, changes.unreachable, changes.removed, changes.images) == (6, 1, 0, 12)
    assert reasons(index) == {"b": f"can not be read: {os.strerror(errno.EIO)}"}


@pytest.mark.parametrize("code", ERRORS)
def test_a_changed_file_that_can_not_be_opened_keeps_its_item(
    code: int, index: Path, pictures: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = items(index)
    age(pictures / "a/p001.png", by_s=50)  # the same content
    save_picture(pictures / "a/p003.png", 77)  # another one
    save_picture(pictures / "a/new.png", 78)
    with monkeypatch.context() as patch:
        break_calls(patch, "open", code, lambda path: path.endswith(("p001.png", "p003.png", "new.png")))
        changes = sync(index, model=model)
    assert (changes.found, changes.unchanged, changes.skipped, changes.unreachable) == (13, 10, 3, 3)
    assert (changes.indexed, changes.replaced, changes.removed, items(index)) == (0, 0, 0, before)
    assert set(reasons(index)) == {"a/p001.png", "a/p003.png", "a/new.png"}
    assert verify(index).problems == ()
    changes = sync(index, model=model)
    assert (changes.indexed, changes.replaced, changes.unchanged, changes.removed) == (2, 1, 11, 0)
    kept = {one: said for one, said in before.items() if said[0] != "a/p003.png"}
    assert {one: said for one, said in items(index).items() if one <= 12} == kept


def test_a_file_that_was_added_alone_keeps_its_item(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone = save_picture(tmp_path / "lone" / "one.png", 50)
    add(index, [lone, save_picture(tmp_path / "lone" / "two.png", 51)])
    with monkeypatch.context() as patch:
        break_calls(patch, "lstat", errno.EACCES, lambda path: path.endswith("one.png"))
        changes = sync(index)
    assert (changes.found, changes.unchanged, changes.unreachable, changes.removed) == (14, 13, 1, 0)
    lone.unlink()
    assert sync(index).removed == 1


def test_what_was_removed_on_purpose_stays_out(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(index, ["a/p001.png"])
    with monkeypatch.context() as patch:
        break_lookups(patch, errno.EIO, lambda path: path.endswith("p001.png"))
        assert sync(index, model="/no/such/model").unreachable == 1
    changes = sync(index, model="/no/such/model")
    assert (changes.indexed, changes.skipped, changes.images) == (0, 1, 11)


def test_lost_vectors_wait_for_a_file_that_can_not_be_read(
    index: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = items(index)
    open_snapshot(index).shards[0].path.unlink()
    path = before[1][0]
    with monkeypatch.context() as patch:
        break_calls(patch, "open", errno.EIO, lambda name: name.endswith(path))
        changes = sync(index, model=model)
    assert (changes.restored, changes.unreachable, changes.skipped) == (2, 1, 1)
    assert (changes.removed, changes.lost, changes.without_vectors) == (0, 0, 1)
    assert items(index) == before
    assert sync(index, model=model).restored == 1
    assert (items(index), verify(index).problems) == (before, ())


def test_pictures_that_do_not_decode_go_as_ever(index: Path, pictures: Path, model: Model, tmp_path: Path) -> None:
    age(pictures / "a/p001.png", by_s=-500).write_bytes(b"no picture")
    changes = sync(index, model=model)
    assert (changes.skipped, changes.unreachable, changes.removed, changes.images) == (1, 0, 1, 11)
    assert "1 removed, their files are gone or can not be indexed any more" in changes.line()
    shutil.rmtree(pictures / "a")
    (pictures / "a").write_bytes(b"no folder")
    assert sync(index, model=model).removed == 5
    assert build(pictures, tmp_path / "i2", model=model).indexed == 6


@pytest.mark.parametrize("is_told", [False, True])
def test_a_file_that_left_an_unreadable_folder_keeps_its_id(
    is_told: bool, index: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = items(index)
    one = next(number for number, (path, _) in before.items() if path == "a/p001.png")
    (pictures / "a/p001.png").rename(pictures / "b/moved.png")
    with monkeypatch.context() as patch:
        break_calls(patch, "scandir", errno.EACCES, lambda path: path.endswith("/a"))
        if not is_told:  # nor does the system say of a single file whether it is there
            break_calls(patch, "lstat", errno.EACCES, lambda path: "/a/" in path)
        changes = sync(index, model="/no/such/model")
    assert (changes.moved, changes.indexed, changes.removed, changes.unseen) == (1, 0, 0, 1)
    assert items(index) == {**before, one: ("b/moved.png", None)}
    assert sync(index, model="/no/such/model").unchanged == 12


def test_a_copy_of_a_file_in_an_unreadable_folder_is_new(
    index: Path, pictures: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = items(index)
    shutil.copy(pictures / "a/p001.png", pictures / "b/copy.png")
    with monkeypatch.context() as patch:
        break_calls(patch, "scandir", errno.EACCES, lambda path: path.endswith("/a"))
        changes = sync(index, model=model)
    assert (changes.moved, changes.indexed, changes.removed) == (0, 1, 0)
    assert before.items() < items(index).items()
