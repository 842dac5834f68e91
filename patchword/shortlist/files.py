"""The files of the saved shortlist of an index: one folder for each state."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from patchword.errors import DataError, PatchwordError
from patchword.files import sync_folder
from patchword.shortlist import backend_class
from patchword.shortlist.base import GlobalIndex, Ids
from patchword.shortlist.fit import Fit
from patchword.shortlist.saved import Saved, name_newest, read_saved
from patchword.store.layout import IndexFolder

_log = logging.getLogger(__name__)


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


def write_saved(place: IndexFolder, saved: Saved, fit: Fit, backend: GlobalIndex, ids: Ids) -> None:
    """Write a state under a name of its own; it is not the newest before `take_over`."""
    folder = place.shortlist / saved.folder
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    fit.save(folder)
    backend.save(folder)
    np.save(folder / "all_ids.npy", ids)
    sync_folder(folder)


def take_over(place: IndexFolder, kind: str, saved: Saved, *, is_new: bool) -> None:
    """Name a state the newest, and remove older ones.

    A reader that has just read the old name and finds its folder gone makes its own or reads again.

    Args:
        place: of the index.
        kind: ``image`` or ``caption``.
        saved: the state, written already.
        is_new: whether its backend was made from nothing, so that what the one before has elsewhere can go.
    """
    before = read_saved(place, kind)
    name_newest(place, kind, saved)
    if is_new and before is not None:
        discard(place, kind, before)
    for old in place.shortlist.glob(f"{kind}-*"):
        if old.name != saved.folder:
            shutil.rmtree(old, ignore_errors=True)


def discard(place: IndexFolder, kind: str, saved: Saved) -> None:
    """Remove a state and what it has elsewhere; that its server does not answer is only told."""
    folder = place.shortlist / saved.folder
    try:
        maker = backend_class(saved.backend)
        maker.discard(folder, maker.with_defaults(saved.options, place, kind))
    except PatchwordError as error:
        _log.warning("warning: the old shortlist could not be taken away: %s", error)
    shutil.rmtree(folder, ignore_errors=True)
