"""Two processes of torchrun on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from small import environment


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
    return subprocess.run(
        [*torchrun, *place, *map(str, program)],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": os.pathsep.join(map(str, (*folders, Path(__file__).parent)))},
        timeout=timeout_s,
        check=False,
    )
