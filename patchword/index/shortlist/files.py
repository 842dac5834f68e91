"""The files of the saved shortlist of an index: one folder for each state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from patchword.errors import DataError
from patchword.files import sync_folder
from patchword.index.layout import IndexFolder
from patchword.index.shortlist import backend_class
from patchword.index.shortlist.base import GlobalIndex, Ids
from patchword.index.shortlist.fit import Fit
from patchword.index.shortlist.saved import Saved, name_newest


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
