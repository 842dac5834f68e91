"""One recipe trained with several seeds, one run after the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from patchword.config import merge, parse_overrides
from patchword.errors import CollapseError, ConfigError
from patchword.recipe import Recipe
from patchword.train.run import TrainResult, as_recipe, train


@dataclass(frozen=True)
class SeedRun:
    """What one seed came to.

    Attributes:
        seed: of data order, augmentation, dropout and the weights at the start.
        run: its folder.
        result: of the training; None where it collapsed.
        collapse: why it was stopped; None for a healthy run.
    """

    seed: int
    run: Path
    result: TrainResult | None
    collapse: str | None = None

    @property
    def rsum(self) -> float | None:
        """The best rsum of the selection split; None for a collapsed run, and where nothing was selected."""
        return self.result.position.best_rsum if self.result and self.result.position.best_rsum >= 0 else None


def train_seeds(
    recipe: str | Path | Recipe,
    out: Path | str | None = None,
    *,
    seeds: int,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: Console | None = None,
) -> list[SeedRun]:
    """Train a recipe with its seed and the numbers that follow it, each run in ``out/seed_N``.

    Called again it goes on: finished runs are kept, an interrupted one is resumed, and a larger ``seeds`` adds runs.
    A run that collapses ends, the others are trained.

    Args:
        recipe: path, name or loaded recipe.
        out: holds the run folders; ``runs/<recipe name>`` by default.
        seeds: how many.
        overrides: as for `train`; ``train.seed`` is the first seed.
        console: where progress goes; quiet by default.

    Raises:
        ConfigError, DataError, CheckpointError: one line each.
        Interrupted: on Ctrl-C, after saving.
    """
    if seeds < 2:
        raise ConfigError(
            f"--seeds is {seeds}. Expected 2 or more; for a single run choose its seed with --train.seed."
        )
    changes = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    first = as_recipe(recipe, changes)
    folder = Path(out) if out is not None else Path("runs") / Path(first.source).stem
    if (folder / "config.yaml").is_file():
        raise ConfigError(
            f"'{folder}' is a run of one seed. The runs of several seeds go into folders below another one: --out DIR."
        )
    runs = []
    for seed in range(first.train.seed, first.train.seed + seeds):
        run = folder / f"seed_{seed}"
        try:
            if isinstance(recipe, Recipe):
                seeded = replace(recipe, train=recipe.train.model_copy(update={"seed": seed}))
                result = train(seeded, run, console=console)
            else:
                over = merge(changes, {"train": {"seed": seed}})
                result = train(recipe, run, overrides=over, console=console)
        except CollapseError as error:
            runs.append(SeedRun(seed, run, None, str(error)))
        else:
            runs.append(SeedRun(seed, run, result))
    return runs


def rsum_over(runs: Sequence[SeedRun]) -> tuple[float, float] | None:
    """Mean and standard deviation (n - 1) of rsum; None with fewer than two runs that have one."""
    found = [run.rsum for run in runs if run.rsum is not None]
    return (statistics.mean(found), statistics.stdev(found)) if len(found) > 1 else None
