"""Reading text, JSON and captions without losing or shifting a line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from patchword.data.split_names import role_of
from patchword.errors import DataError

ASK_DOCTOR = "Check the folder with: patchword doctor data"
LFS_MARK = b"version https://git-lfs"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".jpe")


def read_bytes(path: Path) -> bytes:
    """All bytes of a file; a name that ends in ``.gz`` is unpacked.

    Raises:
        DataError: the file is missing, unreadable, a damaged archive, or a Git LFS pointer.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"'{path}' is missing. {ASK_DOCTOR} {path.parent}") from None
    except OSError as error:
        raise DataError(f"'{path}' can not be read: {error.strerror}.") from None
    if raw.startswith(LFS_MARK):
        raise DataError(
            f"'{path}' is a Git LFS pointer of {len(raw)} bytes, not the file itself. Fetch it with: git lfs pull"
        )
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is a damaged gzip file ({len(raw):,} bytes): {error}. Copy it again.") from None


def read_text(path: Path) -> str:
    """A whole UTF-8 file without its byte-order mark; line ends are kept as they are.

    Raises:
        DataError: see `read_bytes`; also when a byte is not UTF-8, with its line number.
    """
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"'{path}' line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}). Convert the file to UTF-8."
        ) from None


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, split at LF only, without CR and outer blanks; the last line may lack its LF.

    ``str.splitlines`` also cuts at U+2028, form feed and the like, which occur inside captions; one extra cut shifts
    every later caption to the wrong image.

    Raises:
        DataError: the file is missing, is not UTF-8, or is a Git LFS pointer.
    """
    lines = read_text(path).split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    return [line.strip(" \t\r") for line in lines]


def read_json(path: Path) -> object:
    """The content of a JSON file (also ``.json.gz``).

    Raises:
        DataError: the file is missing or is not JSON, with the line of the fault.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"'{path}' line {error.lineno} is not valid JSON ({error.msg}); the file has {len(text):,} characters. "
            "It may be cut short: copy it again."
        ) from None
    except RecursionError:
        raise DataError(f"'{path}' nests its JSON too deeply to be an annotation file.") from None


def is_bytes_literal(caption: str) -> bool:
    """Whether a caption is the text of a Python bytes object, ``b'...'``."""
    return len(caption) > 3 and caption.startswith(("b'", 'b"')) and caption[-1] == caption[1]


def require_whole(text: str, where: str) -> str:
    """A text that can be written: JSON may hold half of a character, where a longer text was cut.

    Raises:
        DataError: it holds such a half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half of a character ({text[error.start : error.end]!r}) in {text[:40]!r}: the text was cut "
            "in the middle of it. Remove the half, or write the file again."
        ) from None
    return text


def require_caption(caption: object, where: str) -> str:
    """A caption without outer blanks.

    Args:
        caption: what was read.
        where: file and line or image, for the message.

    Raises:
        DataError: it is no text, is empty, holds half of a character, or is the text of a Python bytes object.
    """
    if not isinstance(caption, str):
        raise DataError(f"{where}: the caption is {caption!r}. Expected a text.")
    text = require_whole(caption.strip(), where)
    if not text:
        raise DataError(f"{where} is empty. Expected a caption with at least one word. Fix the file.")
    if is_bytes_literal(text):
        raise DataError(
            f"{where} is a Python bytes literal ({text[:30]!r}): the file was written with str(bytes). "
            "Decode the captions as UTF-8 and write the file again."
        )
    return text


def read_captions(path: Path) -> list[str]:
    """Lines of a captions file, none of them empty.

    Raises:
        DataError: a caption is empty, or is the text of a Python bytes object (``b'...'``), with its line number.
    """
    captions = read_lines(path)
    for number, caption in enumerate(captions, start=1):
        if not caption.strip():
            raise DataError(
                f"'{path}' line {number} is empty. Expected a caption on every line: skipping it would shift all later "
                "captions to the wrong image. Fix the file."
            )
        require_caption(caption, f"'{path}' line {number}")
    return captions


def strip_suffix(name: str) -> str:
    """A file name without the ending of a picture file."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in PICTURE_SUFFIXES else name


_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_|coco[:_])?(\d+)")


def canonical_id(name: str) -> str:
    """The one spelling in which image ids are compared; ids stay as written everywhere else.

    Example:
        >>> [canonical_id(x) for x in ("val2014/COCO_val2014_000000391895.jpg", "000000391895.jpg", "coco:391895")]
        ['391895', '391895', '391895']
        >>> canonical_id("images/1000268201_693b08cb0e.jpg")
        '1000268201_693b08cb0e'
    """
    stem = strip_suffix(name.replace("\\", "/").rpartition("/")[2])
    found = _COCO_NAME.fullmatch(stem)
    return (found.group(1).lstrip("0") or "0") if found else stem


SPLIT_ORDER = ("train", "restval", "dev", "val", "test", "testall")


def in_split_order(names: Iterator[str] | set[str] | list[str]) -> list[str]:
    """Unique split names: the usual ones first and in their usual order, the others by name."""
    rank = {name: k for k, name in enumerate(SPLIT_ORDER)}

    def place_of(name: str) -> tuple[int, str]:
        known = name.lower() if name.lower() in rank else role_of(name)
        return rank.get(known, len(rank)), name

    return sorted(set(names), key=place_of)


def missing_split(place: Path, split: str, there: list[str], *, hint: str = "") -> DataError:
    """The error for a split that is not in a data set."""
    return DataError(f"'{place}' has no split {split!r}. Splits found: {', '.join(there) or 'none'}.{hint}")
