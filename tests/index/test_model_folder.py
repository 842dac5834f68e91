"""The model of an index is known by what is loaded from its folder, not by what else lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_models import write_checkpoint
from small import write_pictures

from patchword.errors import CheckpointError
from patchword.index.building import build
from patchword.index.engine import Index
from patchword.index.syncing import sync


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
