"""Checkpoint folders on disk: replaced whole or not at all, every tensor accounted for, nothing ever unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from patchword.errors import CheckpointError, PatchwordError
from patchword.files import save_tensors
from patchword.methods.base import Method, is_training_only

FORMAT = 1
# What a checkpoint folder may hold, and a new checkpoint may replace.
_OURS = frozenset(
    [
        "config.json",
        "model.safetensors",
        "training_only.safetensors",
        "training.pt",
        "vocabulary.json",
        "vocab.txt",
        "tokenizer_config.json",
        "tokenizer.json",
    ]
)
WEIGHTS, TRAINING_WEIGHTS = "model.safetensors", "training_only.safetensors"


def inference_state(method: Method) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint holds: all but what only training needs."""
    return _state(method, training_only=False)


def _state(method: Method, *, training_only: bool) -> dict[str, torch.Tensor]:
    return {
        key: value.detach().cpu().contiguous()
        for key, value in method.state_dict().items()
        if is_training_only(method, key) == training_only
    }


def write_training_state(folder: Path, method: Method) -> None:
    """Write the rest of the state (queues, key encoders) beside the weights, when the method has such."""
    state = _state(method, training_only=True)
    if state:
        save_tensors(state, folder / TRAINING_WEIGHTS)


def save_folder(
    folder: Path,
    write: Callable[[Path], None],
    *,
    what: str = "checkpoint",
    files: Collection[str] = _OURS,
    error: type[PatchwordError] = CheckpointError,
) -> None:
    """Fill a folder under a temporary name and put it in place; whatever fails, the old folder survives.

    Args:
        folder: the place.
        write: fills the folder that it is given.
        what: the folder is, for messages.
        files: that such a folder may hold; one with others is not replaced.
        error: to raise.

    Raises:
        PatchwordError: ``error``: the place is a file or holds something else, the disk is full, or it can not be
            written.
    """
    folder = folder.resolve()
    refuse_others(folder, what, files, error)
    fresh, old = folder.with_name(f".{folder.name}.new"), _aside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(folder)  # else an interrupted replacement would lose its only complete folder below
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir()
        write(fresh)
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as failure:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = getattr(failure, "strerror", None) or str(failure)
        kept = f" The {what} that was there before is untouched." if folder.exists() else ""
        raise error(
            f"'{folder}' could not be written: {reason}.{kept} Free some space and run the same command again."
        ) from None
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def refuse_others(folder: Path, what: str, files: Collection[str], error: type[PatchwordError]) -> None:
    """Refuse a place whose content must not be replaced: a file, or a folder with other files than ``files``."""
    if folder.is_file():
        raise error(f"'{folder}' is a file. Expected the name of a folder to write.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in files) if folder.is_dir() else []
    if others:
        named = ", ".join(repr(name) for name in others[:3]) + (" ..." if len(others) > 3 else "")
        raise error(
            f"'{folder}' holds {named}, which a new {what} would replace. Name a new folder, such as '{folder / what}'."
        )


def _aside(folder: Path) -> Path:
    """Where a folder lies between the two renames of its replacement."""
    return folder.parent / f".{folder.name}.old"


def recover_folder(folder: Path) -> Path:
    """Undo a replacement that was interrupted between its two renames; only for who may write the folder."""
    old = _aside(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by a path: itself, or ``best/`` or ``last/`` of a run.

    One that is just being replaced, or whose replacement was interrupted, is found where it was put aside. Nothing is
    renamed: a training may be about to.

    Raises:
        CheckpointError: there is none; the message lists what was tried.
    """
    tried = [path, path / "best", path / "last"]
    for folder in tried:
        for place in (folder, _aside(folder)):
            if (place / "config.json").is_file():
                return place
    if not path.exists():
        raise CheckpointError(
            f"'{path}' does not exist. Expected a run folder or a checkpoint folder (config.json + model.safetensors)."
        )
    if path.is_file():
        raise CheckpointError(
            f"'{path}' is a file, and checkpoints are folders. If authors' code saved it, turn it into one with: "
            "patchword import METHOD FILE -o DIR"
        )
    seeds = sorted((inner.name for inner in path.glob("seed_*") if inner.is_dir()), key=lambda name: (len(name), name))
    if seeds:
        raise CheckpointError(
            f"'{path}' holds the runs of {len(seeds)} seeds: {', '.join(seeds)}. "
            f"Name one of them ('{path / seeds[0]}'); evaluate takes several: patchword evaluate {path}/seed_* --seeds"
        )
    raise CheckpointError(
        f"'{path}' holds no checkpoint. Tried {', '.join(repr(str(f / 'config.json')) for f in tried)}."
    )


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: it is not one.
    """
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' is not a checkpoint's config: {error}. Save or import the checkpoint again."
        ) from None
    expected: dict[str, Any] = {"format": int, "method": str, "model": dict, "loss": dict, "vocabulary": dict | None}
    expected |= {"about": dict, "max_words": int | None}
    for key, kind in expected.items():
        if not isinstance(config, dict) or key not in config or not isinstance(config[key], kind):
            raise CheckpointError(
                f"'{path}' is not a checkpoint's config: `{key}` is missing or of the wrong kind. "
                "Save or import the checkpoint again."
            )
    return dict(config)


def require_utf8(path: Path) -> None:
    """Refuse a place whose name safetensors and tokenizers can not open.

    Raises:
        CheckpointError: its name, or that of a folder above, is not valid UTF-8.
    """
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    if shown != str(path):
        raise CheckpointError(f"'{shown}': the name is not valid UTF-8. Rename it.")


def load_weights(method: Method, folder: Path, built_from: str = "its config.json") -> None:
    """Fill a method with the weights of a checkpoint folder, every tensor accounted for.

    Args:
        method: to fill.
        folder: the checkpoint.
        built_from: what gave the method its sizes, for messages.
    """
    _load_state(method, folder / WEIGHTS, inference_state(method), built_from)


def load_training_state(method: Method, folder: Path, built_from: str = "its config.json") -> None:
    """Fill a method with what ``write_training_state`` wrote; arguments as for ``load_weights``."""
    wanted = _state(method, training_only=True)
    if wanted:
        _load_state(method, folder / TRAINING_WEIGHTS, wanted, built_from)


def _load_state(method: Method, path: Path, wanted: Mapping[str, torch.Tensor], built_from: str) -> None:
    """Load one file whose tensors must be exactly ``wanted``, in names and shapes."""
    require_utf8(path)
    try:
        with path.open("rb"):  # safetensors calls a file missing that it may not read
            state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is missing. Expected the weights beside config.json.") from None
    except PermissionError as error:
        raise CheckpointError(f"'{path}' can not be read: {error.strerror}.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"'{path}' is truncated or damaged ({path.stat().st_size:,} bytes): {error}. Use another checkpoint."
        ) from None
    if set(state) != set(wanted):
        odd = sorted(set(state) ^ set(wanted))
        raise CheckpointError(
            f"'{path}' does not fit {built_from}: {len(odd)} tensors differ, the first is `{odd[0]}`."
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"'{path}' tensor `{key}` has shape {tuple(state[key].shape)}; {built_from} says {tuple(value.shape)}."
            )
    method.load_state_dict(state, strict=False)  # the rest of the state is in another file
