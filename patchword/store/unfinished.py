"""A change of manifest and catalog together: announced in a file first, so that the next writer ends a broken one."""

from __future__ import annotations

import json
import sqlite3

from pydantic import ValidationError

from patchword.store.layout import IndexFolder, write_whole
from patchword.store.manifest import Manifest, write_manifest

FILE = "manifest.next.json"


def announce(place: IndexFolder, manifest: Manifest, shard: int) -> None:
    """Write the manifest that holds once the catalog names a shard.

    Args:
        place: of the index.
        manifest: the new one.
        shard: number of a shard that comes into the catalog in the same transaction.
    """
    write_whole(place.path / FILE, json.dumps({"shard": shard, "manifest": manifest.model_dump(mode="json")}) + "\n")


def finish(place: IndexFolder, connection: sqlite3.Connection, manifest: Manifest) -> Manifest:
    """Put an announced manifest in place if its transaction was done, and forget it if not.

    Args:
        place: of the index.
        connection: to its catalog.
        manifest: as it is.

    Returns:
        The manifest that holds.
    """
    file = place.path / FILE
    try:
        announced = json.loads(file.read_text(encoding="utf-8"))
        following, shard = Manifest.model_validate(announced["manifest"]), int(announced["shard"])
    except FileNotFoundError:
        return manifest
    except (ValueError, KeyError, TypeError, ValidationError):
        file.unlink()  # it is written whole, so this is nothing of ours
        return manifest
    if connection.execute("SELECT 1 FROM shards WHERE number = ?", (shard,)).fetchone() is not None:
        write_manifest(place, following)
        manifest = following
    file.unlink()
    return manifest
