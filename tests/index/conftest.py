"""An index of twelve random pictures, made anew for each test, and the model that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_toys import save_pictures, save_pixel_model

from patchword.index import build, open_snapshot
from patchword.loading import load
from patchword.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A CHAN with random weights that reads pixels."""
    return load(save_pixel_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures in two folders."""
    return save_pictures(tmp_path / "p", 12)


@pytest.fixture
def index(model: Model, pictures: Path, tmp_path: Path) -> Path:
    """Of these pictures: four shards of three each."""
    build(pictures, tmp_path / "i", model=model, shard_mb=0.0003, batch=3)
    assert len(open_snapshot(tmp_path / "i").shards) == 4
    return tmp_path / "i"
