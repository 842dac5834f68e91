"""What else than the features themselves changes what an index of them holds: side inputs, boxes, ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cefg_models import cefg_model
from store_toys import REGIONS, SIZES, WIDTH, age, save_model, save_picture, save_region_model, write_precomp

from patchword.errors import DataError
from patchword.index import Catalog, Item, build, open_snapshot, sync
from patchword.index.results import Changes
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


def change_row(file: Path, row: int, *, by_s: float = 100) -> None:
    values = np.load(file)
    values[row] += 1
    np.save(file, values)
    age(file, by_s=by_s)


def vectors(index: Path) -> dict[str, torch.Tensor]:
    """The vector set of every image, by path."""
    snapshot = open_snapshot(index)
    return {
        item.path: snapshot.sets([position]).vectors
        for item, position in zip(items(index), range(len(snapshot)), strict=True)
    }


def items(index: Path) -> list[Item]:
    with Catalog(index) as catalog:
        return catalog.items(open_snapshot(index).ids)


def is_fresh(index: Path, model: Model, data: Path, splits: tuple[str, ...] = ("dev",)) -> bool:
    """Whether an index holds what one built now would hold."""
    fresh = index.with_name("fresh")
    build(None, fresh, model=model, features=data, splits=splits)
    mine, theirs = vectors(index), vectors(fresh)
    said = [{item.path: item.feature for item in items(one)} for one in (index, fresh)]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine) and said[0] == said[1]


def counts(changes: Changes) -> tuple[int, int, int]:
    """Items that were encoded, those of them that replaced others, and those that stayed."""
    return changes.indexed, changes.replaced, changes.unchanged


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


def test_a_side_file_that_is_older_than_the_features_is_noticed(model: Model, data: Path, tmp_path: Path) -> None:
    index, all_of = tmp_path / "i", SIZES["dev"]
    age(data / SIDE, by_s=5000)
    build(None, index, model=model, features=data, splits=["dev"])
    change_row(data / SIDE, 2, by_s=4000)  # neither the newest time nor the sum of the sizes is another one
    assert counts(sync(index, model=model)) == (1, 1, all_of - 1)
    assert is_fresh(index, model, data)
    assert sync(index, model="/no/such/model").unchanged == all_of


def test_boxes_that_an_adjacency_is_made_of_are_compared(data: Path, tmp_path: Path) -> None:
    corners = np.sort(np.random.default_rng(1).random((SIZES["dev"], REGIONS, 2, 2)), axis=2)
    boxes, file = corners.reshape(-1, REGIONS, 4).astype(np.float32), data / "dev_boxes.npy"
    np.save(file, boxes)
    age(file)
    lines = (data / "dev_caps.txt").read_text(encoding="utf-8").splitlines()
    cefg_model(lines, adjacency="all_sectors", amr="none").save(tmp_path / "m")
    model, index = load(tmp_path / "m"), tmp_path / "i"
    build(None, index, model=model, features=data, splits=["dev"])
    assert sync(index, model="/no/such/model").unchanged == SIZES["dev"]
    boxes[4] = boxes[4, ::-1]
    np.save(file, boxes)
    age(file)
    assert counts(sync(index, model=model)) == (1, 1, SIZES["dev"] - 1)
    assert is_fresh(index, model, data)


def test_images_whose_ids_were_exchanged_exchange_their_vectors(data: Path, tmp_path: Path) -> None:
    model, index = load(save_region_model(tmp_path / "m")), tmp_path / "i"
    both = SIZES["dev"] + SIZES["test"]
    build(None, index, model=model, features=data, splits=["dev", "test"])
    ids = data / "dev_ids.txt"
    first, second, *others = ids.read_text(encoding="utf-8").split()
    ids.write_text("\n".join((second, first, *others, "")), encoding="utf-8")
    assert counts(sync(index, model=model)) == (2, 2, both - 2)
    assert is_fresh(index, model, data, ("dev", "test"))


def test_an_image_that_went_to_another_split_is_found_there(data: Path, tmp_path: Path) -> None:
    model, index = load(save_region_model(tmp_path / "m")), tmp_path / "i"
    both = SIZES["dev"] + SIZES["test"]
    build(None, index, model=model, features=data, splits=["dev", "test"])
    rows = {split: np.load(data / f"{split}_ims.npy") for split in ("dev", "test")}
    names = {split: (data / f"{split}_ids.txt").read_text(encoding="utf-8").split() for split in rows}
    for split, other in (("dev", "test"), ("test", "dev")):
        np.save(data / f"{split}_ims.npy", np.concatenate([rows[other][:1], rows[split][1:]]))
        (data / f"{split}_ids.txt").write_text("\n".join((names[other][0], *names[split][1:], "")), encoding="utf-8")
    assert counts(sync(index, model=model)) == (2, 2, both - 2)  # name and features are the same
    assert is_fresh(index, model, data, ("dev", "test"))


def test_features_that_grew_are_not_encoded_again(data: Path, tmp_path: Path) -> None:
    model, index, count = load(save_region_model(tmp_path / "m")), tmp_path / "i", SIZES["dev"]
    build(None, index, model=model, features=data, splits=["dev"])
    (data / SIDE).unlink()
    values = np.load(data / "dev_ims.npy")
    np.save(data / "dev_ims.npy", np.concatenate([values, values[:1] + 1]))
    for name, lines in (("ids", ["dev_new"]), ("caps", ["a dog ."] * 5)):
        with (data / f"dev_{name}.txt").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    assert counts(sync(index, model=model)) == (1, 0, count)
    assert is_fresh(index, model, data)


def test_a_build_goes_on_with_side_inputs(model: Model, data: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = build(None, tmp_path / "i", model=model, features=data, splits=["dev"])
    assert done.unchanged == SIZES["dev"]
