"""Bringing the saved shortlist up to the catalog: what a writer does when its work is done."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from patchword.errors import DataError, PatchwordError
from patchword.shortlist import backend_class
from patchword.shortlist.base import GlobalIndex, Ids
from patchword.shortlist.files import discard, open_saved, take_over, write_saved
from patchword.shortlist.fit import OWN_WIDTH, Fit
from patchword.shortlist.saved import Saved, is_current, name_newest, read_saved
from patchword.shortlist.view import filled, learn_fit
from patchword.store.catalog import generation
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.manifest import BackendChoice, Manifest, read_manifest, write_manifest
from patchword.store.schema import KINDS
from patchword.store.snapshot import Snapshot, open_snapshot
from patchword.threads import one_core

_log = logging.getLogger(__name__)
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


def follow_catalog(folder: Path | str | IndexFolder) -> bool:
    """Do what `update_shortlist` does, for a writer whose work is committed: a backend that fails only costs speed.

    Readers go on with the shortlist before it, or with one in memory, until a later writer succeeds.

    Returns:
        Whether the saved shortlist is what the index holds.
    """
    place = open_folder(folder)
    try:
        update_shortlist(place)
    except (PatchwordError, OSError) as error:
        _log.warning(
            "warning: the shortlist was not renewed, and searches make do without: %s. It is renewed by the next: "
            "patchword index sync %s",
            str(error).rstrip("."),
            place.path,
        )
        return False
    return True


def check_backend(choice: BackendChoice, width: int) -> None:
    """Refuse a backend that can not work, before anything is made.

    Args:
        choice: the backend and its options.
        width: of the shortlist's vectors.

    Raises:
        ConfigError: it is unknown or not installed, or an option is wrong.
        DataError: its server does not answer.
    """
    backend_class(choice.kind).check(min(width, OWN_WIDTH), choice.options)


def change_shortlist(place: IndexFolder, manifest: Manifest) -> None:
    """Build the shortlist as another manifest says, then put both in the place of the old ones.

    The caller holds the writer's lock. Until everything is built nothing of the old shortlist changes; a writer that is
    killed between the manifest and the shortlist leaves the rest to the next one.

    Args:
        place: of the index.
        manifest: the new one; its vectors are those that the shards hold.

    Raises:
        ConfigError: the backend refuses.
        DataError: the index can not be read, or a server does not answer.
    """
    made = dict[str, Saved]()
    try:
        with one_core():
            for kind in KINDS:
                snapshot = open_snapshot(place, kind)
                if not len(snapshot) and read_saved(place, kind) is None:
                    continue
                fit, backend = _made(place, manifest, snapshot)
                made[kind] = _state(manifest, snapshot)
                write_saved(place, made[kind], fit, backend, snapshot.ids)
        write_manifest(place, manifest)
    except BaseException:
        for kind, state in made.items():
            discard(place, kind, state)
        raise
    for kind, state in made.items():
        take_over(place, kind, state, is_new=True)


def _update(place: IndexFolder, manifest: Manifest, kind: str, newest: int, again: bool) -> bool:
    if not again and is_current(place, manifest, kind, newest):
        return False
    saved = read_saved(place, kind)
    if saved is not None and not saved.suits(manifest):
        saved = None
    snapshot = open_snapshot(place, kind)
    if not len(snapshot) and saved is None:
        return False
    known = None if saved is None or again else _continued(place, saved, snapshot)
    if saved is None or known is None:
        fit, backend = _made(place, manifest, snapshot)
    else:
        fit, backend, ids = known
        if np.array_equal(ids, snapshot.ids):  # a change elsewhere: only the generation is new
            name_newest(place, kind, saved.model_copy(update={"generation": snapshot.generation}))
            return True
    state = _state(manifest, snapshot)
    write_saved(place, state, fit, backend, snapshot.ids)
    take_over(place, kind, state, is_new=known is None)
    return True


def _state(manifest: Manifest, snapshot: Snapshot) -> Saved:
    """What is saved of a snapshot."""
    return Saved(
        folder=f"{snapshot.kind}-{snapshot.generation:012d}-{time.time_ns():x}",
        generation=snapshot.generation,
        backend=manifest.backend.kind,
        options=manifest.backend.options,
        pooled=manifest.pooled,
        count=len(snapshot),
    )


def _made(place: IndexFolder, manifest: Manifest, snapshot: Snapshot) -> tuple[Fit, GlobalIndex]:
    """A backend with all items of a snapshot."""
    fit = learn_fit(snapshot, manifest.model.method, manifest.pooled.kind)
    maker = backend_class(manifest.backend.kind)
    options = maker.with_defaults(manifest.backend.options, place, snapshot.kind)
    return fit, filled(maker.empty(fit.width, len(snapshot), options), snapshot, fit)


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
