"""Warnings about a result, where they are seen: in the table on a terminal, else on the error stream too."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from patchword.verbs.output import note


def warn(texts: Iterable[str], *, json: bool) -> None:
    """Print warnings on the error stream, unless the table that holds them goes to a terminal.

    Args:
        texts: one sentence each.
        json: whether JSON is printed in place of the table.
    """
    if json or not sys.stdout.isatty():
        for text in texts:
            note(f"warning: {text}")
