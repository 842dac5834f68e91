"""A missing root and a folder that may be its new place: believed only where the indexed files are in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import refused
from store_toys import save_pictures

from patchword.errors import DataError
from patchword.index import info, open_snapshot, roots, sync, syncing
from patchword.index.records import Root
from patchword.model import Model


def root_of(index: Path) -> Path:
    return Path(next(iter(info(index).roots)))


@pytest.mark.parametrize(("left", "sample"), [(12, 100), (12, 5), (6, 100)])
def test_a_renamed_folder_is_followed(
    left: int, sample: int, index: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "SAMPLE", sample)
    renamed = pictures.rename(pictures.with_name("renamed"))
    if left == 6:
        for path in sorted(renamed.glob("a/*.png"))[:3] + sorted(renamed.glob("b/c/*.png"))[:3]:
            path.unlink()
    changes = sync(index, renamed, model="/no/such/model")
    assert (changes.unchanged, changes.removed) == (left, 12 - left)
    assert root_of(index) == renamed
    assert sync(index, model="/no/such/model").unchanged == left


def test_another_folder_is_refused(
    index: Path, pictures: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away, other = pictures.rename(tmp_path / "away"), save_pictures(tmp_path / "other", 5, first=50)
    before = open_snapshot(index).ids.tolist()
    said = refused(["index", "sync", index, other], capsys, kind="DataError")
    assert f"'{other}' does not look like '{pictures}', which is missing" in said
    assert "of 12 indexed files 0 are there" in said
    assert "patchword index add INDEX FOLDER" in said
    for folder in (away / "a", tmp_path):  # neither a part of it nor what holds it
        with pytest.raises(DataError, match="does not look like"):
            sync(index, folder, model=model)
    for k in range(5):  # the same names and other sizes
        path = sorted(away.rglob("*.png"))[k]
        path.write_bytes(path.read_bytes() + b"\0")
    assert sync(index, away, model=model).replaced == 5
    for path in sorted(away.rglob("*.png"))[:7]:
        path.write_bytes(path.read_bytes() + b"\0")
    again = away.rename(tmp_path / "again")
    with pytest.raises(DataError, match="of 12 indexed files 5 are there with their size"):
        sync(index, again, model=model)
    assert len(open_snapshot(index)) == len(before)
    assert root_of(index) == away


def test_a_root_moves_together_with_what_is_found_there(
    index: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = pictures.rename(pictures.with_name("renamed"))

    def stop(number: int, root: Path, below: str = "", *, follow: bool = False) -> list[Root]:
        assert root == renamed
        raise DataError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(syncing, "scan_folder", stop)
        with pytest.raises(DataError, match="stopped here"):
            sync(index, renamed, model="/no/such/model")
    assert root_of(index) == pictures
    assert sync(index, renamed, model="/no/such/model").unchanged == 12
    assert root_of(index) == renamed
