"""Files that are broken, huge, misnamed or not what they seem: listed with the reason, and the run goes on."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_toys import age, save_picture, save_pictures

from patchword.errors import DataError
from patchword.index import Catalog, add, build, info, open_snapshot, sync, verify
from patchword.index.results import Changes
from patchword.model import Model


def png_bomb(side: int = 50_000) -> bytes:
    """A small PNG file that claims side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((side // 8 + 1) * 10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


HOSTILE: dict[bytes, tuple[bytes, str]] = {
    b"zero.jpg": (b"", "empty (0 bytes)"),
    b"cut.jpg": (jpeg()[:1500], "damaged picture"),
    b"text.png": (b"hello", "not a decodable picture (5 bytes)"),
    b"vector.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", ".svg files are not"),
    b"vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "not a decodable picture"),
    b"script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", "not a decodable picture"),
    b"page.gif": (b"<html><img src=x onerror=alert(1)></html>", "not a decodable picture"),
    b"bomb.png": (png_bomb(), "too large to be decoded"),
    b"pointer.jpg": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "Git LFS pointer of 64 bytes",
    ),
    b"bad\xff\xfename.jpg": (jpeg(), "not valid UTF-8"),
    b"phone.heic": (b"\0\0\0\x18ftypheic", ".heic files are not decoded"),
    b"noise.webp": (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 50, ""),
    b"half.tif": (b"II*\0" + b"\xff" * 40, ""),
}
GOOD: dict[bytes, bytes] = {
    "日本 ü.jpg".encode(): jpeg(),
    b"new\nline.jpg": jpeg(),
    b"quote'\"; drop table items;--.JPEG": jpeg(),
    b"polyglot.jpg": jpeg() + b"PK\x03\x04<script>alert(1)</script>",  # a good picture; served as pixels only
    b"jpeg_inside.png": jpeg(),
}


def sums(changes: Changes) -> bool:
    return changes.found == changes.indexed + changes.moved + changes.unchanged + changes.skipped


def reasons(index: Path) -> dict[str, str]:
    lines = (index / "skipped.jsonl").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    assert all(set(record) == {"path", "reason"} for record in records)
    return {record["path"]: record["reason"] for record in records}


def test_hostile_files_are_listed_and_the_others_indexed(model: Model, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, raw in [*((name, raw) for name, (raw, _) in HOSTILE.items()), *GOOD.items()]:
        Path(os.fsdecode(os.fsencode(pictures) + b"/" + name)).write_bytes(raw)
    (pictures / "notes.txt").write_text("no picture", encoding="utf-8")
    (pictures / ".hidden.jpg").write_bytes(jpeg())
    changes = build(pictures, tmp_path / "i", model=model)
    assert (changes.indexed, changes.skipped, changes.ignored) == (len(GOOD), len(HOSTILE), 2)
    assert sums(changes)
    found = reasons(tmp_path / "i")
    assert set(found) == {name.decode("utf-8", "backslashreplace") for name in HOSTILE}
    for name, (_, says) in HOSTILE.items():
        assert says in found[name.decode("utf-8", "backslashreplace")]
    with Catalog(tmp_path / "i") as catalog:
        assert {item.path.encode() for item in catalog.items(catalog.where("id > 0"))} == set(GOOD)
    assert verify(tmp_path / "i").is_clean
    again = sync(tmp_path / "i", model=model)
    assert (again.unchanged, again.skipped, again.indexed) == (len(GOOD), len(HOSTILE), 0)
    assert info(tmp_path / "i").skipped == len(HOSTILE)


def test_a_repaired_file_is_indexed_and_a_broken_one_goes(model: Model, tmp_path: Path) -> None:
    one, two = save_picture(tmp_path / "p" / "one.png", 1), tmp_path / "p" / "two.png"
    two.write_bytes(b"broken")
    build(tmp_path / "p", tmp_path / "i", model=model)
    save_picture(two, 2)
    age(one).write_bytes(b"broken as well")
    changes = sync(tmp_path / "i", model=model)
    assert (changes.indexed, changes.skipped, changes.removed, changes.images) == (1, 1, 1, 1)
    assert list(reasons(tmp_path / "i")) == ["one.png"]
    assert verify(tmp_path / "i").is_clean


def test_links_are_listed_and_followed_only_when_asked(model: Model, tmp_path: Path) -> None:
    pictures, outside = save_pictures(tmp_path / "p", 2), save_pictures(tmp_path / "outside", 3, first=50)
    (pictures / "away").symlink_to(outside)
    (pictures / "round").symlink_to(pictures)
    (pictures / "link.png").symlink_to(outside / "b/c/p050.png")
    (pictures / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (pictures / "passwd.png").symlink_to("/etc/passwd")
    (pictures / "self.png").symlink_to("self.png")
    (pictures / "self").symlink_to("self")
    (pictures / "notes").symlink_to("/etc/passwd")
    changes = build(pictures, tmp_path / "i", model=model)
    assert (changes.indexed, changes.skipped, changes.ignored) == (2, 6, 2)
    assert set(reasons(tmp_path / "i")) == {"away", "round", "link.png", "dangling.png", "passwd.png", "self.png"}
    assert all("symbolic link" in reason for reason in reasons(tmp_path / "i").values())
    followed = build(pictures, tmp_path / "j", model=model, follow_links=True)
    assert (followed.indexed, followed.skipped) == (2 + 3 + 1, 3)
    assert "not a decodable picture" in reasons(tmp_path / "j")["passwd.png"]


def test_what_is_no_file_is_never_opened(model: Model, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 1)
    os.mkfifo(pictures / "pipe.jpg")  # opening it would wait for ever
    (pictures / "folder.jpg").mkdir()
    changes = build(pictures, tmp_path / "i", model=model)
    assert (changes.indexed, changes.skipped) == (1, 1)
    assert reasons(tmp_path / "i") == {"pipe.jpg": "not a regular file"}


def test_a_folder_that_can_not_be_read_keeps_its_items(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = save_pictures(tmp_path / "p", 4)
    build(pictures, tmp_path / "i", model=model)
    look = os.scandir

    def refuse(path: str | Path) -> object:  # what the system says to everybody but root
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return look(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        changes = sync(tmp_path / "i", model=model)
    assert (changes.unseen, changes.removed, changes.images) == (1, 0, 4)
    assert reasons(tmp_path / "i") == {"a": "the folder can not be read: Permission denied"}
    assert (sync(tmp_path / "i", model=model).unchanged, reasons(tmp_path / "i")) == (4, {})


def test_a_folder_that_suddenly_is_empty_is_not_believed(model: Model, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 3)
    build(pictures, tmp_path / "i", model=model)
    away = pictures.rename(tmp_path / "away")
    with pytest.raises(DataError, match="the folder of 3 indexed images, is missing"):
        sync(tmp_path / "i", model=model)
    pictures.mkdir()
    with pytest.raises(DataError, match="has no picture any more; 3 are indexed"):
        sync(tmp_path / "i", model=model)
    assert len(open_snapshot(tmp_path / "i")) == 3
    pictures.rmdir()
    moved = sync(tmp_path / "i", away, model=model)  # the only folder has another name now
    assert (moved.unchanged, moved.indexed) == (3, 0)
    assert sync(tmp_path / "i", model=model).unchanged == 3
    away.rename(pictures)
    pictures.mkdir(exist_ok=True)
    sync(tmp_path / "i", pictures, model=model)
    for path in pictures.rglob("*.png"):
        path.unlink()
    assert sync(tmp_path / "i", model=model, allow_empty=True).removed == 3


def test_an_index_inside_its_own_folder_is_not_indexed(model: Model, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 2)
    build(pictures, pictures / "my.index", model=model)
    save_picture(pictures / "my.index" / "odd.png", 9)
    assert sync(pictures / "my.index", model=model).found == 2


def test_files_that_are_no_pictures_are_refused_by_name(model: Model, tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "p", 1)
    build(pictures, tmp_path / "i", model=model)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"no picture: its name ends in '\.txt'"):
        add(tmp_path / "i", [tmp_path / "notes.txt"], model=model)
    with pytest.raises(DataError, match="is missing"):
        add(tmp_path / "i", [tmp_path / "absent.png"], model=model)
