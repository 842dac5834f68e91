"""The saved shortlist of an index: one folder for each state, and a file that names the newest one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from patchword.config import Config
from patchword.errors import DataError
from patchword.files import sync_folder
from patchword.index.layout import IndexFolder, write_whole
from patchword.index.manifest import Manifest, Pooling
from patchword.index.shortlist import backend_class
from patchword.index.shortlist.base import GlobalIndex, Ids
from patchword.index.shortlist.fit import Fit


class Saved(Config):
    """What the newest saved state is.

    Attributes:
        folder: its name below ``shortlist/``.
        generation: of the catalog that it holds.
        backend: ``exact``, ``faiss`` or ``milvus``.
        options: that it was made with.
        pooled: how its vectors were made.
        count: number of items.
    """

    folder: str
    generation: int
    backend: str
    options: dict[str, Any]
    pooled: Pooling
    count: int

    def suits(self, manifest: Manifest) -> bool:
        """Whether it was made as the manifest of its index says now."""
        choice = manifest.backend
        return (self.backend, self.options, self.pooled) == (choice.kind, choice.options, manifest.pooled)


def read_saved(place: IndexFolder, kind: str) -> Saved | None:
    """The newest saved state; None where there is none that can be read: it can always be made again."""
    try:
        saved = Saved.model_validate_json((place.shortlist / f"{kind}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return saved if (place.shortlist / saved.folder).is_dir() else None


def open_saved(place: IndexFolder, kind: str, saved: Saved, options: Mapping[str, Any]) -> tuple[Fit, GlobalIndex, Ids]:
    """The coordinates, the backend and the ids in it, ascending.

    Args:
        place: of the index.
        kind: ``image`` or ``caption``.
        saved: the state.
        options: of the backend that differ here.

    Raises:
        ConfigError: there is no such backend, or it is not installed.
        DataError: a file is missing or damaged, or a server does not answer.
    """
    folder = place.shortlist / saved.folder
    try:
        ids = np.load(folder / "all_ids.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"'{folder / 'all_ids.npy'}' can not be read: {error}.") from None
    backend = backend_class(saved.backend)
    filled = backend.with_defaults({**saved.options, **options}, place, kind)
    return Fit.load(folder), backend.load(folder, filled), ids


def write_saved(place: IndexFolder, kind: str, saved: Saved, fit: Fit, backend: GlobalIndex, ids: Ids) -> None:
    """Write a state under a name of its own, name it the newest, and remove older ones.

    A reader that has just read the old name and finds its folder gone makes its own or reads again.
    """
    folder = place.shortlist / saved.folder
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    fit.save(folder)
    backend.save(folder)
    np.save(folder / "all_ids.npy", ids)
    sync_folder(folder)
    name_newest(place, kind, saved)
    for old in place.shortlist.glob(f"{kind}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def name_newest(place: IndexFolder, kind: str, saved: Saved) -> None:
    """Say which state is the newest."""
    write_whole(place.shortlist / f"{kind}.json", json.dumps(saved.model_dump(mode="json"), indent=2) + "\n")
