"""An index whose model also reads side inputs of the images: AAHR and CLIP's vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_toys import SIZES, WIDTH, age, save_model, save_picture, write_precomp

from patchword.errors import DataError
from patchword.index import build, sync
from patchword.loading import load
from patchword.model import Model

CLIP = 3
SIDE = "dev_ims_clip.npy"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    image: dict[str, object] = {"kind": "regions", "width": WIDTH}
    more = {"heads": 2, "guide_heads": 2, "clip_dim": CLIP, "prototypes": 0, "queue": 0}
    return load(save_model(tmp_path_factory.mktemp("model") / "m", "aahr", image, **more))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_precomp(tmp_path / "data")
    values = np.random.default_rng(0).standard_normal((SIZES["dev"], CLIP)).astype(np.float32)
    np.save(folder / SIDE, values)
    for path in folder.iterdir():
        age(path)
    return folder


def change_row(file: Path, row: int) -> None:
    values = np.load(file)
    values[row] += 1
    np.save(file, values)
    age(file, by_s=100)


def test_a_changed_side_input_is_encoded_again(model: Model, data: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    assert build(None, index, model=model, features=data, splits=["dev"]).indexed == SIZES["dev"]
    assert sync(index, model="/no/such/model").unchanged == SIZES["dev"]
    change_row(data / SIDE, 2)
    again = sync(index, model=model)
    assert (again.indexed, again.unchanged) == (1, SIZES["dev"] - 1)
    (data / SIDE).rename(data / "elsewhere.npy")
    with pytest.raises(DataError, match=r"also reads `clip` of the images, which .*/dev lacks"):
        sync(index, model=model)


def test_so_it_is_in_an_index_of_pictures(model: Model, data: Path, tmp_path: Path) -> None:
    index, pictures = tmp_path / "i", tmp_path / "p"
    for row in range(3):
        age(save_picture(pictures / f"dev_{row}.png", row))
    assert build(pictures, index, model=model, features=data, splits=["dev"]).indexed == 3
    assert sync(index, model="/no/such/model").unchanged == 3
    change_row(data / SIDE, 1)
    done = sync(index, model=model)
    assert (done.indexed, done.replaced) == (1, 1)
    change_row(data / SIDE, SIZES["dev"] - 1)  # of an image without a picture
    assert sync(index, model="/no/such/model").unchanged == 3
