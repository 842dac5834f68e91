"""The bytes of picture files and their hashes, several files at a time, in their order."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from patchword.index.plan import Hashed
from patchword.index.records import Root
from patchword.index.scan import Seen, Skip, unread

MAX_BYTES = 512 << 20  # of a picture file
T = TypeVar("T")
R = TypeVar("R")


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
        return unread(seen.root, seen.path, error)


def hash_bytes(raw: bytes) -> str:
    """The blake2b hash of the bytes of a file."""
    return blake2b(raw, digest_size=16).hexdigest()


def hash_seen(root: Path, seen: Seen, *, follow: bool = False) -> tuple[str, Seen, int] | None:
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


@dataclass(frozen=True)
class FileHashes:
    """Reads files for the hashes of their content.

    Attributes:
        roots: by number.
        threads: that read.
    """

    roots: Mapping[int, Root]
    threads: int

    def __call__(self, files: Sequence[Seen]) -> Iterator[Hashed | None]:
        """Hash of each file, in order; None for one that can not be read."""
        return in_order(self._hash, files, threads=self.threads, ahead=4 * self.threads)

    def _hash(self, seen: Seen) -> Hashed | None:
        root = self.roots[seen.root]
        return hash_seen(root.path, seen, follow=root.follow)
