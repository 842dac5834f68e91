"""Several runs of one recipe that differ in their seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.benchmark import aligned
from patchword.evaluate.members import Source, open_member
from patchword.evaluate.repeats import Repeats
from patchword.evaluate.scores_file import SavedScores
from patchword.evaluate.setting import Setting
from patchword.model import Model

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
        notes = dict.fromkeys((*self.notes, *(text for one in self.each for text in one.notes)))
        return "\n".join([*lines, *(f"warning: {w}" for w in warnings), *(f"note: {n}" for n in notes)])


def evaluate_seeds(
    runs: Sequence[Source],
    data: Path | str | Split | None = None,
    setting: Setting | None = None,
    *,
    protocol: str = "auto",
) -> SeedReport:
    """Evaluate several runs of one recipe; only one score matrix is held at a time.

    Args:
        runs: two or more run folders, models or score files.
        data: data folder or open split; score files do not need it.
        setting: how runs are opened and scored.
        protocol: named protocol, or ``auto``.

    Raises:
        ConfigError: fewer than two runs, a run or a seed that comes twice, or runs that differ in their method, its
            options, the loss or the data. Other differences become notes.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run was given with --seeds. Expected two or more runs of one recipe.")
    recipes = [dict(_flat(recipe_of(run))) for run in runs]
    seeds = [recipe.get("train.seed") for recipe in recipes]
    notes = tuple(_compare([_label(run) for run in runs], recipes, seeds))
    names, each = [], []
    how = setting if setting is not None else Setting()
    for k, run in enumerate(runs, start=1):
        member = open_member(run, data, how.part(str(k)))
        each.append(member.evaluate(protocol))
        names.append(member.name)
        del member  # its scores, before the next ones are made
        first, last = each[0].provenance.method, each[-1].provenance.method
        if first and last and first != last:
            raise ConfigError(
                f"'{names[0]}' is {first} and '{names[-1]}' is {last}. --seeds needs runs of one recipe: "
                "use patchword compare for others."
            )
    return SeedReport(tuple(each), tuple(names), tuple(seeds), notes)


def recipe_of(run: Source) -> dict[str, Any]:
    """The recipe in a run folder's ``config.yaml``; empty without one."""
    file = Path(run) / "config.yaml" if isinstance(run, Path | str) else None
    if file is None or not file.is_file():
        return {}
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    recipe = values.get("recipe", {}) if isinstance(values, dict) else {}
    return recipe if isinstance(recipe, dict) else {}


def _label(run: Source) -> str:
    return run.label if isinstance(run, Model) else run.path if isinstance(run, SavedScores) else str(run)


def _compare(names: Sequence[str], recipes: Sequence[Mapping[str, Any]], seeds: Sequence[int | None]) -> Iterator[str]:
    """Notes about recipes that differ in how they were trained.

    Raises:
        ConfigError: they differ in more, or their seeds do not.
    """
    places = [str(Path(name).resolve()) for name in names if Path(name).exists()]
    for k, place in enumerate(places):
        if place in places[:k]:
            raise ConfigError(f"'{place}' was given twice. --seeds needs different runs of one recipe.")
    first = recipes[0]
    for name, other in zip(names[1:], recipes[1:], strict=True):
        if not other or not first:
            yield f"the recipe of {names[0] if not first else name} is not known, so it was not compared"
            continue
        keys = sorted(key for key in {*first, *other} if first.get(key) != other.get(key) and key != "train.seed")
        changed = [key for key in keys if _is_another(key, first.get(key), other.get(key))]
        if changed:
            shown = ", ".join(f"{key} ({first.get(key)}, {other.get(key)})" for key in changed[:3])
            raise ConfigError(
                f"'{names[0]}' and '{name}' are no runs of one recipe: they differ in {shown}"
                f"{'' if len(changed) <= 3 else f' and {len(changed) - 3} more'}. Use patchword compare for them."
            )
        if keys:
            yield f"the recipe of {name} differs from that of {names[0]} in {', '.join(keys)}"
    for k, seed in enumerate(seeds):
        if seed is not None and seed in seeds[:k]:
            raise ConfigError(
                f"'{names[seeds.index(seed)]}' and '{names[k]}' have the same seed, {seed}: they are no repetitions. "
                "Leave one of them out."
            )


def _is_another(key: str, one: Any, other: Any) -> bool:
    """Whether recipes that differ in ``key`` are two recipes, rather than one that was trained otherwise."""
    if key == "data.root":  # the folder may have moved; its name says which data it holds
        return Path(str(one)).name != Path(str(other)).name
    return key != "data.workers" and not key.startswith("train.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
