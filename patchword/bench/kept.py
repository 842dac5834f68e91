"""What an index that `bench search` keeps was made with: a note beside it, written when everything else is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from patchword.errors import ConfigError
from patchword.files import write_whole
from patchword.model import Model
from patchword.store.layout import IndexFolder
from patchword.store.model_hash import folder_of, hash_checkpoint

FILE = "bench.json"


def wanted_index(
    images: int, backend: str, model: Model | None, data: Path | None, dataset: str | None
) -> dict[str, Any]:
    """What decides which index is measured.

    Args:
        images, backend: of the index.
        model: a trained one, told by its hash; None where random weights and made vectors are measured.
        data, dataset: the folder whose sets are multiplied, and its data set's name.
    """
    return {
        "images": images,
        "backend": backend,
        "model": "random" if model is None else hash_checkpoint(folder_of(model)),
        "data": None if data is None else str(data.resolve()),
        "name": dataset,
    }


def is_kept(place: IndexFolder, wanted: dict[str, Any]) -> bool:
    """Whether a finished index of this kind is in a folder; False for a folder that is empty or not there.

    Raises:
        ConfigError: the folder holds something else.
    """
    path = place.path
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    try:
        there = json.loads((path / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise ConfigError(
            f"'{path}' holds no finished index of `bench search`, but something else, or one whose build was stopped. "
            "Choose another --folder, or remove this one if nothing in it is needed."
        )
    differ = [key for key in wanted if there.get(key) != wanted[key]]
    if not differ:
        return True
    key = differ[0]
    raise ConfigError(
        f"'{path}' holds an index with {key} {there.get(key)!r}. Expected {wanted[key]!r}, as asked for. "
        "Ask for what is there, choose another --folder, or remove this one."
    )


def note_kept(place: IndexFolder, wanted: dict[str, Any]) -> None:
    """Say that the index in a folder is finished, and what it was made with."""
    write_whole(place.path / FILE, json.dumps(wanted) + "\n", durable=True)
