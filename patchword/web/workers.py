"""A few threads that decode pictures and explain scores, with a bounded queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from patchword.web.refusals import busy

T = TypeVar("T")


class Workers:
    """Runs blocking work beside the event loop.

    Args:
        name: of the threads.
        threads: how many.
        waiting: how many pieces of work may be running or waiting; the next one is refused.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name, self.waiting, self.taken = name, waiting, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``; when the caller is cancelled, work that has not begun never does.

        Raises:
            Refusal: 503, the queue is full.
        """
        if self.taken >= self.waiting:
            raise busy("too many pictures are being worked on. Try again in a second.")
        future = self._pool.submit(work)
        self.taken += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: self._release(loop))
        return await asyncio.wrap_future(future, loop=loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by a worker, or by whoever cancels: the count belongs to the loop's thread."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self.taken -= 1

    def stop(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
