"""Small JPEGs of the indexed pictures, and the last of them in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

SIDES = (64, 128, 256, 384, 512, 768, 1024)  # few, so that one picture can not fill the memory
QUALITY = 82


def side_for(size: int) -> int:
    """The side that is made for a wished size.

    Example:
        >>> [side_for(size) for size in (1, 64, 200, 5000)]
        [64, 64, 256, 1024]
    """
    return next((side for side in SIDES if side >= size), SIDES[-1])


class ThumbCache:
    """Keeps what was used last, within a number of bytes. Safe for threads.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, tag: str) -> bytes | None:
        """What was kept under a tag."""
        with self._lock:
            found = self._kept.get(tag)
            if found is not None:
                self._kept.move_to_end(tag)
            return found

    def put(self, tag: str, content: bytes) -> None:
        """Keep something; what was not used for longest makes room."""
        with self._lock:
            if tag in self._kept or len(content) > self.limit:
                return
            self._kept[tag] = content
            self.held += len(content)
            while self.held > self.limit:
                _, gone = self._kept.popitem(last=False)
                self.held -= len(gone)
