"""The generation of an index that is searched now, and the taking over of a newer one while searches go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

from patchword.index.catalog import Catalog
from patchword.index.collection import Collection
from patchword.index.layout import IndexFolder
from patchword.index.manifest import Manifest
from patchword.index.parallel import Cores
from patchword.index.pooled import PoolSpec
from patchword.index.shortlist.view import open_shortlist
from patchword.index.snapshot import open_snapshot


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

    Attributes:
        now: the generation that is searched.
    """

    def __init__(
        self, place: IndexFolder, manifest: Manifest, spec: PoolSpec, backend: Mapping[str, Any], cores: Cores
    ) -> None:
        self.place, self.manifest, self.spec, self.cores = place, manifest, spec, cores
        self._options = {**manifest.backend.options, **backend}
        self._refreshing = Lock()
        self.now = State(self._open("image"), self._open("caption"))

    def refresh(self, catalog: Catalog) -> bool:
        """Take over the newest generation that the catalog knows; says whether it was not the one of ``now``."""
        with self._refreshing:
            now = self.now
            if catalog.generation() == now.images.snapshot.generation:
                return False
            self.now = State(self._open("image", now.images), self._open("caption", now.captions))
            return True

    def _open(self, kind: Literal["image", "caption"], before: Collection | None = None) -> Collection:
        """The items of a kind, with the open files of the generation before where they still serve."""
        snapshot = open_snapshot(self.place, kind)
        if before is not None and before.shortlist.is_current(self.place, kind):
            return before.advanced(snapshot, before.shortlist.advanced(snapshot))
        method = self.manifest.model.method
        shortlist = open_shortlist(self.place, snapshot, method, self.manifest.pooled, self._options)
        if before is None:
            return Collection(snapshot, shortlist, self.spec, self.cores)
        return before.advanced(snapshot, shortlist)
