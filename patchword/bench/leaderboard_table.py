"""The table of ``patchword bench leaderboard``: systems, what their runs gave, and how it is printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from patchword.errors import ConfigError


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: as printed.
        recipes: stems of its recipes; the scores of several are averaged, as the authors of CEFG do.
        note: what a reader must know about the row.
    """

    name: str
    recipes: tuple[str, ...]
    note: str = ""


SYSTEMS = (
    System("VSE-infinity", ("vse_inf",)),
    System("CHAN", ("chan",)),
    System("ESL-H", ("esl_h",)),
    System("ESL-A", ("esl_a",)),
    System("LAPS", ("laps",), "cells or regions as patches, not a vision transformer"),
    System("SCTA", ("scta",), "cells or regions as patches, not a vision transformer"),
    System("CEFG (SGR + SAF)", ("cefg_sgr", "cefg_saf"), "mean of two models"),
    System("HREM", ("hrem",)),
    System("AAHR", ("aahr",), "pooled local vectors stand in for CLIP's global vectors"),
)


def choose(stems: Sequence[str]) -> tuple[System, ...]:
    """The systems with one of these recipes; all of them when none is named.

    Raises:
        ConfigError: no system has such a recipe.
    """
    known = {stem for system in SYSTEMS for stem in system.recipes}
    for stem in stems:
        if stem not in known:
            raise ConfigError(f"no system {stem!r}. Systems: {', '.join(sorted(known))}.")
    return tuple(system for system in SYSTEMS if not stems or set(system.recipes) & set(stems))


COLUMNS = ("system", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "parameters", "train pairs/s",
           "score pairs/s", "GiB")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one run gave; recalls in percent, memory in GiB, rates per second of one core's time, which a busy machine
    does not change."""

    recipe: str
    seed: int
    recalls: tuple[float, ...]
    rsum: float
    parameters: int
    train_pairs_per_s: float
    score_pairs_per_s: float
    peak_memory_gib: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A system over all its seeds. ``failed`` says why there is nothing, in one line."""

    system: System
    outcomes: tuple[Outcome, ...] = ()
    failed: str = ""

    def spread(self, values: Sequence[float]) -> str:
        """Mean, and the standard deviation when there are several seeds."""
        mean = f"{statistics.fmean(values):.1f}"
        return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"

    def cells(self) -> list[str]:
        """The row as text."""
        if not self.outcomes:
            return [self.system.name, self.failed or "not run", *[""] * (len(COLUMNS) - 2)]
        recalls = list(zip(*(o.recalls for o in self.outcomes), strict=True))
        first = self.outcomes[0]
        return [
            self.system.name,
            *(self.spread(values) for values in recalls),
            self.spread([o.rsum for o in self.outcomes]),
            f"{first.parameters / 1e6:.2f} M",
            f"{statistics.fmean(o.train_pairs_per_s for o in self.outcomes):,.0f}",
            f"{statistics.fmean(o.score_pairs_per_s for o in self.outcomes):,.0f}",
            f"{max(o.peak_memory_gib for o in self.outcomes):.2f}",
        ]


def markdown(rows: Sequence[Row]) -> str:
    """The table for a page, with the notes of its rows below."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [f"{row.system.name}: {row.system.note}." for row in rows if row.system.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def shown(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    table = Table(box=None, pad_edge=False)
    for k, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row.cells())
    return table
