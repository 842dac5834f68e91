"""What a picture file says about itself: its size and, from EXIF, when, with what and where it was taken."""

from __future__ import annotations

import io
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

# What is decoded: nothing that runs another program or reads another file, whatever the name of the file says.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError,
    ZeroDivisionError, struct.error,
)  # fmt: skip
_DATE = re.compile(r"(\d{4})[:\-/](\d{2})[:\-/](\d{2})[ T](\d{2}):(\d{2}):(\d{2})")


@dataclass(frozen=True)
class Facts:
    """Size and EXIF of a picture; None where it does not say.

    Attributes:
        width, height: pixels, upright (after EXIF orientation).
        taken: ``2024-05-01T10:00:00``, the camera's own time.
        camera: maker and model.
        orientation: 1..8.
        latitude, longitude: degrees, north and east positive.
    """

    width: int
    height: int
    taken: str | None = None
    camera: str | None = None
    orientation: int | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_facts(raw: bytes) -> Facts | None:
    """The facts of a picture file; None when it is none of the formats that are decoded. Pixels are not decoded.

    Raises:
        PIL.Image.DecompressionBombError: it claims more pixels than an honest picture has.
    """
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            width, height = image.size
            try:
                exif = image.getexif()
                found = _facts(exif)
            except _DAMAGE:  # a damaged EXIF block is no reason to refuse the picture
                found = {}
    except (UnidentifiedImageError, *_DAMAGE):
        return None
    if (found.get("orientation") or 1) >= 5:
        width, height = height, width
    return Facts(width, height, **found)


def _facts(exif: Image.Exif) -> dict[str, Any]:
    """What the EXIF block says."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    orientation = exif.get(ExifTags.Base.Orientation)
    maker, model = _text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))
    camera = model if maker is None or (model or "").startswith(maker) else " ".join(filter(None, (maker, model)))
    taken = _date(details.get(ExifTags.Base.DateTimeOriginal)) or _date(exif.get(ExifTags.Base.DateTime))
    latitude = _degrees(place.get(ExifTags.GPS.GPSLatitude), place.get(ExifTags.GPS.GPSLatitudeRef), "S", 90.0)
    longitude = _degrees(place.get(ExifTags.GPS.GPSLongitude), place.get(ExifTags.GPS.GPSLongitudeRef), "W", 180.0)
    return {
        "taken": taken,
        "camera": camera or None,
        "orientation": orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else None,
        "latitude": latitude if longitude is not None else None,
        "longitude": longitude if latitude is not None else None,
    }


def _text(value: object) -> str | None:
    """A text field without padding, at most 200 characters; None when it is no text."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    text = "".join(c for c in value.split("\0")[0] if c.isprintable()).strip()
    return text[:200] or None


def _date(value: object) -> str | None:
    """``2024:05:01 10:00:00`` as ``2024-05-01T10:00:00``; None when it is no date.

    Example:
        >>> _date("2024:05:01 10:00:00"), _date("0000:00:00 00:00:00"), _date(None)
        ('2024-05-01T10:00:00', None, None)
    """
    found = _DATE.search(_text(value) or "")
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    if not (year and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"


def _degrees(parts: Any, side: object, negative: str, limit: float) -> float | None:
    """Degrees, minutes and seconds as degrees; None when they are none."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= limit:
        return None
    return -value if _text(side) == negative else value
