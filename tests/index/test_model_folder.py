"""The model of an index is known by what is loaded from its folder, not by what else lies there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clip_models import write_checkpoint
from small import write_pictures
from store_toys import save_pictures, save_pixel_model

from patchword.cli import main
from patchword.errors import CheckpointError
from patchword.index import add_captions, info
from patchword.index.building import build
from patchword.index.syncing import sync
from patchword.loading import load
from patchword.retrieve.engine import Index


def test_files_that_are_added_beside_the_weights_change_nothing(tmp_path: Path) -> None:
    """As other programs do in the cache of a hub."""
    pictures = write_pictures(tmp_path / "data", {"test": 3}) / "images"
    folder = write_checkpoint(tmp_path / "clip")
    build(pictures, tmp_path / "my.index", model=folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    (folder / "generation_config.json").write_text("{}")
    with Index.open(tmp_path / "my.index") as index:
        assert len(index.search("a cat", k=3).hits) == 3
    (pictures / "test_0.png").rename(pictures / "new.png")
    assert sync(tmp_path / "my.index").moved == 1


def test_other_weights_in_the_folder_are_another_model(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "data", {"test": 2}) / "images"
    build(pictures, tmp_path / "my.index", model=write_checkpoint(tmp_path / "clip"))
    other = write_checkpoint(tmp_path / "other", seed=1)
    (other / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not the model that this index was made with"):
        Index.open(tmp_path / "my.index", model=other)


def place_of(index: Path) -> str:
    return info(index).model["path"]


def test_a_checkpoint_that_was_moved_is_found_from_then_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, index, run = save_pictures(tmp_path / "p", 2), tmp_path / "my.index", tmp_path / "run"
    save_pixel_model(run / "best")
    build(pictures, index, model=run)
    moved = run.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"is gone\. Name where it is now with --model"):
        Index.open(index)
    assert main(["index", "sync", str(index), "--model", str(moved)]) == 0
    said = capsys.readouterr()
    assert f"the model is at '{moved / 'best'}' now, which the index remembers" in said.out + said.err
    assert place_of(index) == str(moved / "best")
    assert str(run) not in info(index).model["label"]
    with Index.open(index) as opened:
        assert len(opened.search("a red dog", k=2).hits) == 2
    assert sync(index, model=moved).model_place is None
    again = moved.rename(tmp_path / "again")
    (tmp_path / "c.txt").write_text("a red dog\n", encoding="utf-8")
    add_captions(index, tmp_path / "c.txt", model=again)
    assert place_of(index) == str(again / "best")


def test_a_second_copy_and_another_model_are_not_remembered(tmp_path: Path) -> None:
    pictures, index, folder = save_pictures(tmp_path / "p", 2), tmp_path / "my.index", tmp_path / "m"
    build(pictures, index, model=save_pixel_model(folder))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert (sync(index, model=copy).model_place, place_of(index)) == (None, str(folder))
    other = save_pixel_model(tmp_path / "other", seed=1)
    folder.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="is not the model that this index was made with"):
        sync(index, model=other)
    assert place_of(index) == str(folder)
    assert sync(index, model=load(copy)).model_place == str(copy)


def test_a_running_reader_goes_on_when_the_place_changes(tmp_path: Path) -> None:
    pictures, index, folder = save_pictures(tmp_path / "p", 2), tmp_path / "my.index", tmp_path / "m"
    build(pictures, index, model=save_pixel_model(folder))
    with Index.open(index) as opened:
        before = [hit.id for hit in opened.search("a red dog").hits]
        sync(index, model=folder.rename(tmp_path / "moved"))
        opened.refresh()
        assert opened.manifest.model.path == str(tmp_path / "moved")
        assert [hit.id for hit in opened.search("a red dog").hits] == before
