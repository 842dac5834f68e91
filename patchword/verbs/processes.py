"""A verb under torchrun: several processes that share the work, of which one speaks, and that end alike.

The first process prints and writes; the others wait for its outcome and end with its exit code. When one fails, it says
so in the store that the processes meet in, and the others end with its code, even where they wait for an answer of it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from patchword.errors import exit_code

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_PATIENCE = timedelta(days=30)  # a share of the work may take days longer than another
_LOOK_S = 0.1  # between two looks at the store
_GRACE_S = 10.0  # in which the others hear of an outcome before a process ends, and perhaps the store with it


def together(work: Callable[[], int]) -> int:
    """Run the work of a verb: alone, or as one of the processes of torchrun, which then form a process group.

    Args:
        work: what every process does; collective calls in it share it. Gives the exit code.

    Returns:
        The exit code: that of the first process, or of the one that failed first.

    Raises:
        Whatever the work raises, in the process that failed first.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if not dist.is_available() or not dist.is_torchelastic_launched() or dist.is_initialized():
        return work()
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_node_local_rank(0) % torch.cuda.device_count())
    store, rank, count = next(iter(rendezvous("env://")))
    dist.init_process_group("gloo", store=PrefixStore("group", store), rank=rank, world_size=count, timeout=_PATIENCE)
    with Pact(PrefixStore("pact", store), rank, count) as pact:
        try:
            code = work()
        except BaseException as error:
            told = pact.fail(exit_code(error))
            if told is not None:
                return told
            raise
        return pact.end(code)


def speaks() -> bool:
    """Whether this process is the one that prints and writes."""
    from patchword.scoring.jobs import process

    return process()[0] == 0


class Pact:
    """What a process tells the others of its end, and hears of theirs; while it is open, a thread listens.

    Args:
        store: that all processes reach.
        rank, count: number of this process, and how many there are.
    """

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self.store, self.rank, self.count = store, rank, count
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Pact:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._listener.join()

    def fail(self, code: int) -> int | None:
        """Tell the others that this process fails; gives the code of the one that failed before it, if one did."""
        first, told = (int(k) for k in self.store.compare_set("failed", "", f"{self.rank} {code}").split())
        self._closed.set()
        _end_in_peace()
        if first != self.rank:
            self._leave()
            return told
        self._wait_for_the_others()
        return None

    def end(self, code: int) -> int:
        """Tell the others the outcome when this is the first process, else wait for it."""
        if self.rank == 0:
            self.store.set("outcome", str(code))
            self._wait_for_the_others()
            return code
        while not self.store.check(["outcome"]):
            time.sleep(_LOOK_S)
        _end_in_peace()
        self._leave()
        return int(self.store.get("outcome"))

    def _leave(self) -> None:
        self.store.set(f"left{self.rank}", "1")

    def _wait_for_the_others(self) -> None:
        others = [f"left{rank}" for rank in range(self.count) if rank != self.rank]
        until = time.monotonic() + _GRACE_S
        while others and not self.store.check(others) and time.monotonic() < until:
            time.sleep(_LOOK_S / 2)

    def _listen(self) -> None:
        """End this process when another one has failed: it may wait, outside of Python, for an answer that never
        comes, so nothing gentler is sure to end it.
        """
        while not self._closed.wait(_LOOK_S):
            if self.store.check(["failed"]):
                first, code = (int(k) for k in self.store.get("failed").split())
                if first == self.rank or self._closed.is_set():
                    return
                self._leave()
                if sys.stderr.isatty():
                    sys.stderr.write("\x1b[?25h")  # the cursor that a progress bar hides
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)


def _end_in_peace() -> None:
    """Ignore that torchrun tells the others to stop as soon as one process has ended: this one is about to."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
