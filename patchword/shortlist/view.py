"""The shortlist as a reader sees it: a saved backend, and what is newer than its files beside it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchword.errors import DataError
from patchword.methods import method_class
from patchword.shortlist import backend_class
from patchword.shortlist.base import NONE, GlobalIndex, Ids
from patchword.shortlist.exact import ExactIndex
from patchword.shortlist.files import open_saved
from patchword.shortlist.fit import OWN_WIDTH, WIDTH, Fit, learn
from patchword.shortlist.saved import Saved, read_saved
from patchword.shortlist.served import ServedIndex, warn_of
from patchword.store.layout import IndexFolder
from patchword.store.manifest import Pooling, PoolKind
from patchword.store.snapshot import Snapshot

_LEARNT_FROM = 20_000  # items whose shortlist vectors the directions are computed from
_SAMPLE_BYTES = 128 << 20  # of the sample's vectors


@dataclass(frozen=True)
class Shortlist:
    """A saved backend with what is newer beside it.

    It never changes, so that searches go on while another one takes its place.

    Attributes:
        fit: coordinates of items and queries.
        base: as saved; it may hold items that are gone, and on a server newer ones, which are not taken from it.
        base_ids: ids in ``base``, ascending.
        fresh: items that ``base`` lacks.
        gone: whether ``base`` holds items that are gone.
        ids: ids that may be found, ascending.
        saved: what ``base`` was read from; None when it was made in memory.
    """

    fit: Fit
    base: GlobalIndex | ServedIndex
    base_ids: Ids
    fresh: ExactIndex
    gone: bool
    ids: Ids
    saved: Saved | None

    def find(self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None) -> list[Ids]:
        """The ids of about the k best items of each query, best first."""
        among = self.ids if allowed is None and self.gone else allowed
        found, scores = self.base.search(queries, k, among)
        newer = ~_among(found, self.base_ids)  # a server's collection is the writer's: it may know more than `base_ids`
        if newer.any():
            found, scores = np.where(newer, NONE, found), scores.masked_fill(torch.from_numpy(newer), -torch.inf)
        if len(self.fresh):
            more, more_scores = self.fresh.search(queries, k, allowed)
            found = np.concatenate([found, more], axis=1)
            scores = torch.cat([scores, more_scores], dim=1)
            best = scores.topk(k, dim=1).indices.numpy()
            found = np.take_along_axis(found, best, axis=1)
        return [row[row != NONE] for row in found]

    def advanced(self, snapshot: Snapshot) -> Shortlist:
        """This shortlist for another snapshot: new items are held in memory, gone ones are no longer found."""
        known = np.isin(snapshot.ids, self.base_ids, assume_unique=True)
        rows = np.flatnonzero(~known)
        fresh = ExactIndex(snapshot.ids[rows], self.fit.coordinates(pooled_rows(snapshot, rows)))
        gone = int(known.sum()) < len(self.base_ids)
        return Shortlist(self.fit, self.base, self.base_ids, fresh, gone, snapshot.ids, self.saved)


def _among(found: Ids, known: Ids) -> NDArray[np.bool_]:
    """Which of some ids ``(Q, k)`` are among ascending ones."""
    if not len(known):
        return np.zeros(found.shape, dtype=np.bool_)
    return np.asarray(known[np.minimum(np.searchsorted(known, found), len(known) - 1)] == found)


def open_shortlist(
    place: IndexFolder, snapshot: Snapshot, method: str, pooled: Pooling, options: Mapping[str, Any]
) -> Shortlist:
    """The saved shortlist, brought up to the snapshot; one in memory where there is none, it is unreadable, or its
    server does not answer.
    """
    for _ in range(3):
        saved = read_saved(place, snapshot.kind)
        if saved is None or saved.pooled != pooled:
            break
        try:
            fit, base, ids = open_saved(place, snapshot.kind, saved, options)
        except DataError as error:
            if read_saved(place, snapshot.kind) == saved and backend_class(saved.backend).is_on_server:
                warn_of(error)
                break
            continue  # a writer has replaced it just now, or its files are damaged
        if len(fit.mean) != snapshot.pooled_width:  # a writer is changing the vectors
            break
        searched = base if not base.is_on_server else ServedIndex(base, partial(_filled_in_memory, snapshot, fit))
        empty = ExactIndex.empty(fit.width)
        return Shortlist(fit, searched, ids, empty, False, snapshot.ids, saved).advanced(snapshot)
    return in_memory(snapshot, method, pooled)


def in_memory(snapshot: Snapshot, method: str, pooled: Pooling) -> Shortlist:
    """A shortlist of all items of a snapshot, without any file."""
    fit = learn_fit(snapshot, method, pooled.kind)
    base = _filled_in_memory(snapshot, fit)
    return Shortlist(fit, base, snapshot.ids, ExactIndex.empty(fit.width), False, snapshot.ids, None)


def _filled_in_memory(snapshot: Snapshot, fit: Fit) -> ExactIndex:
    """All items of a snapshot in memory."""
    made = ExactIndex.empty(fit.width)
    for chosen, coordinates in coordinate_blocks(snapshot, fit):
        made.add(snapshot.ids[chosen], coordinates)
    return made


def learn_fit(snapshot: Snapshot, method: str, kind: PoolKind, seed: int = 0) -> Fit:
    """Directions and sample from a snapshot, always the same for the same one."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(snapshot)).astype(np.int64)
    pooled = pooled_rows(snapshot, np.sort(order[:_LEARNT_FROM]))
    if kind == "own":
        return learn(pooled, None, None, len(snapshot), OWN_WIDTH)
    room = _SAMPLE_BYTES // max(1, 2 * snapshot.width * int(snapshot.lengths.max(initial=1)))
    chosen = np.sort(order[: max(1, min(method_class(method).shortlist_sample, room))])
    return learn(pooled, snapshot.sets(chosen), pooled_rows(snapshot, chosen), len(snapshot), WIDTH)


def filled(backend: GlobalIndex, snapshot: Snapshot, fit: Fit, rows: Ids | None = None) -> GlobalIndex:
    """A backend with the items of a snapshot added, block by block."""
    if backend.learns_from_first and rows is None and len(snapshot):
        return _filled_after_training(backend, snapshot, fit)
    for chosen, coordinates in coordinate_blocks(snapshot, fit, rows):
        backend.add(snapshot.ids[chosen], coordinates)
    return backend


def _filled_after_training(backend: GlobalIndex, snapshot: Snapshot, fit: Fit) -> GlobalIndex:
    """A backend that is trained on what comes first, with all items added at once, d numbers per item."""
    blocks = [coordinates.half() for _, coordinates in coordinate_blocks(snapshot, fit)]
    backend.add(snapshot.ids, torch.cat(blocks).float())
    return backend


def coordinate_blocks(
    snapshot: Snapshot, fit: Fit, rows: Ids | None = None, block: int = 16_384
) -> Iterator[tuple[Ids, Float[Tensor, "n d"]]]:
    """Coordinates of items, a block of positions at a time."""
    chosen = np.arange(len(snapshot)) if rows is None else rows
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        yield part, fit.coordinates(pooled_rows(snapshot, part))


def pooled_rows(snapshot: Snapshot, rows: Ids) -> Float[Tensor, "n G"]:
    """Shortlist vectors at ascending positions, half-precision."""
    parts = []
    shard_of, place_of = snapshot.shard_of[rows], snapshot.place_of[rows].astype(np.int64)
    for number in np.unique(shard_of):
        parts.append(torch.from_numpy(snapshot.shards[number].pooled)[torch.from_numpy(place_of[shard_of == number])])
    return torch.cat(parts) if parts else torch.zeros(0, snapshot.pooled_width, dtype=torch.float16)
