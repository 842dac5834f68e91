"""Where the actions of an index show their progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def progress_console(json: bool) -> Console:
    """Where progress goes: the error stream, or nowhere where JSON was asked for."""
    from rich.console import Console

    return Console(stderr=True, quiet=json)
