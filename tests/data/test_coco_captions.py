import json
from pathlib import Path
from typing import Any

import pytest

from patchword.data.open import open_split, splits_of
from patchword.errors import DataError


def write(root: Path, split: str, images: list[Any], annotations: list[Any]) -> Path:
    path = root / "annotations" / f"captions_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path


IMAGES = [
    {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
    {"id": 4, "file_name": "COCO_val2014_000000000004.jpg"},
]
CAPTIONS = [
    {"id": 30, "image_id": 4, "caption": "third\n"},
    {"id": 7, "image_id": 9, "caption": " only one "},
    {"id": 10, "image_id": 4, "caption": "first"},
    {"id": 9, "image_id": 4, "caption": "zeroth, ß"},
]


def test_captions_are_ordered_by_annotation(tmp_path: Path) -> None:
    write(tmp_path, "val2014", IMAGES, CAPTIONS)
    split = open_split(tmp_path, "val2014")
    assert split.image_ids == ["9", "4"]
    assert split.captions == ["only one", "zeroth, ß", "first", "third"]
    assert split.owner.tolist() == [0, 1, 1, 1]


def test_one_val_file_stands_for_val_and_dev_but_not_for_test(tmp_path: Path) -> None:
    write(tmp_path, "val2017", IMAGES, CAPTIONS)
    write(tmp_path, "train2017", IMAGES, CAPTIONS)
    assert splits_of(tmp_path) == ["train2017", "val2017"]
    assert open_split(tmp_path, "dev").name == "val2017"
    assert open_split(tmp_path, "train").name == "train2017"
    with pytest.raises(DataError, match="no split 'test'"):
        open_split(tmp_path, "test")
    write(tmp_path, "val2014", IMAGES, CAPTIONS)
    with pytest.raises(DataError, match="Splits found: train2017, val2014, val2017"):
        open_split(tmp_path, "val")


def test_images_without_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "val2014", IMAGES, CAPTIONS[1:2])
    split = open_split(path, "val2014")
    assert split.image_ids == ["9"]
    assert "1 images without a caption left out" in split.notes


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (IMAGES, [{"id": 1, "image_id": 5, "caption": "x"}], "image '5', which is not among the 2 images"),
        (IMAGES, [{"id": 1, "image_id": 4, "caption": " "}], "is empty"),
        (IMAGES, [{"id": 1, "image_id": 4}], "no field 'caption'"),
        (IMAGES, [{"id": "x", "image_id": 4, "caption": "x"}], "Expected a whole number"),
        (IMAGES, [], "has no captions"),
        (IMAGES + IMAGES[:1], CAPTIONS, "image '9' is listed twice"),
        ([5], CAPTIONS, "Expected a JSON object"),
    ],
)
def test_damage_is_named(tmp_path: Path, images: list[Any], annotations: list[Any], message: str) -> None:
    write(tmp_path, "val2014", images, annotations)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "val2014")
