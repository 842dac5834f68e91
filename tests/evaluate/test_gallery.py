"""Ids of rows and columns: where they come from, and that a wrong order is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import write_lines

import patchword.evaluate.gallery as gallery_module
from patchword.errors import DataError, ScoreError
from patchword.evaluate.gallery import Gallery, find_caption_ids, make_gallery, read_caption_ids

OWNER = np.array([0, 0, 1, 1])
IMAGE_OF = {"10": "1", "11": "1", "20": "2", "21": "2"}
IMAGES = ["COCO_val2014_000000000001.jpg", "2"]


@pytest.fixture(autouse=True)
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ``eccv_caption`` were not installed."""
    monkeypatch.setattr(gallery_module, "eccv_folder", lambda: None)


def made(captions: list[str], images: list[str] | None = IMAGES) -> Gallery:
    return make_gallery(OWNER, 2, image_ids=images, caption_ids=captions, image_of=IMAGE_OF)


def test_ids_are_spelled_alike_and_checked() -> None:
    found = made(["10", "11", "20", "x:sentid:21"])
    assert found.image_ids == ("1", "2")
    assert found.caption_ids == ("10", "11", "20", "21")
    assert "the images of 4 of 4 captions agree" in found.notes[0]
    assert made(["10", "11", "20", "21"], None).image_ids == ("1", "2")  # from the captions


@pytest.mark.parametrize(
    ("captions", "images", "message"),
    [
        (["10", "20", "11", "21"], IMAGES, "Caption 1 has the id 20, which is a caption of image 2, but belongs"),
        (["10", "11", "20"], IMAGES, "3 caption ids for 4 captions"),
        (["10", "10", "20", "21"], IMAGES, "caption id '10' occurs more than once"),
        (["a", "b", "c", "d"], IMAGES, "None of the 4 caption ids"),
        (["10", "11", "c", "d"], None, "the captions of 1 rows"),
        (["10", "11", "20", "21"], ["1", "1"], "image id '1' occurs more than once"),
    ],
)
def test_contradictions_are_named(captions: list[str], images: list[str] | None, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        made(captions, images)


def test_files_of_caption_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([10, 11, 20, 21]))
    write_lines(tmp_path / "a.txt", ["10", "x:sentid:11", "20", "21"])
    karpathy = {
        "images": [
            {"split": "train", "sentids": [5, 6]},
            {"split": "test", "sentids": [10, 11, 12]},
            {"split": "test", "sentids": [20, 21]},
        ]
    }
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy), encoding="utf-8")
    for name in ("a.npy", "a.txt", "dataset_coco.json"):
        assert read_caption_ids(tmp_path / name, OWNER, 2, "testall") == ["10", "11", "20", "21"], name
    with pytest.raises(DataError, match=r"has 2 images of the split 'test'\. Expected 3"):
        read_caption_ids(tmp_path / "dataset_coco.json", OWNER, 3, "test")
    with pytest.raises(DataError, match="is not a file"):
        read_caption_ids(tmp_path / "gone.npy", OWNER, 2)
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match="Expected one number a caption"):
        read_caption_ids(tmp_path / "b.npy", OWNER, 2)


def test_files_beside_the_annotations_are_found_and_may_be_longer(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"No ids of the 4 captions were found\. Pass --caption-ids FILE"):
        find_caption_ids(4, tmp_path)
    np.save(tmp_path / "coco_test_ids.npy", np.array([10, 11, 20, 21, 30]))
    assert find_caption_ids(4, tmp_path).name == "coco_test_ids.npy"
    found = make_gallery(OWNER, 2, image_ids=IMAGES, caption_ids=None, image_of=IMAGE_OF, folder=tmp_path)
    assert "the first 4 of 5 caption ids of 'coco_test_ids.npy'" in found.notes[0]
    with pytest.raises(ScoreError, match="5 caption ids for 4 captions"):  # without image ids nothing would check it
        make_gallery(OWNER, 2, image_ids=None, caption_ids=None, image_of=IMAGE_OF, folder=tmp_path)
    write_lines(tmp_path / "mine_capids.txt", ["10", "11", "20", "21"])
    assert find_caption_ids(4, tmp_path, "mine").name == "mine_capids.txt"
    with pytest.raises(ScoreError, match="No ids"):
        find_caption_ids(6, tmp_path)


def test_annotations_without_pairs_are_not_checked_and_say_so() -> None:
    found = make_gallery(OWNER, 2, image_ids=IMAGES, caption_ids=["1", "2", "3", "4"], image_of={})
    assert "not checked" in found.notes[0]
    with pytest.raises(ScoreError, match="Neither the scores nor the annotations name the images"):
        make_gallery(OWNER, 2, image_ids=None, caption_ids=["1", "2", "3", "4"], image_of={})
