"""Reading picture files for an index: bytes, hash, facts and pixels, several files at a time, in their order."""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torch import Tensor

from patchword.data.pictures import Transform, decode_bytes
from patchword.data.text_files import LFS_MARK
from patchword.errors import DataError
from patchword.index.exif import Facts, read_facts
from patchword.index.scan import Seen, Skip

MAX_BYTES = 512 << 20  # of a picture file
T = TypeVar("T")
R = TypeVar("R")


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


def read_bytes(root: Path, seen: Seen, *, follow: bool = False) -> tuple[bytes, Seen] | Skip:
    """The bytes of a file and its size and time when it was opened, or why it can not be read.

    Neither a link nor a pipe that took the file's place meanwhile is opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(os.path.join(root, seen.path), flags)
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            now = replace(seen, size=about.st_size, mtime=about.st_mtime_ns)
            if not stat.S_ISREG(about.st_mode):
                return Skip(seen.root, seen.path, "not a regular file")
            if about.st_size > MAX_BYTES:
                reason = f"{about.st_size:,} bytes are more than a picture has (at most {MAX_BYTES:,})"
                return Skip(seen.root, seen.path, reason, now.size, now.mtime)
            return file.read(MAX_BYTES), now
    except OSError as error:
        return Skip(seen.root, seen.path, f"can not be read: {error.strerror}")


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


def hash_bytes(raw: bytes) -> str:
    """The blake2b hash of the bytes of a file."""
    return blake2b(raw, digest_size=16).hexdigest()


def hash_file(root: Path, seen: Seen, *, follow: bool = False) -> tuple[str, Seen, int] | None:
    """Hash of a file, the file as it was when it was opened, and when; None when it can not be read."""
    checked = time.time_ns()
    found = read_bytes(root, seen, follow=follow)
    return None if isinstance(found, Skip) else (hash_bytes(found[0]), found[1], checked)


def in_order(work: Callable[[T], R], tasks: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """Do tasks in threads and give their results in order, at most ``ahead`` of them waiting to be taken."""
    with ThreadPoolExecutor(threads, thread_name_prefix="patchword-decode") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def quiet_pictures() -> Iterator[None]:
    """Silence the remarks of the decoder about damaged EXIF blocks, and raise its doubts about huge pictures.

    Set once around all threads, for the list of filters is one for the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield
