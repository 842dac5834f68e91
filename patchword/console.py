"""Progress of a long job: one bar on a terminal, a line every 30 seconds elsewhere. The first line comes at once."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_S = 30.0


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far.

    On Linux ``getrusage`` gives a process that another one has started the peak of that one, when it is larger.
    """
    peak = status_gib("VmHWM")
    if peak is not None:
        return peak
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (1 << 20) if sys.platform != "darwin" else usage / (1 << 30)


def status_gib(field: str) -> float | None:
    """Memory of this process by its name in Linux's ``/proc/self/status``; None where that is not told."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in text.splitlines() if line.endswith(" kB"))
    return int(sizes[field].split()[0]) / (1 << 20) if field in sizes else None


class ProgressBar:
    """Shows how a job advances.

    Args:
        total: number of units.
        label: what is being done.
        unit: name of a unit, for the rate.
        console: where to; a quiet one shows nothing.
        start: units done before.
    """

    def __init__(self, total: int, label: str, unit: str, console: Console, start: int = 0) -> None:
        self.total, self.label, self.unit, self.console, self.done = total, label, unit, console, start
        self._started = self._shown = time.monotonic()
        self._first, self._note = start, ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
        return self

    def advance(self, count: int, note: str = "") -> None:
        """Count finished units."""
        self.done += count
        self._note = note or self._note
        now = time.monotonic()
        rate = (self.done - self._first) / max(1e-9, now - self._started)
        text = f"{rate:,.0f} {self.unit}/s  {self._note}  {peak_memory_gib():.1f} GiB"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=text)
        elif now - self._shown >= QUIET_S:
            self._shown = now
            left = (self.total - self.done) / max(rate, 1e-9)
            self.console.print(
                f"{self.label}: {self.done:,}/{self.total:,}  {text}  eta {left:,.0f} s", highlight=False
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
