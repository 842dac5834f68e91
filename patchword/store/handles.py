"""Shard files that are open for reading by position: the few that were used last, however many shards there are."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

MOST = 64  # files that are open at once
Stamp = tuple[int, int, int, int]


def stamp_of(about: os.stat_result) -> Stamp:
    """Device, inode, size and time of change: what tells whether a name still leads to the same file."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


class Handle:
    """An open file; it is closed when nobody reads it any more.

    Attributes:
        number: its descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


class Handles:
    """The open files of a process. Safe for threads.

    Args:
        most: files that are kept open.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._open: OrderedDict[int, Handle] = OrderedDict()
        self._lock = threading.RLock()  # a finaliser may come to `forget` in whatever a thread does here

    def __len__(self) -> int:
        return len(self._open)

    def of(self, key: int, path: Path, stamp: Stamp) -> Handle | None:
        """A file that is read by position, opened when it was not.

        Args:
            key: of the shard.
            path: its file.
            stamp: of the file when it was mapped.

        Returns:
            None where its name leads elsewhere by now, or no file can be opened any more: then its map has to do.
        """
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                return found
        try:
            made = Handle(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EMFILE, errno.ENFILE):
                return None
            raise
        if stamp_of(os.fstat(made.number)) != stamp:
            return None
        with self._lock:
            self._open[key] = made
            while len(self._open) > self.most:
                self._open.popitem(last=False)
        return made

    def forget(self, key: int) -> None:
        """Let go of a shard's file, so that a removed one gives back its room."""
        with self._lock:
            self._open.pop(key, None)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


HANDLES = Handles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HANDLES._renew_lock)  # another thread may have held it
