"""Reading picture files for an index: hash, facts and pixels."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from patchword.data.pictures import Transform, decode_bytes
from patchword.data.text_files import LFS_MARK
from patchword.errors import DataError
from patchword.index.exif import Facts, read_facts
from patchword.index.file_bytes import hash_bytes, read_bytes
from patchword.index.scan import Seen, Skip


@dataclass(frozen=True)
class Read:
    """A picture file that was read.

    Attributes:
        seen: the file as it was when it was opened.
        hash: of its bytes.
        checked: when it was opened, ns since 1970.
        facts: size and EXIF.
        pixels: what the model's encoder takes; None when only the file was checked.
    """

    seen: Seen
    hash: str
    checked: int
    facts: Facts
    pixels: Tensor | None


def read_picture(root: Path, seen: Seen, transform: Transform | None, *, follow: bool = False) -> Read | Skip:
    """Read, hash and decode one file, or say why it can not be indexed.

    Args:
        root: folder of the root.
        seen: the file.
        transform: of the model; None only checks that the picture can be decoded.
        follow: symbolic links may be followed.
    """
    checked = time.time_ns()
    found = read_bytes(root, seen, follow=follow)
    if isinstance(found, Skip):
        return found
    raw, now = found
    try:
        facts, pixels = _decode(raw, transform)
    except DataError as error:
        return Skip(seen.root, seen.path, str(error), now.size, now.mtime)
    except MemoryError:
        return Skip(seen.root, seen.path, "the memory is not enough to decode it")
    return Read(now, hash_bytes(raw), checked, facts, pixels)


def _decode(raw: bytes, transform: Transform | None) -> tuple[Facts, Tensor | None]:
    """Facts and pixels of a picture.

    Raises:
        DataError: it is empty, a pointer, damaged, too large or no picture.
    """
    if not raw:
        raise DataError("the file is empty (0 bytes)")
    if raw.startswith(LFS_MARK):
        raise DataError(f"a Git LFS pointer of {len(raw)} bytes, not the picture. Fetch it with: git lfs pull")
    try:
        facts = read_facts(raw)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"too large to be decoded: {error}") from None
    if facts is None:
        raise DataError(f"not a decodable picture ({len(raw):,} bytes)")
    picture = decode_bytes(raw, "the file", coarse=transform is None)
    return facts, None if transform is None else transform(picture, None)


@contextmanager
def quiet_pictures() -> Iterator[None]:
    """Silence the remarks of the decoder about damaged EXIF blocks, and raise its doubts about huge pictures.

    Set once around all threads, for the list of filters is one for the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield
