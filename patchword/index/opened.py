"""What is open of an index as long as its folder holds the same one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patchword.data.clip_features import ClipEncoder
from patchword.errors import DataError
from patchword.index.catalog import Catalog
from patchword.index.chances import Chances
from patchword.index.generations import Generations
from patchword.index.layout import IndexFolder
from patchword.index.manifest import Manifest, read_manifest
from patchword.index.parallel import Cores
from patchword.index.pooled import PoolSpec
from patchword.index.searching import Searching
from patchword.model import Model


class Opened:
    """An index with all that was read from its folder, none of which is of another index.

    Args:
        place: the index.
        model: that it was made with.
        clip: of models that read CLIP's vector of a sentence.
        backend: options of the shortlist's backend that differ here.
        cores: threads that score.
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
        before: Opened | None = None,
    ) -> None:
        self.catalog = Catalog(place)
        self.manifest = read_manifest(place)
        if before is not None:
            _require_alike(place, before.manifest, self.manifest)
        self.spec = PoolSpec.of(self.manifest.pooled, model)
        self.chances = Chances(place, self.manifest.model.hash, model.method)
        self.searching = Searching(place, model, clip, self.catalog, self.chances)
        state = None if before is None else before.generations.now
        self.generations: Generations = Generations(place, self.manifest, self.spec, backend, cores, state)
        if self.catalog.is_replaced():
            raise DataError(f"'{place.path}' was replaced while it was opened. Try again.")


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
