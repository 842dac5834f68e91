from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchword.data.open import open_split, splits_of
from patchword.errors import DataError


def pair(path: Path, captions: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    if captions is not None:
        path.with_suffix(".txt").write_text(captions, encoding="utf-8")


def test_pictures_with_texts(tmp_path: Path) -> None:
    pair(tmp_path / "my photos" / "zwölf.jpg", "one\ntwo\n")
    pair(tmp_path / "my photos" / "deep" / "a b.png", "three")
    pair(tmp_path / "my photos" / "bare.jpg", None)
    split = open_split(tmp_path / "my photos", "all")
    assert split.image_ids == ["deep/a b.png", "zwölf.jpg"]
    assert split.captions == ["three", "one", "two"]
    assert split.owner.tolist() == [0, 1, 1]
    assert split.notes == ("1 pictures without a .txt left out",)
    assert split.images is not None


def test_sub_folders_are_splits(tmp_path: Path) -> None:
    for name in ("train", "val"):
        pair(tmp_path / name / "1.jpg", f"in {name}\n")
    (tmp_path / "test").mkdir()
    assert splits_of(tmp_path) == ["train", "val"]
    assert open_split(tmp_path, "dev").captions == ["in val"]


@pytest.mark.parametrize(
    ("captions", "message"), [("", "is empty. Expected the captions"), ("a\n\nb\n", "line 2 is empty")]
)
def test_empty_texts_are_refused(tmp_path: Path, captions: str, message: str) -> None:
    pair(tmp_path / "1.jpg", captions)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "all")


def test_two_pictures_can_not_share_a_text(tmp_path: Path) -> None:
    pair(tmp_path / "1.jpg", "a")
    pair(tmp_path / "1.png", "a")
    with pytest.raises(DataError, match="belongs to two pictures"):
        open_split(tmp_path, "all")
