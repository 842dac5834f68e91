"""What is open of an index as long as its folder holds the same one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchword.data.clip_features import ClipEncoder
from patchword.errors import DataError
from patchword.model import Model
from patchword.retrieve.generations import Generations
from patchword.retrieve.parallel import Cores
from patchword.retrieve.probability import Chances
from patchword.retrieve.query_regions import regions_of_queries
from patchword.retrieve.searching import Searching
from patchword.shortlist.pooled import PoolSpec
from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder
from patchword.store.manifest import Manifest, read_manifest


class Opened:
    """An index with all that was read from its folder, none of which is of another index.

    Args:
        place: the index.
        model: that it was made with.
        clip: of models that read CLIP's vector of a sentence.
        backend: options of the shortlist's backend that differ here.
        cores: threads that score.
        detector: finds the regions of pictures that are asked with.
        before: what was open at this place.

    Attributes:
        manifest: what the index was made with.
        spec: the vectors of its shortlist.
        catalog: what is known about its items.
        chances: probabilities of scores.
        searching: answers from a generation.
        generations: of its items.

    Raises:
        DataError: the index is damaged, is of another model than the one before, or was replaced while it was opened.
    """

    def __init__(
        self,
        place: IndexFolder,
        model: Model,
        clip: ClipEncoder | None,
        backend: Mapping[str, Any],
        cores: Cores,
        detector: Path | str | None = None,
        before: Opened | None = None,
    ) -> None:
        self.catalog, self._place = Catalog(place), place
        self._stamp = _stamp(place.manifest)
        self.manifest = read_manifest(place)
        if before is not None:
            _require_alike(place, before.manifest, self.manifest)
        self.spec = PoolSpec.of(self.manifest.pooled, model)
        self.chances = Chances(place, self.manifest.model.hash, model.method)
        self.searching = Searching(
            place, model, clip, self.catalog, self.chances, regions_of_queries(self.manifest, model, detector)
        )
        state = None if before is None else before.generations.now
        self.generations: Generations = Generations(place, self.manifest, self.spec, backend, cores, state)
        if self.catalog.is_replaced():
            raise DataError(f"'{place.path}' was replaced while it was opened. Try again.")

    def is_replaced(self) -> bool:
        """Whether the folder holds another index by now, or this one with another manifest."""
        return self.catalog.is_replaced() or _stamp(self._place.manifest) != self._stamp


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What differs when a file was written anew; None where there is none."""
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _require_alike(place: IndexFolder, before: Manifest, now: Manifest) -> None:
    """Refuse an index whose vectors are not those of the model that is loaded.

    Raises:
        DataError: it was made with another one.
    """
    if (now.model.hash, now.model.interaction) != (before.model.hash, before.model.interaction):
        raise DataError(
            f"'{place.path}' was replaced by an index of another model ({now.model.label}, {now.model.hash[:12]}). "
            f"Expected {before.model.label}, {before.model.hash[:12]}. Close the index and open it again."
        )
