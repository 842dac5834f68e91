"""The run folder: one run at a time, nothing half-written, everything needed to go on bit for bit.

``config.yaml`` (merged recipe, versions), ``metrics.jsonl`` (a line per evaluation and per log interval), ``last/``
(newest state with optimiser), ``best/`` (model with the best dev rsum).
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import platform
import socket
import subprocess
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml

import patchword
from patchword.checkpoint import recover_folder, save_folder, write_training_state
from patchword.config import Source, TrainConfig
from patchword.errors import CheckpointError, ConfigError
from patchword.files import write_whole
from patchword.model import Model, write_model
from patchword.recipe import Recipe, make_recipe, to_yaml

STATE_FILE, LOCK_FILE = "training.pt", ".lock"
# What torch's safe reader raises on damaged bytes.
_UNREADABLE = (
    RuntimeError, OSError, LookupError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch, iteration: the next step to take.
        step: optimiser steps taken.
        best_rsum, best_epoch: of the selection split so far; -1 before the first evaluation.
        stale_epochs: epochs since the best one.
        recall, best_recall: running recall within the batch, now and at its best (see ``collapse``).
        violation, hardest_steps: running share of the margin that hardest negatives violate, and over how many steps.
        finished: nothing is left to do.
    """

    epoch: int = 0
    iteration: int = 0
    step: int = 0
    best_rsum: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    recall: float = -1.0
    best_recall: float = 0.0
    violation: float = 0.0
    hardest_steps: int = 0
    finished: bool = False

    def moved(self, **changes: Any) -> Position:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def end(self, config: TrainConfig) -> str:
        """Why a run of this configuration is over here, and what would let it go on; empty when it is not over."""
        if self.epoch >= config.epochs:
            return f"all of its {config.epochs} epochs are done. To train on, add --train.epochs {config.epochs + 5}"
        if config.patience is not None and self.stale_epochs >= config.patience:
            return (
                f"{self.stale_epochs} epochs were no better than the best one. To train on, add --train.patience "
                f"{self.stale_epochs + config.patience}"
            )
        return ""


class RunFolder:
    """A run's folder, locked while it is open; the system drops the lock of a process that dies.

    Args:
        path: created when missing, and removed again where nothing but the lock came into it.

    Raises:
        ConfigError: another live process trains in this folder, or the path is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> RunFolder:
        handle = None
        while handle is None:
            self._make()
            handle = self._try_lock()
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._lock = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            if self._made:
                self._remove_if_unused()
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        """Make the folder and those above it that are missing."""
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"run folder '{self.path}' is a file. Choose another with --out DIR.") from None
        except OSError as error:
            raise ConfigError(f"run folder '{self.path}' can not be made: {error.strerror}.") from None
        self._made = missing

    def _try_lock(self) -> int | None:
        """A handle of the lock file, which this process now holds; None when the file went away meanwhile."""
        place = self.path / LOCK_FILE
        try:
            handle = os.open(place, os.O_CREAT | os.O_RDWR)
        except OSError as error:
            if not self.path.exists():
                return None
            raise ConfigError(f"run folder '{self.path}' can not be written: {error.strerror}.") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 1000).decode(errors="replace")
            os.close(handle)
            raise ConfigError(
                f"run folder '{self.path}' is in use by {owner or 'another process'}. Wait for it, "
                "or choose another folder with --out DIR."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), place.stat()):
                return handle
        os.close(handle)
        return None

    def _remove_if_unused(self) -> None:
        """Remove the folders that were made when nothing but the lock is in them: the run was refused.

        Whoever opened the lock file before finds another one, or none, in its place, and tries again.
        """
        with suppress(OSError):  # not empty: another run has begun in it
            if [path.name for path in self.path.iterdir()] == [LOCK_FILE]:
                (self.path / LOCK_FILE).unlink()
                for folder in self._made:
                    folder.rmdir()

    @property
    def last(self) -> Path:
        """Folder of the newest state."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """Folder of the best model."""
        return self.path / "best"

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def recover(self) -> None:
        """Undo what a kill in the middle of a save left behind."""
        for folder in (self.last, self.best):
            recover_folder(folder)

    def forget_after(self, position: Position) -> None:
        """Drop log lines of steps that will be taken again, and of an evaluation that will be repeated."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
                step = line.get("step", 0)
                is_past = line.get("kind") == "train" or line.get("epoch", 0) <= position.epoch
                if step < position.step or (step == position.step and is_past):
                    kept.append(text)
            except ValueError:
                continue  # a line cut off by a kill
        write_whole(path, "".join(f"{text}\n" for text in kept))

    def check_config(self, recipe: Recipe) -> None:
        """Check a recipe against the one that is there, if any.

        Raises:
            ConfigError: the folder holds a run of another recipe.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            return
        theirs = _flat(self._settings(path))
        now = _flat(yaml.safe_load(to_yaml(recipe.dump())))  # written and read once, as theirs was
        keys = [*now, *(key for key in theirs if key not in now)]
        for key in keys:
            if key not in _MAY_CHANGE and now.get(key) != theirs.get(key):
                raise ConfigError(
                    f"run folder '{self.path}' holds a run with another setting: "
                    f"`{key}` is {theirs.get(key)!r} there, {now.get(key)!r} now. "
                    "Use the same setting to go on with it, or another folder with --out DIR."
                )

    def write_config(self, recipe: Recipe) -> None:
        """Write the merged recipe with everything that made the run, over the one that is there."""
        about = {"recipe": recipe.dump(), "source": recipe.source, "made_with": versions()}
        write_whole(self.path / "config.yaml", to_yaml(about))

    @staticmethod
    def _settings(path: Path) -> dict[str, Any]:
        """The recipe of a run as it would be written now: keys that came later have their defaults.

        Raises:
            ConfigError: the file is damaged, or has keys that are no more.
        """
        try:
            stored: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["recipe"]
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            stored = None
        if not isinstance(stored, Mapping):
            raise ConfigError(f"'{path}' is damaged. Choose another run folder with --out DIR.")
        recipe = make_recipe(stored, Source(str(path), {}))
        settings: dict[str, Any] = yaml.safe_load(to_yaml(recipe.dump()))
        return settings

    def save_last(self, model: Model, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Save model, optimiser and position together."""

        def write(folder: Path) -> None:
            write_model(folder, model)
            write_training_state(folder, model.method)
            state = {"optimizer": optimizer.state_dict(), "position": asdict(position)}
            with (folder / STATE_FILE).open("wb") as file:  # by name, torch reports a full disk as a RuntimeError
                torch.save(state, file)

        save_folder(self.last, write)

    def load_state(self) -> tuple[dict[str, Any], Position] | None:
        """Optimiser state and position of ``last/``, or None for a fresh run.

        Raises:
            CheckpointError: the state is damaged.
        """
        path = self.last / STATE_FILE
        if not self.last.exists():
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged bytes that look like another pickle protocol
                state = torch.load(path, map_location="cpu", weights_only=True)
            return state["optimizer"], Position(**state["position"])
        except _UNREADABLE as error:
            raise CheckpointError(
                f"'{path}' is damaged ({type(error).__name__}). Remove '{self.last}' to start again, "
                f"or use '{self.best}'."
            ) from None


# Settings that may differ when a run goes on: they change where it ends or how it is run, not what its steps are.
_MAY_CHANGE = {
    "train.micro_batch",  # the same steps up to rounding, or with other dropout; for a run that ran out of memory
    "train.epochs",
    "train.patience",
    "train.save_every_steps",
    "train.on_collapse",
    "train.eval_batch",
    "data.workers",
    "data.root",
    "data.vocabulary",
}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def versions() -> dict[str, str]:
    """Versions of what computes the numbers, and the git revision of the working folder when there is one."""
    from importlib.metadata import version

    made = {"patchword": patchword.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    made |= {name: version(name) for name in ("transformers", "numpy", "accelerate")}
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            cwd=Path(__file__).parent,
            check=False,
        )
        made["revision"] = revision.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        made["revision"] = "unknown"
    return made
