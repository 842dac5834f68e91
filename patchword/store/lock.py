"""One writer at a time: a locked file in the index folder that says who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchword.errors import DataError


@contextmanager
def writer_lock(path: Path, action: str) -> Iterator[None]:
    """Hold the lock of an index; the system releases it when the process ends, however it ends.

    Args:
        path: the lock file; made when it is not there.
        action: what is being done, for the message that another writer gets.

    Raises:
        DataError: another process writes; it is named.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"'{path.parent}' is being written by {_holder(handle)}. Wait until it is done, or stop it."
            ) from None
        if not _is_same(handle, path):  # the folder was put in place, or taken away, while we waited
            raise DataError(f"'{path.parent}' was replaced by another process. Run the command again.")
        note = json.dumps({"pid": os.getpid(), "action": action, "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        os.ftruncate(handle, 0)
        os.pwrite(handle, note.encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Who wrote the lock file last, in words."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads(os.pread(handle, 4096, 0))
        return f"process {about['pid']} ({about['action']}, since {about['since']})"
    return "another process"


def _is_same(handle: int, path: Path) -> bool:
    """Whether a path still names the opened file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
