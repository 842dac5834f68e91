import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchword.data.karpathy import find
from patchword.data.open import open_split, splits_of
from patchword.data.pictures import PictureFiles
from patchword.errors import DataError


def image(number: int, split: str, captions: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "imgid": number,
        "filename": f"{number}.jpg",
        "split": split,
        "sentids": list(range(captions)),
        "sentences": [{"raw": f" Hund {number} ö {k} . ", "tokens": ["hund"], "sentid": k} for k in range(captions)],
        **more,
    }


def write(path: Path, images: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": "x", "images": images}), encoding="utf-8")
    return path


def coco(number: int, split: str, captions: int = 5) -> dict[str, Any]:
    name = f"COCO_val2014_{number:012d}.jpg"
    return image(number + 1000, split, captions, cocoid=number, filepath="val2014") | {"filename": name}


def test_coco_train_includes_restval_and_sixth_captions(tmp_path: Path) -> None:
    write(tmp_path / "dataset_coco.json", [coco(9, "train"), coco(4, "restval", 6), coco(7, "val"), coco(1, "test", 7)])
    assert splits_of(tmp_path) == ["train", "val", "test"]
    train = open_split(tmp_path, "train")
    assert train.image_ids == ["9", "4"]
    assert train.captions_per_image() == {5: 1, 6: 1}
    assert train.captions[0] == "Hund 1009 ö 0 ."
    assert any("1 of 2 images are restval" in note for note in train.notes)
    cut = open_split(tmp_path, "train", captions_per_image=5)
    assert cut.captions_per_image() == {5: 2}
    assert cut.captions[5:] == [f"Hund 1004 ö {k} ." for k in range(5)]
    dev = open_split(tmp_path, "dev")
    assert dev.name == "val"
    assert "split 'val' was read for 'dev'" in dev.notes


def test_flickr_ids_are_scans(tmp_path: Path) -> None:
    path = write(tmp_path / "f30k" / "dataset_flickr30k.json", [image(67, "test"), image(3, "test")])
    assert find(tmp_path, "f30k") == path
    split = open_split(path, "test")
    assert (split.dataset, split.image_ids, split.files) == ("f30k", ["67", "3"], None)


def test_pictures_are_found(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "dataset_coco.json", [coco(9, "test")])
    path = tmp_path / "images" / "val2014" / "COCO_val2014_000000000009.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    split = open_split(tmp_path, "test")
    assert split.files == [path]
    assert isinstance(split.images, PictureFiles)


def test_tokens_stand_in_for_raw(tmp_path: Path) -> None:
    entry = image(1, "test", 1)
    entry["sentences"] = [{"tokens": ["a", "dog"]}]
    assert open_split(write(tmp_path / "dataset.json", [entry]), "test").captions == ["a dog"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": []}, "has no sentences"),
        ({"sentences": 5}, "Expected a JSON list"),
        ({"sentences": [{"raw": "  "}]}, "is empty"),
        ({"sentences": [{"raw": "b'x y'"}]}, "bytes literal"),
        ({"filename": ""}, "'filename' is ''"),
        ({"split": None}, "'split' is None"),
        ({"imgid": 2}, "image '2' is listed twice"),
    ],
)
def test_damaged_entries_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "dataset_x.json", [image(2, "test", 1), image(1, "test", 1) | change])
    with pytest.raises(DataError, match=message):
        open_split(path, "test")


def test_other_json_is_refused(tmp_path: Path) -> None:
    for content, message in [("[]", "Expected a JSON object"), ("{}", "no field 'images'"), ("{", "not valid JSON")]:
        (tmp_path / "dataset_x.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            splits_of(tmp_path)
    (tmp_path / "dataset_x.json").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(DataError, match="Git LFS pointer"):
        splits_of(tmp_path)


def test_several_files_need_a_name(tmp_path: Path) -> None:
    write(tmp_path / "dataset_coco.json", [coco(9, "test")])
    write(tmp_path / "dataset_flickr8k.json", [image(9, "test")])
    assert find(tmp_path, "coco") == tmp_path / "dataset_coco.json"
    with pytest.raises(DataError, match=r"several data sets: dataset_coco\.json, dataset_flickr8k\.json"):
        find(tmp_path)


def test_lists_per_split(tmp_path: Path) -> None:
    test = [{"image": "val2014/COCO_val2014_000000000009.jpg", "caption": [f"c {k}" for k in range(6)]}]
    train = [
        {"image": "val2014/COCO_val2014_000000000001.jpg", "caption": "one", "image_id": "coco_1"},
        {"image": "val2014/COCO_val2014_000000000001.jpg", "caption": "two", "image_id": "coco_1"},
    ]
    (tmp_path / "coco_karpathy_test.json.gz").write_bytes(gzip.compress(json.dumps(test).encode()))
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps(train), encoding="utf-8")
    assert splits_of(tmp_path) == ["train", "test"]
    assert open_split(tmp_path, "train").captions_per_image() == {2: 1}
    split = open_split(tmp_path, "test", captions_per_image=5)
    assert (split.image_ids, split.n_captions) == (["9"], 5)
    assert open_split(tmp_path / "coco_karpathy_test.json.gz", "test").n_captions == 6
    with pytest.raises(DataError, match=r"no split 'val'\. Splits found: train, test"):
        open_split(tmp_path, "val")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"image": "a.jpg", "caption": []}], "image 'a' has no captions"),
        ([{"image": "a.jpg", "caption": [""]}], "is empty"),
        ([{"image": "x/7.jpg", "caption": ["b"]}, {"image": "y/7.jpg", "caption": ["b"]}], "'y/7.jpg' here"),
        ([{"caption": ["b"]}], "no field 'image'"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, entries: list[dict[str, Any]], message: str) -> None:
    (tmp_path / "x_karpathy_test.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "test")


def test_lists_of_several_data_sets_need_a_name(tmp_path: Path) -> None:
    for file, caption in (("coco_karpathy_test", "of coco"), ("flickr30k_test", "of f30k"), ("flickr30k_val", "dev")):
        (tmp_path / f"{file}.json").write_text(json.dumps([{"image": "1.jpg", "caption": [caption]}]), encoding="utf-8")
    for name, caption in (("f30k", "of f30k"), ("flickr30k", "of f30k"), ("coco", "of coco")):
        assert open_split(tmp_path, "test", name=name).captions == [caption]
    assert splits_of(tmp_path, name="coco") == ["test"]
    assert splits_of(tmp_path, name="f30k") == ["val", "test"]
    with pytest.raises(DataError, match=r"several data sets: coco_karpathy_\*\.json, flickr30k_\*\.json"):
        open_split(tmp_path, "test")
    (tmp_path / "coco_karpathy_test.json").unlink()
    assert open_split(tmp_path, "test").captions == ["of f30k"]
    assert open_split(tmp_path, "test", name=tmp_path.name).captions == ["of f30k"]  # the folder is called so
    with pytest.raises(DataError, match="called 'coco'"):
        open_split(tmp_path, "test", name="coco")


def test_a_list_keeps_pictures_with_their_captions(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "AB":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    rows = [{"image": f"{name}.jpg", "caption": texts} for name, texts in (("A", []), ("B", ["b"]), ("A", ["a"]))]
    (tmp_path / "x_karpathy_test.json").write_text(json.dumps(rows), encoding="utf-8")
    split = open_split(tmp_path, "test")
    assert (split.image_ids, split.captions) == (["B", "A"], ["b", "a"])
    assert split.files == [tmp_path / "images" / "B.jpg", tmp_path / "images" / "A.jpg"]
