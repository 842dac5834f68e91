from pathlib import Path

import pytest

from patchword.data.find_pictures import expected_files, index_pictures, pictures_of_ids
from patchword.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_ids_and_names_find_their_picture(tmp_path: Path) -> None:
    images = tmp_path / "images"
    touch(
        images / "val2014" / "COCO_val2014_000000000042.jpg",
        images / "train2014" / "COCO_train2014_000000000007.jpg",
        images / "ein bild ü.JPEG",
        images / "0012.png",
        images / "scan.jfif",
        images / "old.JPE",
        images / "notes.txt",
    )
    index = index_pictures([images])
    assert index.resolve("42") == images / "val2014" / "COCO_val2014_000000000042.jpg"
    assert index.resolve("val2014\\COCO_val2014_000000000042.jpg") == index.resolve("42")
    assert index.resolve("images/train2014/COCO_train2014_000000000007.jpg") == index.resolve("7")
    assert index.resolve("ein bild ü") == images / "ein bild ü.JPEG"
    assert index.resolve("0012") == index.resolve("12") == images / "0012.png"
    assert index.resolve("scan") == images / "scan.jfif"
    assert index.resolve("old") == images / "old.JPE"
    assert index.resolve("notes") is None


def test_exact_names_win_over_equal_numbers(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "7.png", tmp_path / "images" / "07.png")
    index = index_pictures([tmp_path / "images"])
    assert index.resolve("07") == tmp_path / "images" / "07.png"
    assert index.resolve("7") == tmp_path / "images" / "7.png"


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg")
    files, note = expected_files(["a.jpg", "b.jpg"], [tmp_path / "images"])
    assert files == [tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg"]
    assert note == "1 of 2 pictures are missing"
    assert expected_files(["b.jpg"], [tmp_path / "images"])[0] is None
    assert "no picture folder is near" in expected_files(["b.jpg"], [])[1]


def test_mapping_leads_to_the_picture(tmp_path: Path) -> None:
    place = tmp_path / "f30k" / "precomp"
    place.mkdir(parents=True)
    touch(tmp_path / "f30k" / "flickr30k-images" / "1000092795.jpg")
    mapping = tmp_path / "f30k" / "id_mapping.json"
    mapping.write_text('{"0": "1000092795.jpg"}', encoding="utf-8")
    assert pictures_of_ids(place, ["0"]) == ([tmp_path / "f30k" / "flickr30k-images" / "1000092795.jpg"], "")
    with pytest.raises(DataError, match="no entry for 1 of 2 images, first '5'"):
        pictures_of_ids(place, ["0", "5"])
    for wrong in ("[1]", '{"0": 5}'):
        mapping.write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match="not an object of file names"):
            pictures_of_ids(place, ["0"])


def test_a_missing_picture_is_not_another_one_of_its_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    touch(images / "a" / "1.jpg")
    files, note = expected_files(["images/a/1.jpg", "images/b/1.jpg"], [images])
    assert files is not None
    assert files[0] == images / "a" / "1.jpg"
    assert files[1] != files[0]
    assert note == "1 of 2 pictures are missing"
    assert expected_files(["elsewhere/1.jpg"], [images]) == ([images / "a" / "1.jpg"], "")  # the one there is
    touch(images / "c" / "1.jpg", images / "2.jpg")
    files, note = expected_files(["images/b/1.jpg", "2.jpg"], [images])
    assert files is not None
    assert files[1] == images / "2.jpg"
    assert not files[0].is_file()
