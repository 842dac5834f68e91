import gzip
from pathlib import Path

import pytest

from patchword.data.text_files import canonical_id, in_split_order, read_captions, read_json, read_lines, strip_suffix
from patchword.errors import DataError


def test_lines_end_at_lf_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still one\r\ntwo \x0b two\x85\n  three\t\nlast".encode())
    assert read_lines(path) == ["one\u2028still one", "two \x0b two\x85", "three", "last"]


def test_last_line_feed_is_optional(tmp_path: Path) -> None:
    for content in (b"a\nb", b"a\nb\n", b"a\r\nb\r\n"):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_lines(tmp_path / "a.txt") == ["a", "b"]


def test_gzip_is_unpacked_and_damage_is_named(tmp_path: Path) -> None:
    packed = gzip.compress("köln\nb\n".encode())
    (tmp_path / "a.txt.gz").write_bytes(packed)
    assert read_lines(tmp_path / "a.txt.gz") == ["köln", "b"]
    (tmp_path / "b.txt.gz").write_bytes(packed[:-6])
    with pytest.raises(DataError, match="damaged gzip file"):
        read_lines(tmp_path / "b.txt.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\n\nafter\n", "line 2 is empty"),
        (b"good\n   \t\r\nafter\n", "line 2 is empty"),
        (b"good\nb'A dog .'\n", "line 2 is a Python bytes literal"),
        (b'good\nfine\nb"A dog\'s ."\n', "line 3 is a Python bytes literal"),
        (b"good\n\xff\xfe bad\n", "line 2 is not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
    ],
)
def test_bad_captions_are_refused_with_their_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "caps.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "caps.txt")


def test_long_caption_is_read(tmp_path: Path) -> None:
    (tmp_path / "caps.txt").write_text("word " * 600 + "\n", encoding="utf-8")
    assert len(read_captions(tmp_path / "caps.txt")[0].split()) == 600


def test_missing_file_names_the_doctor(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is missing\. Check the folder with: patchword doctor data"):
        read_lines(tmp_path / "no.txt")
    with pytest.raises(DataError, match="can not be read"):
        read_lines(tmp_path)


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": [1, 2', encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_ids_are_compared_in_one_spelling() -> None:
    names = (
        "COCO_val2014_000000000009.jpg",
        "val2014/COCO_val2014_000000000009.jpg",
        "000000000009.JPG",
        "9",
        "a\\9.png",
    )
    assert {canonical_id(name) for name in names} == {"9"}
    assert canonical_id("0") == "0"
    assert canonical_id("a dog.jpg.1") == "a dog.jpg.1"
    assert strip_suffix("x.y.JPEG") == "x.y"
    assert strip_suffix("x.y") == "x.y"


def test_split_order() -> None:
    assert in_split_order({"zebra", "test", "val", "train", "alpha"}) == ["train", "val", "test", "alpha", "zebra"]
