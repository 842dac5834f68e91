"""Warnings about a result, where they are seen: in the table that is read, on the error stream where none is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from patchword.verbs.output import note


def warn(texts: Iterable[str], *, json: bool) -> None:
    """Print warnings on the error stream, unless they would be read twice: in the table that holds them, and there.

    Args:
        texts: one sentence each.
        json: whether JSON is printed in place of the table.
    """
    if json or not (sys.stdout.isatty() or goes_together()):
        for text in texts:
            note(f"warning: {text}")


def goes_together() -> bool:
    """Whether output and errors go to one place: a terminal, a file or a pipe, as after ``2>&1``."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):  # no real streams, or closed ones
        return False
