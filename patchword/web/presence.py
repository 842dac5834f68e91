"""Whether picture files are still there, asked of a disk that may be slow, or never answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from patchword.store.catalog import Item

LIMIT_S = 0.5
_THREADS = 2


class Presence:
    """Looks at files on threads of its own; what is not known within the limit is not waited for.

    Args:
        limit_s: seconds for all files of an answer.
        threads: how many look at once. A thread that a disk never answers is lost; once all are, nobody looks.
    """

    def __init__(self, limit_s: float = LIMIT_S, threads: int = _THREADS) -> None:
        self.limit_s, self.threads, self.late = limit_s, threads, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="patchword-look")

    async def of(self, items: Sequence[Item]) -> list[bool | None]:
        """Whether the picture file of each item is there; None where it is not known in time."""
        found: list[bool | None] = [None] * len(items)
        if not items or self.late >= self.threads:
            return found
        is_over = threading.Event()

        def look() -> None:
            for k, item in enumerate(items):
                if is_over.is_set():
                    return
                found[k] = is_there(item)

        work, loop = self._pool.submit(look), asyncio.get_running_loop()
        try:
            await asyncio.wait({asyncio.wrap_future(work, loop=loop)}, timeout=self.limit_s)
        finally:
            is_over.set()
            if not work.done() and not work.cancel():
                self.late += 1
                work.add_done_callback(lambda _: self._is_back(loop))
        return list(found)

    def _is_back(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by the thread that was late: the count belongs to the loop's thread."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self.late -= 1

    def stop(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def is_there(item: Item) -> bool | None:
    """Whether the picture file is still where it was; whether it may be sent is judged when it is asked for.

    None where the system refuses to say.
    """
    try:
        return item.file is not None and item.file.is_file()
    except OSError:
        return None
