"""``patchword train``: from a recipe to a run folder, starting or going on by itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console

from patchword.checkpoint import load_training_state, load_weights, require_utf8
from patchword.console import peak_memory_gib
from patchword.data.tokenizers import Tokenizer, load_tokenizer
from patchword.errors import CheckpointError, ConfigError
from patchword.loading import load
from patchword.model import Model
from patchword.precision import forbid_tf32
from patchword.recipe import Recipe, load_recipe
from patchword.train.loop import Trainer
from patchword.train.optimizer import build_optimizer, restore
from patchword.train.setup import Parts, prepare, training_pairs
from patchword.train.state import Position, RunFolder
from patchword.train.words import report_words


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run.

    Attributes:
        run: the run folder.
        position: where it stands.
        peak_memory_gib: largest resident memory of this process.
        recipe: what was trained.
    """

    run: Path
    position: Position
    peak_memory_gib: float
    recipe: Recipe

    def model(self) -> Model:
        """The best model of the run."""
        return load(self.run)


def train(
    recipe: str | Path | Recipe,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: Console | None = None,
) -> TrainResult:
    """Train a recipe, or go on with the run that is in ``out``.

    Args:
        recipe: path, name or loaded recipe.
        out: run folder; ``runs/<recipe name>`` by default.
        overrides: ``{"train": {"lr": 1e-4}}`` or ``["--train.lr", "1e-4"]``; not for a loaded recipe.
        console: where progress goes; quiet by default.

    Raises:
        ConfigError, DataError, CheckpointError, CollapseError: one line each, before training where possible.
        Interrupted: on Ctrl-C, after saving.
    """
    loaded = as_recipe(recipe, overrides)
    folder = Path(out) if out is not None else Path("runs") / Path(loaded.source).stem
    require_utf8(folder.resolve())
    accelerator = new_accelerator(loaded)
    if loaded.train.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"`train.batch_size` is {loaded.train.batch_size}, over {accelerator.num_processes} processes. "
            f"Use a multiple of {accelerator.num_processes}."
        )
    shown = console if console is not None and accelerator.is_main_process else Console(quiet=True)
    run = RunFolder(folder)
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return TrainResult(folder, _fit(loaded, accelerator, run, shown), peak_memory_gib(), loaded)
    with run:
        shown.print(f"{loaded.method} from {loaded.source} into {folder}", highlight=False)
        if overrides and not isinstance(recipe, Recipe) and (changed := _changes(recipe, loaded)):
            shown.print(f"changed from the recipe: {', '.join(changed)}", highlight=False)
        parts = prepare(loaded)
        run.check_config(loaded)
        run.recover()
        accelerator.wait_for_everyone()
        position = _fit(loaded, accelerator, run, shown, parts)
    return TrainResult(folder, position, peak_memory_gib(), loaded)


def as_recipe(recipe: str | Path | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """A recipe by path or name with overrides on top, or one that is loaded already.

    Raises:
        ConfigError: overrides for a loaded recipe, which has its values; or as ``load_recipe``.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        raise ConfigError(
            f"`overrides` are given with a recipe that is already loaded ('{recipe.source}'). Expected its path or "
            "name. Give that, or put them in while loading: load_recipe(name, overrides)."
        )
    return recipe


def new_accelerator(recipe: Recipe) -> Accelerator:
    """Device, precision and processes of a training."""
    precision = {"float32": "no", "bf16": "bf16"}[recipe.train.precision]
    forbid_tf32()
    AcceleratorState._reset_state()  # else a second run in one Python process can not have another precision
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


_OF_A_RUN = ("data.root", "data.name", "train.seed")  # differ between runs of one recipe


def _changes(name: str | Path, trained: Recipe) -> list[str]:
    """What a run does otherwise than the recipe of that name: ``["train.epochs 25 -> 1"]``.

    Of a part that became one of another kind (``model.text.kind bigru -> bert``) only what both have is compared.
    """
    try:
        published = load_recipe(name)
    except ConfigError:  # a recipe that is none without the overrides
        return []
    new = dict(_flat(trained.dump()))
    return [
        f"{key} {_shown(value)} -> {_shown(new[key])}"
        for key, value in _flat(published.dump())
        if key in new and new[key] != value and key not in _OF_A_RUN
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the sections of a recipe; tables without known keys (``lr_factors``) stay whole."""
    for key, value in values.items():
        is_part = isinstance(value, Mapping) and (not prefix or "kind" in value)
        yield from _flat(value, f"{prefix}{key}.") if is_part else [(f"{prefix}{key}", value)]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _fit(
    recipe: Recipe, accelerator: Accelerator, run: RunFolder, console: Console, parts: Parts | None = None
) -> Position:
    parts = parts if parts is not None else prepare(recipe)
    method = parts.method.to(accelerator.device)
    data = recipe.data
    about = {
        "recipe": Path(recipe.source).stem,
        "columns": data.columns,
        "captions_per_image": data.captions_per_image,
        "skip_broken": data.skip_broken,
        "eval_batch": recipe.train.eval_batch,
        "trained_on": parts.train.name,
    }
    model = Model(method, parts.tokenizer, about, max_words=recipe.data.max_words)
    if parts.select is not None:  # a caption too long for the encoder must not stop the run at its first evaluation
        model.tokenize(parts.select.captions, where=f"{parts.select.dataset}/{parts.select.name}")
    optimizer = build_optimizer(method, recipe.train)
    position = _resume(run, model, optimizer)
    if position.step:
        _say_position(console, run.path, position, recipe)
    pairs, workers = training_pairs(recipe, parts), recipe.data.workers
    if accelerator.is_main_process:  # not before: a run that is refused leaves its folder as it was
        run.write_config(recipe)
        run.forget_after(position)
    trainer = Trainer(model, pairs, parts.select, recipe.train, accelerator, optimizer, run, console, workers)
    describe(console, parts, method, trainer)
    return trainer.fit(position)


def _resume(run: RunFolder, model: Model, optimizer: torch.optim.Optimizer) -> Position:
    """Continue from ``last/`` when there is one.

    Raises:
        CheckpointError: the state is damaged or does not fit.
        ConfigError: the vocabulary is no longer the one that the run began with.
    """
    found = run.load_state()
    if found is None:
        return Position()
    state, position = found
    _require_same_words(run, model.require_tokenizer())
    load_weights(model.method, run.last, built_from="the recipe")
    load_training_state(model.method, run.last, built_from="the recipe")
    try:
        restore(optimizer, model.method, state)
    except ValueError as error:
        raise CheckpointError(
            f"the optimiser state in '{run.last}' does not fit the model: {error}. Remove '{run.last}' to start again."
        ) from None
    return position


def _require_same_words(run: RunFolder, tokenizer: Tokenizer) -> None:
    """Refuse to go on with a run over another vocabulary."""
    stored = load_tokenizer(run.last)
    if stored is None:
        raise CheckpointError(f"'{run.last}' lacks its vocabulary. Remove '{run.last}' to start again.")
    go_on = "Use the same data and vocabulary to go on with it, or another folder with --out DIR."
    if stored.size != tokenizer.size:
        raise ConfigError(
            f"run folder '{run.path}' holds a run over another vocabulary: the vocabulary has {tokenizer.size:,} "
            f"words, the weights have {stored.size:,} word rows. {go_on}"
        )
    if stored.fingerprint() != tokenizer.fingerprint():
        raise ConfigError(
            f"run folder '{run.path}' holds a run over other words than this vocabulary, or in other case. {go_on}"
        )


def _say_position(console: Console, run: Path, position: Position, recipe: Recipe) -> None:
    """Where a run goes on; of one that is over, how to train on."""
    if end := position.end(recipe.train):
        anew = f"--train.start_from {shlex.quote(str(run))} --out DIR"
        console.print(f"'{run}' is finished: {end}, or start a new run from its weights: {anew}", highlight=False)
    else:
        console.print(f"resuming '{run}' at epoch {position.epoch + 1}, step {position.step}", highlight=False)


def describe(console: Console, parts: Parts, method: torch.nn.Module, trainer: Trainer) -> None:
    """The first lines of a run: data, model and batches, with the decisions taken."""
    train, select = parts.train, parts.select
    count = sum(p.numel() for p in method.parameters())
    console.print(
        f"train on {train.dataset}/{train.name}: {train.n_images:,} images, "
        f"{train.n_captions:,} captions ({'; '.join(train.notes)})",
        highlight=False,
    )
    if select is not None:
        console.print(
            f"select on {select.dataset}/{select.name}: {select.n_images:,} images, {select.n_captions:,} captions",
            highlight=False,
        )
    console.print(
        f"{count:,} parameters, vocabulary {parts.tokenizer.size:,}, "
        f"{len(trainer.plan):,} batches of {trainer.config.batch_size} an epoch",
        highlight=False,
    )
    report_words(console, parts.tokenizer, train.captions)
