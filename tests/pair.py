"""Processes of one group on this machine: under torchrun, or started as it starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.distributed import TCPStore


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def two_processes(
    *program: str | Path, folders: Sequence[Path] = (), timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program under torchrun, twice at once.

    Args:
        program: what torchrun runs: a file or ``-m`` and a module, with its arguments.
        folders: of test files that the program imports, beside this one.
        timeout_s: after which the test has failed.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--nnodes", "1"]
    place = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return _run([*torchrun, *place, *map(str, program)], {}, folders, timeout_s)


def group(
    *programs: Sequence[str | Path], folders: Sequence[Path] = (), timeout_s: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """Run programs as the processes of a group. This process holds their store, as torchrun does.

    That takes a third less than torchrun, which takes as long to start as one of them.

    Args:
        programs: what each process runs, in the order of their ranks.
        folders, timeout_s: as of `two_processes`.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    count = {name: str(len(programs)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    agent = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), **agent, **count}

    def run(rank: int) -> subprocess.CompletedProcess[str]:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        return _run([str(word) for word in programs[rank]], {**place, **own}, folders, timeout_s)

    with ThreadPoolExecutor(len(programs)) as pool:
        return list(pool.map(run, range(len(programs))))


def _run(
    words: list[str], more: dict[str, str], folders: Sequence[Path], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (*folders, Path(__file__).parent)))
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, **more, "PYTHONPATH": path},
        timeout=timeout_s,
        check=False,
    )
