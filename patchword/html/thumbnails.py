"""Small pictures as data inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from patchword.data.pictures import decode
from patchword.errors import DataError
from patchword.html.page import empty_tag, tag, text

THUMBNAIL = 160  # pixels of the longer side


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as data: ``uri`` for ``src``, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass
class Thumbnails:
    """Small pictures of a split, made when first asked for.

    Attributes:
        files: picture file of every image; None when unknown.
        problems: pictures that could not be read, one sentence each.
    """

    files: Sequence[Path] | None
    problems: dict[int, str] = field(default_factory=dict)
    _made: dict[int, Thumbnail | None] = field(default_factory=dict)

    def get(self, image: int) -> Thumbnail | None:
        """The picture of an image, or None when there is none that can be read."""
        if self.files is None:
            return None
        if image not in self._made:
            try:
                self._made[image] = thumbnail(self.files[image])
            except DataError as error:
                self._made[image], self.problems[image] = None, str(error)
        return self._made[image]


def thumbnail(path: Path) -> Thumbnail:
    """A picture file as a JPEG of at most 160 pixels.

    Raises:
        DataError: it can not be decoded.
    """
    return embedded(Image.fromarray(decode(path)), THUMBNAIL, quality=86, subsampling=0, optimize=True)


def embedded(picture: Image.Image, side: int, **jpeg: int) -> Thumbnail:
    """A picture as a JPEG inside the page.

    Args:
        picture: of any size and mode.
        side: pixels of its longer side, at most.
        jpeg: options of Pillow's writer.
    """
    shrunk = picture.convert("RGB")
    shrunk.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shrunk.save(file, "JPEG", **jpeg)
    code = base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{code}", shrunk.width, shrunk.height)


def picture_tile(small: Thumbnail | None, image_id: str, line: str, *, kind: str = "") -> str:
    """A picture with a line below it; without a picture, the image's id in its place."""
    shown = (
        text("span", image_id, class_="nopicture")
        if small is None
        else empty_tag("img", src=small.uri, width=small.width, height=small.height, alt=f"picture {image_id}")
    )
    return tag("figure", shown + text("figcaption", line), class_=f"pic {kind}".strip(), title=image_id)
