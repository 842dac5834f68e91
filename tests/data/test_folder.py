from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchword.data.doctor import check_data
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


def test_the_doctor_lists_all_that_is_wrong_with_a_folder(tmp_path: Path) -> None:
    pair(tmp_path / "good.jpg", "a dog\n")
    pair(tmp_path / "bare.jpg", None)
    for k in range(7):
        pair(tmp_path / f"empty{k}.jpg", "" if k else " \n")
    pair(tmp_path / "deep" / "gap.jpg", "a\n\nb\n")
    pair(tmp_path / "literal.jpg", "b'a dog'\n")
    pair(tmp_path / "twice.jpg", "a")
    pair(tmp_path / "twice.png", "a")
    pair(tmp_path / "latin.jpg", "a")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name in ("bad0", "bad1", "empty3"):
        pair(tmp_path / f"{name}.jpg", "" if name == "empty3" else "a cat")
        (tmp_path / f"{name}.jpg").write_bytes(b"no picture")
    report = check_data(tmp_path)
    assert not report.usable
    wrong = [f"{finding.what}: {finding.found}" for finding in report.findings if finding.level == "error"]
    assert wrong[:4] == [
        "all: 7 of 14 texts are empty: 'empty0.txt', 'empty1.txt', 'empty2.txt', 'empty3.txt', 'empty4.txt' "
        "... (7 in all)",
        "all: 1 of 14 texts have empty lines: 'deep/gap.txt' line 2",
        "all: 1 of 14 texts hold Python bytes literals (b'...'): 'literal.txt' line 1",
        "all: 1 of 14 texts can not be read: 'latin.txt' line 1 is not UTF-8 (byte 0xe9). Convert the file to UTF-8",
    ]
    assert wrong[4] == "all: 1 of 14 texts belong to several pictures of the same name: 'twice.txt'"
    assert wrong[5].startswith("all: 3 pictures do not decode (all 15 tried): ")
    assert len(wrong) == 6
    assert all(finding.expected and finding.fix for finding in report.findings if finding.level == "error")


def test_the_doctor_checks_every_split_of_a_folder(tmp_path: Path) -> None:
    pair(tmp_path / "train" / "1.jpg", "")
    pair(tmp_path / "test" / "1.jpg", "a dog")
    wrong = [finding for finding in check_data(tmp_path).findings if finding.level == "error"]
    assert [(finding.what, finding.found) for finding in wrong] == [("train", "1 of 1 texts are empty: '1.txt'")]
    pair(tmp_path / "train" / "1.jpg", "a cat")
    assert check_data(tmp_path).usable
