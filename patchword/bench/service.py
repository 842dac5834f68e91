"""How fast the service answers: ``patchword serve`` as a process of its own, asked over loopback by 1 to 64 clients."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from patchword.errors import ConfigError, DataError
from patchword.store.catalog import Catalog

CLIENTS = (1, 4, 16, 64)
MOST = 50_000  # requests of one load
_START_S = 120.0
# Asked when no captions are indexed; those with a word that the model knows are kept.
_SENTENCES = (
    "a man in a red shirt", "two dogs run through snow", "a child on a swing", "people on a street at night",
    "a red ball left of a box", "a large star", "a small blue cup above a green circle", "a boat on the water",
)  # fmt: skip


@dataclass
class Load:
    """What the clients of one load saw.

    Attributes:
        times_s: of the answers, one list for each client.
        failures: answers that were none.
    """

    times_s: list[list[float]] = field(default_factory=list)
    failures: int = 0


def bench_service(
    index: Path,
    *,
    model: Path | None = None,
    seconds: float = 5.0,
    clients: Sequence[int] = CLIENTS,
) -> Iterator[dict[str, Any]]:
    """Searches and thumbnails per second and the times of answers, with more and more clients.

    Every client sends its next request when it has its answer, so the number of clients is that of requests in work.
    Clients and service share this machine's cores.

    Args:
        index: folder of an index; its captions are the queries, when it has any.
        model: checkpoint, when not the one that the index names.
        seconds: of each load.
        clients: numbers of clients.
    """
    if seconds <= 0:
        raise ConfigError(f"the service can not be asked for {seconds:g} seconds. Expected more than 0.")
    catalog = Catalog(index)
    ids = [int(one) for one in catalog.where("id >= 0")[:1000]]
    if not ids:
        raise DataError(f"'{index}' is empty. Index some pictures first.")
    texts = [found.text for found in catalog.find_captions(range(1000)).values()] or list(_SENTENCES)
    catalog.close()
    with running_service(index, model) as (port, start_s):
        paths = [f"/search?k=20&q={quote(text)}" for text in texts]
        searches = [path for path in paths[:200] if _get_once(port, path)]
        if not searches:
            raise DataError("the model knows no word of the queries. Index captions, which are then asked.")
        thumbs = [path for path in (f"/thumb/{one}?size=256" for one in ids[:200]) if _get_once(port, path)]
        for what, asked in (("search", searches), ("thumb", thumbs)):
            for number in clients if asked else ():
                before = _batches(port)
                started = time.perf_counter()
                load = ask(port, asked, clients=number, seconds=seconds)
                took = time.perf_counter() - started
                yield {
                    "bench": "service",
                    "what": what,
                    "images": len(ids) if len(ids) < 1000 else _number(port, "patchword_images"),
                    "clients": number,
                    **told(load, took),
                    "searches_per_batch": _mean_batch(before, _batches(port)),
                    "start_s": round(start_s, 2),
                    "resident_gib": round(_number(port, "process_resident_memory_bytes") / (1 << 30), 3),
                }


def told(load: Load, seconds: float) -> dict[str, Any]:
    """Rates and times of a load."""
    times = np.concatenate([np.asarray(one) for one in load.times_s]) if load.times_s else np.zeros(0)
    found: dict[str, Any] = {"requests": len(times), "failures": load.failures}
    if len(times):
        found["per_s"] = round(len(times) / seconds, 1)
        found |= {f"p{q}_ms": round(float(np.percentile(times, q)) * 1e3, 2) for q in (50, 95, 99)}
    return found


def ask(port: int, paths: Sequence[str], *, clients: int, seconds: float, most: int = MOST) -> Load:
    """Let several clients ask in turn, until time is over or so many requests are sent."""
    load, lock, numbers = Load(), threading.Lock(), count()
    end = time.perf_counter() + seconds

    def client() -> None:
        connection, times, failures = _connect(port), list[float](), 0
        while time.perf_counter() < end and (number := next(numbers)) < most:
            started = time.perf_counter()
            if _get(connection, paths[number % len(paths)]):
                times.append(time.perf_counter() - started)
            else:
                failures += 1
        connection.close()
        with lock:
            load.times_s.append(times)
            load.failures += failures

    _together([client] * clients)
    return load


def _together(jobs: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def running_service(index: Path, model: Path | None = None) -> Iterator[tuple[int, float]]:
    """Start ``patchword serve`` on a free port; its port, and how long it took until it answered.

    Raises:
        DataError: it ended at once; its message is told.
    """
    words = [sys.executable, "-m", "patchword", "serve", str(index), "--port", "0"]
    words += [] if model is None else ["--model", str(model)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        started = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while True:
                said.seek(0)
                lines = said.read()
                found = re.search(r" at http://127\.0\.0\.1:(\d+)/", lines)
                if found is not None:
                    break
                if process.poll() is not None:
                    raise DataError(
                        f"the service did not start: {(lines.strip() or 'no reason given').splitlines()[-1]}"
                    )
                if time.perf_counter() - started > _START_S:
                    raise DataError(f"the service did not start within {_START_S:.0f} s.")
                time.sleep(0.02)
            yield int(found[1]), time.perf_counter() - started
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _connect(port: int) -> HTTPConnection:
    return HTTPConnection("127.0.0.1", port, timeout=60)


def _get(connection: HTTPConnection, path: str) -> bytes | None:
    """The body of a good answer; None for any other."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else None
    except (OSError, HTTPException):
        connection.close()
        return None


def _get_once(port: int, path: str) -> bytes | None:
    with closing(_connect(port)) as connection:
        return _get(connection, path)


def _number(port: int, name: str) -> float:
    """A number among the metrics of the service; 0 when it is not there."""
    text = (_get_once(port, "/metrics") or b"").decode()
    found = re.search(rf"^{name} (\S+)$", text, flags=re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def _batches(port: int) -> tuple[float, float]:
    """Searches and batches so far."""
    return _number(port, "patchword_batch_size_sum"), _number(port, "patchword_batch_size_count")


def _mean_batch(before: tuple[float, float], after: tuple[float, float]) -> float:
    searches, batches = after[0] - before[0], after[1] - before[1]
    return round(searches / batches, 2) if batches else 0.0
