"""The file that names the newest saved state of a shortlist, and whether that state is what the index holds."""

from __future__ import annotations

import json
from typing import Any

from patchword.config import Config
from patchword.store.layout import IndexFolder, write_whole
from patchword.store.manifest import Manifest, Pooling


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


def name_newest(place: IndexFolder, kind: str, saved: Saved) -> None:
    """Say which state is the newest."""
    write_whole(place.shortlist / f"{kind}.json", json.dumps(saved.model_dump(mode="json"), indent=2) + "\n")


def is_current(place: IndexFolder, manifest: Manifest, kind: str, newest: int) -> bool:
    """Whether the newest saved state is made as the manifest says, and holds a generation of the catalog."""
    saved = read_saved(place, kind)
    return saved is not None and saved.suits(manifest) and saved.generation == newest
