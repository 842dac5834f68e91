"""The content hash of a checkpoint: two folders have the same hash when they encode the same."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

from patchword.errors import CheckpointError
from patchword.loading import load
from patchword.model import Model
from patchword.store.manifest import Manifest, ModelStamp
from patchword.zero_shot import fingerprint

ModelGiven = Model | Path | str | None  # a loaded model, its folder, or: where the manifest says

_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".bin")
_NOT_READ = ("training", "trainer", "metrics", "results")  # beginnings of files that say nothing about encoding
_KEYS = ("format", "method", "model", "vocabulary", "max_words")  # of our own config.json: not how it was trained


def model_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that decide how it encodes, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _SUFFIXES and not path.name.startswith((*_NOT_READ, ".")) and path.is_file()
    )


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of the files that decide how a checkpoint encodes."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in model_files(folder)}


def hash_checkpoint(folder: Path) -> str:
    """Hash of the weights, the configuration and the vocabulary of a checkpoint folder.

    Raises:
        CheckpointError: it can not be read, or there is nothing to hash.
    """
    digest = blake2b(digest_size=16)
    try:
        files = model_files(folder)
        if not files:
            raise CheckpointError(f"'{folder}' holds no checkpoint. Expected config.json and weights.")
        for path in files:
            digest.update(f"{path.name}\n".encode())
            if path.name == "config.json":
                digest.update(_config(path))
                continue
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    except OSError as error:
        raise CheckpointError(f"'{error.filename}' can not be read: {error.strerror}.") from None
    return digest.hexdigest()


def _config(path: Path) -> bytes:
    """What a configuration says about encoding, in one spelling."""
    raw = path.read_bytes()
    try:
        values: Any = json.loads(raw)
    except ValueError:
        return raw
    if isinstance(values, dict) and set(_KEYS) <= set(values):
        values = {key: values[key] for key in _KEYS}
    return json.dumps(values, sort_keys=True).encode()


def known_hash(folder: Path, stamp: ModelStamp) -> str:
    """The hash of a checkpoint folder; that of ``stamp`` where its files are untouched since it was taken.

    Raises:
        CheckpointError: the folder can not be read.
    """
    try:
        untouched = Path(stamp.path) == folder.resolve() and stamps(folder) == stamp.files
    except OSError as error:
        raise CheckpointError(f"'{folder}' can not be read: {error.strerror}. Expected a checkpoint folder.") from None
    return stamp.hash if untouched else hash_checkpoint(folder)


def stamp_of(model: Model) -> ModelStamp:
    """What the manifest says about a model.

    Raises:
        CheckpointError: the model was never saved.
    """
    folder = folder_of(model)
    before = stamps(folder)
    config: Any = model.method.config
    return ModelStamp(
        path=str(folder.resolve()),
        label=model.label,
        method=model.method.name,
        hash=hash_checkpoint(folder),
        files=before,
        reads=model.method.reads,
        interaction=getattr(config, "interaction", None),
        content=hash_loaded(model),
    )


def hash_loaded(model: Model) -> str:
    """Hash of what was loaded: weights, configuration and vocabulary, whatever else lies in the folder."""
    words = None if model.tokenizer is None else model.tokenizer.fingerprint()
    return blake2b(json.dumps([fingerprint(model), words, model.max_words]).encode(), digest_size=16).hexdigest()


def folder_of(model: Model) -> Path:
    """The checkpoint folder of a model.

    Raises:
        CheckpointError: it was never saved.
    """
    if model.path is None:
        raise CheckpointError("this model has no folder, so an index could not name it. Save it first: model.save(DIR)")
    return model.path


def require_same_model(model: Model, manifest: Manifest) -> None:
    """Refuse a model that is not the one an index was made with.

    Its folder may hold more files by now (that of a hub's cache gets them from other programs): then what was loaded
    decides.

    Args:
        model: as loaded.
        manifest: of the index.

    Raises:
        CheckpointError: it encodes otherwise, or can not be read.
    """
    folder = folder_of(model)
    found = known_hash(folder, manifest.model)
    if found != manifest.model.hash and hash_loaded(model) != manifest.model.content:
        raise CheckpointError(
            f"'{folder}' is not the model that this index was made with: its hash is {found[:12]}, that of the index "
            f"is {manifest.model.hash[:12]} ({manifest.model.label}). Use that model, or build a new index."
        )


def open_model(manifest: Manifest, model: ModelGiven = None, *, device: str = "cpu") -> Model:
    """Load the model of an index and check that it is the one.

    Args:
        manifest: of the index.
        model: a loaded model or a folder, where it is not (any more) at the path in the manifest.
        device: where the weights go.

    Raises:
        CheckpointError: it is missing or another one.
    """
    if isinstance(model, Model):
        require_same_model(model, manifest)
        config: Any = model.method.config
        if getattr(config, "interaction", None) != manifest.model.interaction:
            raise CheckpointError(
                f"this index was made with the interaction {manifest.model.interaction!r}, and the model is set to "
                f"{config.interaction!r}. Load it with: patchword.load(..., interaction={manifest.model.interaction!r})"
            )
        return model
    place = Path(manifest.model.path if model is None else model)
    if model is None and not place.exists():
        raise CheckpointError(
            f"the model of this index, '{place}', is gone. Name where it is now with --model (its content is checked)."
        )
    loaded = load(place, device=device, interaction=manifest.model.interaction)
    require_same_model(loaded, manifest)
    return loaded
