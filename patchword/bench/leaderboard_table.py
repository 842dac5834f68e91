"""The table of ``patchword bench leaderboard``: systems, what their runs gave, and how it is printed."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

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
    System("AAHR", ("aahr",)),
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
    does not change. ``note``: what a reader must know about the run."""

    recipe: str
    seed: int
    recalls: tuple[float, ...]
    rsum: float
    parameters: int
    train_pairs_per_s: float
    score_pairs_per_s: float
    peak_memory_gib: float
    seconds: float
    note: str = ""


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

    @property
    def note(self) -> str:
        """What a reader must know, of the system and of its runs."""
        said = [self.system.note, *(one.note for one in self.outcomes)]
        return "; ".join(dict.fromkeys(note for note in said if note))


LEGEND = (
    "i2t: captions found for an image, t2i: images for a caption. R@K in percent; rsum: the six added, at most 600. "
    "pairs/s: in one second of one core's time. GiB: peak memory of the process. ±: standard deviation over the seeds."
)


def notes(rows: Sequence[Row]) -> list[str]:
    """What stands below a table: its columns, and what a reader must know about its rows."""
    return [LEGEND, *(f"{row.system.name}: {row.note}." for row in rows if row.note)]


def markdown(rows: Sequence[Row]) -> str:
    """The table for a page, with the notes of its rows below."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join([*lines, "", *notes(rows)]) + "\n"


HEADS = (("", "system"), ("i2t", "R@1"), ("i2t", "R@5"), ("i2t", "R@10"), ("t2i", "R@1"), ("t2i", "R@5"),
         ("t2i", "R@10"), ("", "rsum"), ("", "parameters"), ("train", "pairs/s"), ("score", "pairs/s"),
         ("", "GiB"))  # fmt: skip
_IN_ORDER = ((0, 1, 4, 7), (2, 5), (3, 6), (9,), (10,), (11,), (8,))  # what a narrow table shows first
_GAP = 2


def printed(rows: Sequence[Row], width: int, whole: str) -> str:
    """The table for a terminal: the columns that fit, the notes, and why a row is empty.

    Args:
        rows: of the table.
        width: characters in a line.
        whole: where the table with all its columns is.
    """
    cells = [row.cells() if row.outcomes else [row.system.name, "-", *[""] * (len(COLUMNS) - 2)] for row in rows]
    wide = [max(len(text) for text in (*HEADS[k], *(line[k] for line in cells))) for k in range(len(COLUMNS))]
    chosen: list[int] = []
    for unit in _IN_ORDER:
        wanted = [*chosen, *unit]
        if not chosen or sum(wide[k] for k in wanted) + _GAP * (len(wanted) - 1) <= width:
            chosen = wanted
    chosen.sort()
    lines = [
        (" " * _GAP).join(line[k].rjust(wide[k]) if k else line[k].ljust(wide[k]) for k in chosen).rstrip()
        for line in ([head[0] for head in HEADS], [head[1] for head in HEADS], *cells)
    ]
    said = notes(rows)
    said += [f"{row.system.name} failed: {row.failed}" for row in rows if row.failed]
    left_out = [" ".join(HEADS[k]).strip() for k in range(len(COLUMNS)) if k not in chosen]
    if left_out:
        said.append(f"Not shown in {width} columns: {', '.join(left_out)}. The whole table: {whole}")
    below = [textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False) for text in said]
    return "\n".join([*lines, "", *below])
