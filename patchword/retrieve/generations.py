"""The generation of an index that is searched now, and the taking over of a newer one while searches go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from patchword.retrieve.collection import Collection
from patchword.retrieve.parallel import Cores
from patchword.shortlist.pooled import PoolSpec
from patchword.shortlist.saved import read_saved
from patchword.shortlist.view import Shortlist, in_memory, open_shortlist
from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder
from patchword.store.manifest import Manifest
from patchword.store.snapshot import Snapshot, open_snapshot

Kind = Literal["image", "caption"]


@dataclass(frozen=True)
class State:
    """One generation as searches see it."""

    images: Collection
    captions: Collection


class Generations:
    """Opens the newest generation, and again when it is told to; a search keeps the one that it began with.

    Args:
        place: the index.
        manifest: what it was made with.
        spec: the vectors of its shortlist.
        backend: options of the shortlist's backend that are other here than in the manifest.
        cores: threads that score.
        before: of another index at the same place, whose open files are used again where they are also of this one.

    Attributes:
        now: the generation that is searched.
    """

    def __init__(
        self,
        place: IndexFolder,
        manifest: Manifest,
        spec: PoolSpec,
        backend: Mapping[str, Any],
        cores: Cores,
        before: State | None = None,
    ) -> None:
        self.place, self.manifest, self.spec, self.cores = place, manifest, spec, cores
        self._options = dict(backend)  # beside those that a shortlist was saved with
        self._tried: dict[str, str] = {}  # folder of the saved shortlist that was read last, or could not be read
        self.now = State(
            self._opened("image", None if before is None else before.images),
            self._opened("caption", None if before is None else before.captions),
        )

    def refresh(self, catalog: Catalog) -> bool:
        """Take over what is newer: a generation of the catalog, or the shortlist that a writer saves after it.

        Says whether there was anything. Nothing is taken over when the catalog was replaced meanwhile, for then it is
        not known of which index it is.
        """
        now, newest = self.now, catalog.generation()
        found = State(self._advanced("image", now.images, newest), self._advanced("caption", now.captions, newest))
        if (found.images is now.images and found.captions is now.captions) or catalog.is_replaced():
            return False
        self.now = found
        return True

    def _advanced(self, kind: Kind, now: Collection, newest: int) -> Collection:
        """The items of a kind as they are by now; the same object where nothing is newer."""
        snapshot, shortlist, is_older = now.snapshot, now.shortlist, now.snapshot.generation != newest
        if is_older:
            snapshot = open_snapshot(self.place, kind, before=snapshot)
        if self._has_newer_shortlist(kind):
            shortlist = self._shortlist(kind, snapshot)
        elif is_older and len(shortlist.fit.mean) != snapshot.pooled_width:  # a writer is changing what it is of
            shortlist = in_memory(snapshot, self.manifest.model.method, self.manifest.pooled)
        elif is_older:
            shortlist = shortlist.advanced(snapshot)
        else:
            return now
        return now.advanced(snapshot, shortlist)

    def _opened(self, kind: Kind, before: Collection | None) -> Collection:
        """The items of a kind for the first time."""
        snapshot = open_snapshot(self.place, kind, before=None if before is None else before.snapshot)
        return Collection(snapshot, self._shortlist(kind, snapshot), self.spec, self.cores, before)

    def _has_newer_shortlist(self, kind: Kind) -> bool:
        """Whether a saved shortlist of this index lies there that was not read yet."""
        saved = read_saved(self.place, kind)
        return saved is not None and saved.pooled == self.manifest.pooled and saved.folder != self._tried.get(kind)

    def _shortlist(self, kind: Kind, snapshot: Snapshot) -> Shortlist:
        """The saved shortlist, or one in memory; what could not be read is not tried again until there is another."""
        there = read_saved(self.place, kind)
        found = open_shortlist(self.place, snapshot, self.manifest.model.method, self.manifest.pooled, self._options)
        read = found.saved or there
        if read is not None:
            self._tried[kind] = read.folder
        return found
