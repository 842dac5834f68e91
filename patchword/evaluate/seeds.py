"""Several runs of one recipe that differ in their seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.benchmark import aligned
from patchword.evaluate.members import Member, Source, open_member
from patchword.evaluate.repeats import Repeats

_SHOWN = (
    ("image -> text", ("i2t_r1", "i2t_r5", "i2t_r10")),
    ("text -> image", ("t2i_r1", "t2i_r5", "t2i_r10")),
)


@dataclass(frozen=True)
class SeedReport(Repeats):
    """Evaluations of several runs of one recipe.

    Attributes:
        names: of the runs.
        seeds: of the runs; None where unknown.
        notes: in what their recipes differ besides the seed.
    """

    names: tuple[str, ...]
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        runs = [
            {"run": name, "seed": seed, **one.to_json()}
            for name, seed, one in zip(self.names, self.seeds, self.each, strict=True)
        ]
        return {"protocol": self.each[0].protocol, "spread": self.spreads(), "runs": runs, "notes": list(self.notes)}

    def table(self) -> str:
        """Plain text: one row a run, then the mean and deviation."""
        first = self.each[0]
        rows = []
        for name, seed, one in zip(self.names, self.seeds, self.each, strict=True):
            found = one.headline
            recalls = [" / ".join(side.cells()[:3]) for side in (found.i2t, found.t2i)]
            rows.append((name, "?" if seed is None else str(seed), *recalls, f"{found.rsum:.1f}"))
        for row, name in enumerate(("mean", "standard deviation")):
            recalls = [" / ".join(f"{self.spread(column)[row]:.1f}" for column in columns) for _, columns in _SHOWN]
            rows.append((name, "", *recalls, f"{self.spread('rsum')[row]:.1f}"))
        head = ("run", "seed", *(f"{title}, R@1 / 5 / 10" for title, _ in _SHOWN), "rsum")
        where = first.provenance
        lines = [
            f"protocol {first.protocol}, {where.dataset or 'unnamed'}/{where.split or 'unnamed'}: "
            f"{len(self.each)} runs of one recipe",
            "",
            *aligned(head, rows),
            "",
            "rsum {:.1f} +- {:.1f}".format(*self.spread("rsum")),
        ]
        warnings = dict.fromkeys(text for one in self.each for text in one.warnings)
        return "\n".join([*lines, *(f"warning: {w}" for w in warnings), *(f"note: {n}" for n in self.notes)])


def evaluate_seeds(
    runs: Sequence[Source],
    data: Path | str | Split | None = None,
    *,
    split: str = "test",
    name: str | None = None,
    protocol: str = "auto",
    limit: int | None = None,
    console: Console | None = None,
) -> SeedReport:
    """Evaluate several runs of one recipe; only one score matrix is held at a time.

    Args:
        runs: two or more run folders, models or score files.
        data, split, name, protocol, limit, console: as for ``evaluate``.

    Raises:
        ConfigError: fewer than two runs.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run was given with --seeds. Expected two or more runs of one recipe.")
    names, seeds, each, recipes = [], [], [], []
    for run in runs:
        member = open_member(run, data, split=split, name=name, limit=limit, console=console)
        each.append(member.evaluate(protocol))
        names.append(member.name)
        recipes.append(recipe_of(member))
        del member  # its scores, before the next ones are made
        seed = recipes[-1].get("train", {}).get("seed")
        seeds.append(seed if isinstance(seed, int) else None)
    notes = tuple(_differences(recipes, names, seeds))
    return SeedReport(tuple(each), tuple(names), tuple(seeds), notes)


def recipe_of(member: Member) -> dict[str, Any]:
    """The recipe in a run folder's ``config.yaml``; empty without one."""
    if member.folder is None:
        return {}
    values = yaml.safe_load((member.folder / "config.yaml").read_text(encoding="utf-8"))
    recipe = values.get("recipe", {}) if isinstance(values, dict) else {}
    return recipe if isinstance(recipe, dict) else {}


def _differences(recipes: Sequence[dict[str, Any]], names: Sequence[str], seeds: Sequence[int | None]) -> Iterator[str]:
    """Notes about runs that are no repetitions of one recipe."""
    known = [seed for seed in seeds if seed is not None]
    if len(set(known)) < len(known):
        yield f"the seeds {', '.join(map(str, known))} repeat: runs with the same seed are no repetitions"
    first = dict(_flat(recipes[0]))
    for name, recipe in zip(names[1:], recipes[1:], strict=True):
        if not recipe or not first:
            yield f"the recipe of {names[0] if not first else name} is not known, so it was not compared"
            continue
        other = dict(_flat(recipe))
        keys = sorted(key for key in {*first, *other} if first.get(key) != other.get(key) and key != "train.seed")
        if keys:
            yield f"the recipe of {name} differs from that of {names[0]} in {', '.join(keys)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
