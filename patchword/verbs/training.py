"""Verbs that end with a model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import Positional, Suppress, arg

from patchword.errors import PatchwordError
from patchword.verbs.options import Flag, OptionalCount, OptionalPath, OptionalText, takes_overrides
from patchword.verbs.output import note, say, say_json

if TYPE_CHECKING:
    from patchword.recipe import Recipe
    from patchword.train.run import TrainResult
    from patchword.train.seeds import SeedRun


def demo(
    out: Path = Path("runs/demo"), epochs: int = 6, images: int = 900, seed: int = 0, no_pictures: Flag = False
) -> int:
    """Make data, train CHAN and VSE-infinity, evaluate, write the report, answer three queries.

    Args:
        out: everything is written here; what is finished is reused, what was interrupted goes on.
        epochs: of each of the two trainings.
        images: training images to draw.
        seed: of the data and the trainings.
        no_pictures: draw none; the report shows ids then, and nothing is indexed.
    """
    from patchword.demo import run_demo
    from patchword.train.loop import Interrupted

    try:
        run_demo(out, epochs=epochs, images=images, seed=seed, pictures=not no_pictures, console=Console())
    except Interrupted:
        note("stopped and saved. The same command goes on from here.")
        return 130
    return 0


@takes_overrides
def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")],
    out: OptionalPath = None,
    seeds: OptionalCount = None,
    json: bool = False,
    overrides: Suppress[tuple[str, ...]] = (),
) -> int:
    """Train a recipe. Any setting of it can be changed with a dotted option, such as --train.lr 1e-4.

    Args:
        recipe: file or name (see recipes/).
        out: run folder; runs/NAME by default. An unfinished run there is resumed.
        seeds: train this many runs, OUT/seed_N each, and report mean and deviation.
        json: print the outcome as JSON.
        overrides: dotted options.
    """
    from patchword.train.distributed import world
    from patchword.train.loop import Interrupted
    from patchword.train.run import train as run_training
    from patchword.train.seeds import train_seeds

    console = Console(stderr=json, soft_wrap=True, markup=False)
    changes = list(overrides)
    try:
        if seeds is not None:
            runs = train_seeds(recipe, out, seeds=seeds, overrides=changes, console=console)
            return _say_seeds(runs, json=json) if world()[0] == 0 else _exit_code(runs)
        result = run_training(recipe, out, overrides=changes, console=console)
    except Interrupted:
        if world()[0] == 0:
            note("stopped and saved. The same command goes on from here.")
        return 130
    if world()[0] > 0:  # one of several processes speaks
        return 0
    if json:
        say_json(_outcome(result))
    else:
        say(f"{_chosen(result)}, in '{result.run}/best'. Next: {shlex.join(_evaluation(result.recipe, result.run))}")
    return 0


def _outcome(result: TrainResult) -> dict[str, Any]:
    return {"run": str(result.run), **asdict(result.position), "peak_memory_gib": result.peak_memory_gib}


def _chosen(result: TrainResult) -> str:
    place = result.position
    if place.best_rsum < 0:
        return f"last epoch {place.epoch}, not selected"
    return f"best epoch {place.best_epoch + 1}, rsum {place.best_rsum:.1f}"


def _say_seeds(runs: Sequence[SeedRun], *, json: bool) -> int:
    """Print what every seed came to, then the spread and the command that comes next; returns the exit code."""
    from patchword.train.seeds import rsum_over

    spread = rsum_over(runs)
    if json:
        each = [{"seed": one.seed, **_outcome(one.result)} if one.result else _collapsed(one) for one in runs]
        say_json({"runs": each, "rsum": {"mean": spread[0], "sd": spread[1]} if spread else None})
        return _exit_code(runs)
    for one in runs:
        say(f"seed {one.seed}: {_chosen(one.result) if one.result else one.collapse}, in '{one.run}'")
    healthy = [one.result for one in runs if one.result]
    if spread:
        say(f"rsum {spread[0]:.1f} +- {spread[1]:.1f} over {len(healthy)} seeds")
    if len(healthy) > 1:
        words = _evaluation(healthy[0].recipe, *(result.run for result in healthy))
        say(f"Next: {shlex.join([*words, '--seeds'])}")
    return _exit_code(runs)


def _collapsed(one: SeedRun) -> dict[str, Any]:
    return {"seed": one.seed, "run": str(one.run), "collapse": one.collapse}


def _exit_code(runs: Sequence[SeedRun]) -> int:
    """2 when a run collapsed, as for a single run."""
    return 2 if any(one.collapse for one in runs) else 0


def _evaluation(recipe: Recipe, *runs: Path) -> list[str]:
    """The command that evaluates runs on the data they were trained on."""
    data, split = recipe.data, _split_there(recipe)
    words = ["patchword", "evaluate", *map(str, runs), "--data", str(data.root)]
    if split != "test":
        words += ["--split", split]
    if data.name is not None and data.root is not None and data.name != data.root.name:
        words += ["--name", data.name]
    return words


def _split_there(recipe: Recipe) -> str:
    """The test split of a recipe's data, or where there is none the one it selected on or was trained on."""
    from patchword.data.open import splits_of
    from patchword.data.split_names import splits_meant

    data = recipe.data
    try:
        there = splits_of(data.root or "", name=data.name, columns=data.columns)
    except PatchwordError:  # moved away meanwhile: evaluating will say so
        return data.test
    named = (data.test, data.dev, data.train)
    return next((split for split in named if len(splits_meant(split, there)) == 1), data.test)


def import_(
    method: Positional[str],
    file: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])],
    vocab: OptionalPath = None,
    bert: OptionalText = None,
    json: bool = False,
) -> int:
    """Import an authors' checkpoint. Nothing pickled in it is run.

    Args:
        method: vse_inf, chan, esl, scta, laps, cefg, hrem or aahr.
        file: model_best.pth or checkpoint.pth of the authors' code.
        out: checkpoint folder to write; one of the same method there is replaced.
        vocab: vocabulary JSON of a BiGRU model.
        bert: the BERT of a BERT model: a folder, or a name on the hub.
        json: print JSON.
    """
    from patchword.importers.checkpoint import import_checkpoint

    result = import_checkpoint(method, file, out, vocab=vocab, bert=bert)
    if json:
        say_json(asdict(result))
        return 0
    say(
        f"imported {method}: {len(result.used)} keys used, {len(result.dead)} dead keys left out, "
        f"into '{result.folder}'"
    )
    for key in result.dead:
        say(f"  dead (stored, but never used by the authors' code): {key}")
    if result.tokenizer is None:
        say(
            "no vocabulary came with it, so it can not read captions yet: "
            "import again with --vocab FILE (BiGRU) or --bert BERT"
        )
    return 0
