"""A small CHAN that has been trained on scenes, and what it makes of 80 of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchword.data.open import open_split
from patchword.data.scenes import write_scenes
from patchword.methods.base import Method
from patchword.recipe import make_recipe
from patchword.train.run import train
from patchword.types import Encoded


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Method, Encoded, Encoded, np.ndarray]:
    """Method, images, captions and the image of each caption; a few dozen steps of training."""
    from patchword.loading import load

    folder = tmp_path_factory.mktemp("trained")
    data = write_scenes(folder / "scenes", train=150, dev=10, test=80, pictures=False) / "scenes_precomp"
    values: dict[str, Any] = {
        "method": "chan",
        "data": {"root": str(data), "name": "scenes", "region_drop": 0.0, "word_drop": 0.0},
        "model": {"joint_dim": 64, "image": {"kind": "regions", "width": 192}, "context": "none", "pooling": "mean"},
        "loss": {"kind": "info_nce", "temperature": 0.05},
        "train": {"epochs": 4, "batch_size": 50, "lr": 5e-3, "lr_steps": [], "seed": 0},
    }
    values["model"]["text"] = {"kind": "bigru", "word_dim": 32}
    train(make_recipe(values), folder / "run")
    model = load(folder / "run")
    split = open_split(data, "test", name="scenes")
    images, captions = model.encode_images(split.require_images()), model.encode_captions(split.captions)
    return model.method, images, captions, np.asarray(split.owner)
