"""A browser, and real services over small indexes of drawn pictures.

``PATCHWORD_SCREENSHOTS=docs/images pytest tests/page`` also writes the pictures of docs/page.md, with a model that is
trained for longer; without it nothing is written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from page_visits import ALBUM, BROKEN, GONE, HOSTILE, Pages, Serving, Visit, chromium, served, visiting
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from patchword.data.scenes import members, write_scenes
from patchword.index import add_captions, build
from patchword.train.run import train

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=15_000)  # a busy machine needs longer than the five seconds that are usual
SCREENSHOTS = os.environ.get("PATCHWORD_SCREENSHOTS")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS, headless=True)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pages(browser: Browser) -> Pages:
    """What visits take their pages from."""
    return Pages(browser)


# ---------------------------------------------------------------- data, models, indexes


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of everything."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def scenes(place: Path) -> Path:
    """Drawn pictures, their regions with boxes, and captions."""
    train_size = 900 if SCREENSHOTS else 120
    return write_scenes(place / "scenes", train=train_size, dev=20, test=ALBUM)


@pytest.fixture(scope="session")
def album_index(place: Path, scenes: Path) -> Path:
    """An index of pictures whose regions are known, with captions and two columns."""
    quick = {"data": {"root": str(scenes)}, "train": {"epochs": 6 if SCREENSHOTS else 3, "seed": 0}}
    train("chan_scenes", place / "chan", overrides=quick)
    album = place / "album"
    album.mkdir()
    rows, captions = [], []
    for k, member in enumerate(islice(members(0, "test"), ALBUM)):
        name = f"{member.image_id}.png"
        shutil.copy(scenes / "images" / name, album / name)
        rows.append({"path": name, "things": len(member.scene.things), "tag": ("sea", "o'clock", "50%")[k % 3]})
        captions.append({"image": name, "captions": [caption.text for caption in member.captions]})
    columns = place / "columns.jsonl"
    columns.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    told = place / "captions.jsonl"
    told.write_text("".join(f"{json.dumps(row)}\n" for row in captions), encoding="utf-8")
    build(album, place / "album.index", model=place / "chan", features=scenes, columns=columns)
    add_captions(place / "album.index", told)
    return place / "album.index"


@pytest.fixture(scope="session")
def pixel_model(place: Path, scenes: Path) -> Path:
    """A model that reads pictures, hardly trained."""
    vit = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit |= {"patch_size": 16, "image_size": 64}
    changes: dict[str, Any] = {
        "data": {"root": str(scenes), "min_word_count": 1},
        "model": {"joint_dim": 32, "image": {"kind": "vit", "arch": vit}},
        "train": {"epochs": 1, "batch_size": 50, "seed": 0, "warmup_steps": 0, "lr_steps": []},
    }
    train("chan_photos_vit_bigru", place / "vit", overrides=changes)
    return place / "vit"


@pytest.fixture(scope="session")
def photos(place: Path, scenes: Path) -> Path:
    """Picture files as they come: several shapes, dates, a hostile name, one that is broken later and one that goes."""
    folder = place / "photos"
    folder.mkdir()
    for k, path in enumerate(sorted((scenes / "images").glob("test_*.png"))[:15]):
        picture = Image.open(path).convert("RGB").crop([(0, 0, 160, 160), (0, 20, 160, 120), (30, 0, 130, 160)][k % 3])
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:{k + 1:02d} 10:00:00"  # DateTimeOriginal
        picture.save(folder / f"photo_{k:02d}.jpg", quality=90, exif=exif)
    for name, path in zip((HOSTILE, GONE, BROKEN), sorted((scenes / "images").glob("dev_*.png")), strict=False):
        shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="session")
def photo_index(place: Path, photos: Path, pixel_model: Path) -> Path:
    """An index over a model that reads pictures; afterwards a file goes and another one is broken."""
    build(photos, place / "photos.index", model=pixel_model)
    (photos / GONE).unlink()
    (photos / BROKEN).write_bytes(b"no picture any more")
    return place / "photos.index"


@pytest.fixture(scope="session")
def empty_index(place: Path, pixel_model: Path) -> Path:
    """An index of a folder without a picture."""
    (place / "nothing").mkdir()
    build(place / "nothing", place / "empty.index", model=pixel_model)
    return place / "empty.index"


# ----------------------------------------------------------------


@pytest.fixture(scope="session")
def album(album_index: Path) -> Iterator[str]:
    """Address of the service with regions and captions."""
    with served(album_index) as serving:
        yield serving.address


@pytest.fixture(scope="session")
def photo_serving(photo_index: Path) -> Iterator[Serving]:
    """The service over a model that reads pictures."""
    with served(photo_index) as serving:
        yield serving


@pytest.fixture(scope="session")
def photo_service(photo_serving: Serving) -> str:
    """Address of the service over a model that reads pictures."""
    return photo_serving.address


# ---------------------------------------------------------------- visits


@pytest.fixture
def visit(pages: Pages) -> Iterator[Visit]:
    """Pages of one test."""
    with visiting(pages) as found:
        yield found


@pytest.fixture(scope="session")
def screenshot() -> Callable[[Page, str], None]:
    """Write a picture of the docs, when the run was asked to: with few colours, so that it is small."""

    def take(page: Page, name: str) -> None:
        if not SCREENSHOTS:
            return
        path = Path(SCREENSHOTS) / f"page_{name}.png"
        page.wait_for_timeout(600)  # pictures fade in
        page.screenshot(path=path)
        with Image.open(path) as taken:
            small = taken.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        assert path.stat().st_size < 150_000

    return take
