"""The form in which every benchmark beside the named protocols reports: tables, full numbers, warnings, choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

INTERVALS = (
    "95% intervals over queries: 1,000 resamples (seed 0) of the images, each with all its captions that are queries; "
    "the gallery stays as it is"
)
Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]  # head, rows; the first column names the rows


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark found.

    Attributes:
        name: as ``--protocol`` calls it, with ``(partial)`` where items were missing.
        title: in words.
        tables: as printed.
        numbers: at full precision.
        warnings: what a reader must know before comparing.
        notes: choices made.
        model: method and checkpoint.
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    numbers: dict[str, Any]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""

    def table(self) -> str:
        """Plain text for a terminal."""
        lines = [f"protocol {self.name}: {self.title}", *([f"model {self.model}"] if self.model else [])]
        for head, rows in self.tables:
            lines += ["", *aligned(head, rows)]
        lines += ["", *(f"warning: {text}" for text in self.warnings), *(f"note: {text}" for text in self.notes)]
        return "\n".join(lines).rstrip()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        about = {"protocol": self.name, "title": self.title, "model": self.model}
        return {**about, **self.numbers, "warnings": list(self.warnings), "notes": list(self.notes)}


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right.

    Example:
        >>> aligned(("", "R@1"), [("text -> image", "50.0")])
        ['                 R@1', 'text -> image   50.0']
    """
    lines = [head, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return [
        "   ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal; a dash when it is not defined.

    Example:
        >>> percent(0.12345), percent(float("nan"))
        ('12.3', '-')
    """
    return f"{100 * fraction:.1f}" if np.isfinite(fraction) else "-"


def named(missing: Sequence[str], *, most: int = 5) -> str:
    """The first few of a list of names.

    Example:
        >>> named(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(repr(name) for name in missing[:most])
    return shown if len(missing) <= most else f"{shown} and {len(missing) - most:,} more"
