"""Pictures that clients send: known by their bytes, measured before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from patchword.data.pictures import Picture, decode_bytes, picture_formats
from patchword.errors import DataError
from patchword.web.refusals import Refusal, without_paths

# What decoders raise on damaged bytes.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
_NAME = "the picture"


def decode_upload(raw: bytes, max_pixels: int) -> Picture:
    """Decode a picture that was sent, ``(H, W, 3)`` uint8, upright.

    Raises:
        Refusal: 422, it is no picture, damaged, or larger than allowed.
    """
    if not raw:
        raise Refusal(422, "the picture is empty. Send the bytes of a JPEG or PNG file.")
    open_picture(io.BytesIO(raw), max_pixels).close()
    try:
        return decode_bytes(raw, _NAME)
    except DataError as error:
        raise Refusal(422, str(error)) from None


def open_picture(source: io.BytesIO | io.BufferedReader, max_pixels: int) -> Image.Image:
    """A picture of which only the header has been read.

    Raises:
        Refusal: 422, it is no picture, or larger than allowed.
    """
    try:
        found = Image.open(source, formats=picture_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refusal(422, f"{_NAME} has too many pixels. At most {max_pixels:,} are decoded. Shrink it.") from None
    except UnidentifiedImageError:
        raise Refusal(422, f"{_NAME} is not a decodable picture. Send JPEG, PNG, WebP, GIF, BMP or TIFF.") from None
    except DAMAGE as error:
        raise Refusal(422, without_paths(f"{_NAME} is damaged: {error}.")) from None
    width, height = found.size
    if width * height > max_pixels:
        found.close()
        raise Refusal(422, f"{_NAME} has {width} x {height} pixels. At most {max_pixels:,} are decoded. Shrink it.")
    return found


def from_base64(text: str) -> bytes:
    """The bytes of a picture inside JSON.

    Raises:
        Refusal: 422, it is no base64.
    """
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "`image` is no base64. Expected the bytes of a picture file, without line ends.") from None
