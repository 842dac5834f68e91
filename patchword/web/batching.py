"""Searches of many clients, answered together.

One thread scores. While it scores a batch, the searches that arrive wait; then it takes all of them. So nobody waits
when the service is idle, and the busier it is, the larger the batches that share one pass over the index.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from patchword.errors import PatchwordError
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Answer, Mode, Query
from patchword.web.metrics import Metrics
from patchword.web.refusals import busy

LARGEST = 64  # searches of a batch: a larger one would keep its first client waiting


@dataclass(frozen=True)
class Asked:
    """How a search is to be answered; searches that ask alike can share a batch.

    Attributes:
        k: most results.
        mode: see `Index.search`.
        where: filter.
        threshold: least score.
    """

    k: int
    mode: Mode = "auto"
    where: str | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class _Waiting:
    """One search in the queue."""

    query: Query
    asked: Asked
    answer: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Answers searches with ``Index.search_batch`` on a thread of its own.

    Args:
        index: what is searched.
        metrics: where times and sizes are counted.
        waiting: searches that may wait; one more is refused.
        largest: searches of a batch.
    """

    def __init__(self, index: Index, metrics: Metrics, *, waiting: int = 256, largest: int = LARGEST) -> None:
        self.index, self.metrics, self.largest = index, metrics, largest
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._serve, name="patchword-score", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Searches that wait now."""
        return self._queue.qsize()

    async def search(self, query: Query, asked: Asked) -> Answer:
        """The answer to one search; a caller that is cancelled while it waits costs nothing.

        Raises:
            Refusal: 503, too many wait.
            DataError: the query or the filter is wrong.
        """
        wanted = _Waiting(query, asked)
        try:
            self._queue.put_nowait(wanted)
        except queue.Full:
            raise busy(f"{self.waiting} searches are waiting already. Try again in a second.") from None
        return await asyncio.wrap_future(wanted.answer)

    def stop(self, limit_s: float) -> bool:
        """Finish the batch in work; whether the thread has ended within the limit."""
        while True:  # whoever still waits is told
            try:
                wanted = self._queue.get_nowait()
            except queue.Empty:
                break
            if wanted is not None:
                wanted.answer.cancel()
        self._queue.put(None)
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            first = self._queue.get()
            batch = [first]
            while first is not None and len(batch) < self.largest:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            alike: dict[Asked, list[_Waiting]] = {}
            for wanted in batch:
                if wanted is not None:
                    alike.setdefault(wanted.asked, []).append(wanted)
            for asked, group in alike.items():
                self._answer(asked, [w for w in group if w.answer.set_running_or_notify_cancel()])
            if None in batch:
                return

    def _answer(self, asked: Asked, group: list[_Waiting]) -> None:
        """Answer searches that ask alike."""
        if not group:
            return
        started = time.perf_counter()
        for wanted in group:
            self.metrics.stages.labels("queue").observe(started - wanted.since)
        self.metrics.batches.observe(len(group))
        self._search(asked, group)
        self.metrics.stages.labels("score").observe(time.perf_counter() - started)

    def _search(self, asked: Asked, group: list[_Waiting]) -> None:
        try:
            answers = self.index.search_batch(
                [wanted.query for wanted in group],
                asked.k,
                mode=asked.mode,
                where=asked.where,
                threshold=asked.threshold,
            )
        except PatchwordError as error:
            if len(group) == 1:
                group[0].answer.set_exception(error)
                return
            # A wrong query must not spoil the answers of others: halves find it in few steps.
            half = len(group) // 2
            self._search(asked, group[:half])
            self._search(asked, group[half:])
        except Exception as error:  # noqa: BLE001  a bug in one batch must not end the thread
            for wanted in group:
                wanted.answer.set_exception(error)
        else:
            for wanted, answer in zip(group, answers, strict=True):
                wanted.answer.set_result(answer)
