"""The picture files behind the index: opened by id only, and only inside the indexed folder."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import anyio
from PIL import Image

from patchword.data.pictures import upright_rgb
from patchword.store.catalog import Item
from patchword.web.refusals import Refusal
from patchword.web.uploads import DAMAGE, open_picture

# Formats that browsers show; anything else is sent as JPEG. The type is that of the bytes, not of the file's name.
SHOWN = {
    "JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif",
    "BMP": "image/bmp",
}  # fmt: skip
_CHUNK = 256 * 1024
_QUALITY = 90


@dataclass(frozen=True)
class Original:
    """An open picture file.

    Attributes:
        id: of the image.
        file: open for reading, at its beginning.
        size: bytes.
        tag: changes whenever the file does.
    """

    id: int
    file: io.BufferedReader
    size: int
    tag: str


def open_original(item: Item, path: Path | None) -> Original:
    """Open the picture of an item.

    Args:
        item: of the index.
        path: its file, as the index gives it; None when it is gone.

    Raises:
        Refusal: 410, the file is gone, is no regular file, or lies outside the folder that was indexed.
    """
    if not item.has_picture:
        raise Refusal(410, f"image {item.id} has no picture file: the index was made of features.")
    if path is None:
        raise _gone(item.id)
    try:
        place, root = path.resolve(strict=True), Path(item.root).resolve(strict=True)
        if not place.is_relative_to(root):
            raise Refusal(410, f"the picture of image {item.id} lies outside the indexed folder.")
        # A pipe would block and a link put there since would lead elsewhere.
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, RuntimeError, ValueError):
        raise _gone(item.id) from None
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise _gone(item.id)
    tag = sha256(f"{about.st_ino} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:20]
    return Original(item.id, os.fdopen(handle, "rb"), about.st_size, tag)


def media_type(original: Original, max_pixels: int) -> str | None:
    """The type under which the bytes can be shown as they are; None when they have to be encoded anew.

    Raises:
        Refusal: 410, they are no picture any more.
    """
    with _judged(original, max_pixels) as image:
        found = SHOWN.get(image.format or "")
    original.file.seek(0)
    return found


def to_jpeg(original: Original, max_pixels: int, *, side: int | None = None, quality: int = _QUALITY) -> bytes:
    """The picture as JPEG, upright.

    Args:
        original: open.
        max_pixels: larger pictures are refused.
        side: make it fit into a square of this side; None keeps its size.
        quality: of JPEG.

    Raises:
        Refusal: 410, it is damaged or no picture any more.
    """
    try:
        with _judged(original, max_pixels) as image:
            if side is not None:
                image.draft("RGB", (2 * side, 2 * side))  # JPEG is decoded at a fraction of its size
            image.load()
            upright = Image.fromarray(upright_rgb(image))
        if side is not None:
            upright.thumbnail((side, side))
        out = io.BytesIO()
        upright.save(out, "JPEG", quality=quality)
        return out.getvalue()
    except DAMAGE:
        raise _broken(original.id) from None


async def stream(original: Original) -> AsyncIterator[bytes]:
    """The bytes of a file, read as fast as they are taken; closes it."""
    file = anyio.wrap_file(original.file)
    try:
        while part := await file.read(_CHUNK):
            yield part
    finally:
        original.file.close()


def _judged(original: Original, max_pixels: int) -> Image.Image:
    """The picture of a file with only its header read."""
    try:
        return open_picture(original.file, max_pixels)
    except Refusal:
        raise _broken(original.id) from None


def _gone(image: int) -> Refusal:
    return Refusal(410, f"the picture file of image {image} is gone. Bring the index up to date with sync.")


def _broken(image: int) -> Refusal:
    return Refusal(410, f"the picture file of image {image} can not be decoded. Bring the index up to date with sync.")
