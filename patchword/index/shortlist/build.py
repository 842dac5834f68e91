"""Bringing the saved shortlist up to the catalog: what a writer does when its work is done."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from patchword.errors import DataError
from patchword.index.catalog import generation
from patchword.index.layout import IndexFolder, open_folder
from patchword.index.manifest import Manifest, read_manifest
from patchword.index.shortlist import backend_class
from patchword.index.shortlist.base import GlobalIndex, Ids
from patchword.index.shortlist.files import open_saved, write_saved
from patchword.index.shortlist.fit import Fit
from patchword.index.shortlist.saved import Saved, is_current, name_newest, read_saved
from patchword.index.shortlist.view import filled, learn_fit
from patchword.index.snapshot import Snapshot, open_snapshot
from patchword.threads import one_core

GROWTH = 1.5  # times as many items as the directions were learnt from: they are learnt again
MOST_DEAD = 0.1  # share of deleted items in the backend: it is built again


def update_shortlist(folder: Path | str | IndexFolder, *, again: bool = False) -> bool:
    """Bring the saved shortlist of an index up to the newest generation. The caller holds the writer's lock.

    Args:
        folder: of the index.
        again: build it from nothing, also where it is up to date.

    Returns:
        Whether anything was written.

    Raises:
        ConfigError: the backend of the manifest is unknown, not installed, or has a wrong option.
        DataError: the index can not be read, or a server does not answer.
    """
    place = open_folder(folder)
    manifest = read_manifest(place)
    newest = generation(place.path)
    with one_core():
        changed = [_update(place, manifest, kind, newest, again) for kind in ("image", "caption")]
    return any(changed)


def _update(place: IndexFolder, manifest: Manifest, kind: str, newest: int, again: bool) -> bool:
    if not again and is_current(place, manifest, kind, newest):
        return False
    saved, choice = read_saved(place, kind), manifest.backend
    if saved is not None and not saved.suits(manifest):
        saved = None
    snapshot = open_snapshot(place, kind)
    if not len(snapshot) and saved is None:
        return False
    known = None if saved is None or again else _continued(place, saved, snapshot)
    if saved is None or known is None:
        fit = learn_fit(snapshot, manifest.model.method, manifest.pooled.kind)
        maker = backend_class(choice.kind)
        options = maker.with_defaults(choice.options, place, kind)
        backend = filled(maker.empty(fit.width, len(snapshot), options), snapshot, fit)
    else:
        fit, backend, ids = known
        if np.array_equal(ids, snapshot.ids):  # a change elsewhere: only the generation is new
            name_newest(place, kind, saved.model_copy(update={"generation": snapshot.generation}))
            return True
    state = Saved(
        folder=f"{kind}-{snapshot.generation:012d}-{time.time_ns():x}",
        generation=snapshot.generation,
        backend=choice.kind,
        options=choice.options,
        pooled=manifest.pooled,
        count=len(snapshot),
    )
    write_saved(place, kind, state, fit, backend, snapshot.ids)
    return True


def _continued(place: IndexFolder, saved: Saved, snapshot: Snapshot) -> tuple[Fit, GlobalIndex, Ids] | None:
    """The saved backend with new items added and gone ones deleted; None where it is better built again."""
    try:
        fit, backend, ids = open_saved(place, snapshot.kind, saved, {})
    except DataError:
        if backend_class(saved.backend).is_on_server:
            raise
        return None
    if fit.width == 0 or len(snapshot) > max(2000, GROWTH * fit.learnt_from) or len(snapshot) < fit.learnt_from / 4:
        return None
    gone = np.setdiff1d(ids, snapshot.ids, assume_unique=True)
    fresh = np.flatnonzero(~np.isin(snapshot.ids, ids, assume_unique=True))
    backend.delete(gone)
    if backend.dead_share > MOST_DEAD:
        return None
    filled(backend, snapshot, fit, fresh)
    return fit, backend, ids
