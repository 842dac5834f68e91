"""A job of the leaderboard whose process is killed; a small file, since the other processes import it."""

from __future__ import annotations

import os
from typing import Any


def die_or_end(job: Any) -> str:
    """In place of a training: that of seed 0 kills its process, the others end."""
    if job.seed == 0:
        os._exit(9)
    return f"seed {job.seed}"
