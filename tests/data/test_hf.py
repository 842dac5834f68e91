import builtins
import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from patchword.data.open import find_places, open_split, splits_of
from patchword.data.pictures import PictureFiles, VitTransform
from patchword.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def png(shade: int, *, cut: bool = False) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 6, 3), shade, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()[: 40 if cut else None], "path": None}


def with_images(rows: dict[str, list[Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_split_column_wins_over_the_name_of_the_table(tmp_path: Path) -> None:
    rows = {
        "image": [png(10), png(20), png(30)],
        "caption": [["a", "b"], ["c"], ["d", "e"]],
        "split": ["train", "test", "train"],
        "img_id": ["7", "8", "9"],
    }
    datasets.DatasetDict({"test": with_images(rows)}).save_to_disk(tmp_path / "flickr30k")
    assert find_places(tmp_path / "flickr30k")[0].layout.name == "hf"
    assert splits_of(tmp_path / "flickr30k") == ["train", "test"]
    split = open_split(tmp_path / "flickr30k", "train")
    assert (split.dataset, split.image_ids) == ("f30k", ["7", "9"])
    assert split.captions == ["a", "b", "d", "e"]
    assert isinstance(split.images, PictureFiles)
    assert split.images.picture(1)[0, 0].tolist() == [30, 30, 30]
    cut = split.select([1])
    assert isinstance(cut.images, PictureFiles)
    assert cut.images.with_transform(VitTransform(4)).read([0]).values.shape == (1, 3, 4, 4)


def test_ids_that_number_captions_do_not_tell_images_apart(tmp_path: Path) -> None:
    rows = {
        "id": list(range(6)),
        "filename": ["a.jpg"] * 3 + ["b.jpg"] * 3,
        "caption": [f"caption {k}" for k in range(6)],
    }
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "mine")
    assert open_split(tmp_path / "mine", "test").image_ids == ["a.jpg", "b.jpg"]
    assert open_split(tmp_path / "mine", "test", columns={"id": "id"}).n_images == 6


def test_one_row_per_caption_is_grouped_and_ordered(tmp_path: Path) -> None:
    rows = {
        "filename": ["b.jpg", "a.jpg", "b.jpg"],
        "sentids": [12, 3, 10],
        "sentences": ["third", "first", "second"],
        "cocoid": [5, 4, 5],
    }
    datasets.DatasetDict({"validation": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "x")
    (tmp_path / "x" / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "x" / "images" / name)
    split = open_split(tmp_path / "x", "dev")
    assert split.name == "validation"
    assert split.image_ids == ["5", "4"]
    assert split.captions == ["second", "third", "first"]
    assert split.files == [tmp_path / "x" / "images" / "b.jpg", tmp_path / "x" / "images" / "a.jpg"]


def test_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, shade in (("train-00000-of-00002", 1), ("train-00001-of-00002", 2), ("test", 3)):
        with_images({"image": [png(shade)], "text": [f"shade {shade}"]}).to_parquet(
            tmp_path / "data" / f"{name}.parquet"
        )
    assert splits_of(tmp_path) == ["train", "test"]
    split = open_split(tmp_path, "train")
    assert split.captions == ["shade 1", "shade 2"]
    assert split.image_ids == ["0", "1"]
    assert isinstance(split.images, PictureFiles)
    assert split.images.picture(1)[0, 0, 0] == 2
    assert open_split(tmp_path / "data" / "test.parquet", "test").n_images == 1


def test_columns_can_be_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"bild": ["1.jpg"], "satz": ["x"]}).save_to_disk(tmp_path / "d")
    split = open_split(tmp_path / "d", "all", columns={"image": "bild", "caption": "satz"})
    assert split.image_ids == ["1.jpg"]
    with pytest.raises(DataError, match="no caption column"):
        open_split(tmp_path / "d", "all")


def test_damage_is_named(tmp_path: Path) -> None:
    with_images({"image": [png(1, cut=True)], "caption": ["x"]}).save_to_disk(tmp_path / "cut")
    split = open_split(tmp_path / "cut", "all")
    assert isinstance(split.images, PictureFiles)
    with pytest.raises(DataError, match="row 0' is not a decodable picture"):
        split.images.picture(0)
    two = {"image": [png(1, cut=True), png(2)], "caption": ["x", "y"]}
    with_images(two).save_to_disk(tmp_path / "two")
    split = open_split(tmp_path / "two", "all", skip_broken=True)
    assert split.image_ids == ["1"]
    assert any("1 broken pictures left out: 0: " in note for note in split.notes)
    with_images({"image": [None], "caption": ["x"]}).save_to_disk(tmp_path / "none")
    split = open_split(tmp_path / "none", "all")
    assert isinstance(split.images, PictureFiles)
    with pytest.raises(DataError, match="holds no picture"):
        split.images.picture(0)
    for captions, message in (([""], "is empty"), ([[]], "row 0 has no caption")):
        datasets.Dataset.from_dict({"filename": ["1.jpg"], "caption": captions}).save_to_disk(tmp_path / message)
        with pytest.raises(DataError, match=message):
            open_split(tmp_path / message, "all")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "train.parquet").write_bytes(b"PAR1 nothing")
    for name in ("broken", "parquet"):
        with pytest.raises(DataError, match="can not be opened as a Hugging Face data set"):
            splits_of(tmp_path / name)


def test_absent_package_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_dict({"image": ["1.jpg"], "caption": ["x"]}).save_to_disk(tmp_path / "d")
    usual = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install '\.\[hub\]'"):
        open_split(tmp_path / "d", "all")


@pytest.mark.parametrize("empty", [None, "", " "])
def test_an_empty_image_cell_is_refused(tmp_path: Path, empty: str | None) -> None:
    rows = {"image": ["a.jpg", empty, empty], "caption": ["x", "y", "z"]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "x")
    with pytest.raises(DataError, match="row 1: 'image' is empty"):
        open_split(tmp_path / "x", "test")


def test_restval_counts_as_train(tmp_path: Path) -> None:
    tables = {
        name: datasets.Dataset.from_dict({"image": [f"{name}.jpg"], "caption": [name]})
        for name in ("train", "restval", "test")
    }
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for name, table in tables.items():
        table.to_parquet(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet")
    for folder in ("saved", "parquet"):
        assert splits_of(tmp_path / folder) == ["train", "test"]
        assert open_split(tmp_path / folder, "train").captions == ["train", "restval"]


def test_numbered_caption_columns(tmp_path: Path) -> None:
    rows = {"image": ["a.jpg", "b.jpg"], "caption_0": ["a 0", "b 0"], "caption_1": ["a 1", None]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "x")
    split = open_split(tmp_path / "x", "test")
    assert (split.captions, split.owner.tolist()) == (["a 0", "a 1", "b 0"], [0, 0, 1])
