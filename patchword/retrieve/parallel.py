"""Blocks of work on all cores, each block on one thread.

A product on two threads waits at a barrier for the slower one, which on a shared machine costs more than the product.
Blocks that whole threads take one after the other wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

from patchword.threads import one_core

Block = TypeVar("Block")


class Cores:
    """Threads that share blocks of work; the caller is one of them.

    Args:
        count: threads; by default as many as torch may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = max(1, torch.get_num_threads() if count is None else count)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def run(self, work: Callable[[Block], None], blocks: Sequence[Block]) -> None:
        """Do all blocks, without gradients; the first error is raised."""
        waiting = iter(blocks)
        taking = Lock()

        def take() -> None:
            with one_core(), torch.no_grad():
                while True:
                    with taking:
                        block = next(waiting, None)
                    if block is None:
                        return
                    work(block)

        helpers = [self._threads().submit(take) for _ in range(min(self.count, len(blocks)) - 1)]
        try:
            take()
        finally:
            for helper in helpers:
                helper.cancel()
        for helper in helpers:
            if not helper.cancelled():
                helper.result()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="patchword-score")
            return self._pool

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None
