"""Region features that have changed since items were encoded from them: extracted again, or copied anew.

The catalog keeps size and time of change of each file of the features, so that a sync of unchanged ones only looks at
their names. Where one differs, the features of every item are read for their hash, and compared with what it was made
from; so it is for pictures with features, and for features alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patchword.data.text_files import PICTURE_SUFFIXES
from patchword.index.records import RACY_NS
from patchword.index.scan import ending
from patchword.index.writer import Writer
from patchword.store.manifest import FeatureSource, Manifest
from patchword.store.schema import transaction

if TYPE_CHECKING:
    from patchword.index.features import FeatureFolder, Spot

Stamps = dict[str, tuple[int, int]]  # path to size and time of change in ns
TOGETHER = 64  # images whose features are read at once


@dataclass(frozen=True)
class FeatureChanges:
    """What became of the features of indexed images.

    Attributes:
        outdated: ids of items whose features are others now, or none.
        hashes: of the features of items of older versions, which did not keep any and are as they were.
        stamps: the files when they were looked at; None where they need not be noted.
        features: the opened folder, where it was opened.
        looked: when this was begun, in ns.
    """

    outdated: frozenset[int] = frozenset()
    hashes: dict[int, str] = field(default_factory=dict)
    stamps: Stamps | None = None
    features: FeatureFolder | None = None
    looked: int = 0


def find_feature_changes(writer: Writer) -> FeatureChanges:
    """Compare the features of an index with what its items were made from.

    Features that are not there, because their disk may just be missing, are taken for unchanged.

    Raises:
        DataError: the features can not be read.
    """
    source = writer.manifest.features
    if source is None:
        return FeatureChanges()
    noted = _noted(writer)
    folders = {os.path.dirname(path) for path in noted if path != source.names}
    unknown = writer.connection.execute(
        "SELECT 1 FROM items JOIN roots ON roots.id = items.root WHERE feature_hash IS NULL AND kind <> 'features' "
        "LIMIT 1"
    ).fetchone()
    if noted and unknown is None and look_at_files(folders, source) == noted:
        return FeatureChanges()
    if noted and not any(map(os.path.isdir, folders)):
        return FeatureChanges()
    from patchword.index.features import FeatureFolder

    looked = time.time_ns()
    features = FeatureFolder(source)
    stamps = look_at_files({str(folder) for folder in features.folders()}, source)
    items = writer.connection.execute(
        "SELECT items.id, items.path, kind = 'features', feature, iif(kind = 'features', hash, feature_hash) "
        "FROM items JOIN roots ON roots.id = items.root"
    ).fetchall()
    spots = ((features.alone.get(path) if alone else features.find(path), one) for one, path, alone, _, _ in items)
    now = dict(_hashes(features, [(spot, one) for spot, one in spots if spot is not None]))
    outdated, hashes = set[int](), dict[int, str]()
    are_old = _are_older(stamps, writer.manifest)
    for one, _, _, label, before in items:
        found = now.get(one)
        if found is None or found[0] != label or (found[1] != before and not (before is None and are_old)):
            outdated.add(one)
        elif before is None:
            hashes[one] = found[1]
    return FeatureChanges(frozenset(outdated), hashes, stamps, features, looked)


def note_features(writer: Writer, found: FeatureChanges) -> None:
    """Keep what was looked at, as soon as no item is outdated any more.

    Files that had changed just before they were looked at, or have changed since, are not noted: they may have changed
    again unseen.
    """
    if found.stamps is None:
        return
    left = {row[0] for row in writer.connection.execute("SELECT id FROM items")} & found.outdated
    is_racy = any(found.looked - changed <= RACY_NS for _, changed in found.stamps.values())
    if not found.hashes and (left or is_racy or found.stamps == _noted(writer)):
        return
    with transaction(writer.connection) as connection:
        connection.executemany(
            "UPDATE items SET feature_hash = ? WHERE id = ?", [(digest, one) for one, digest in found.hashes.items()]
        )
        if not left and not is_racy:
            connection.execute("DELETE FROM feature_files")
            connection.executemany(
                "INSERT INTO feature_files VALUES (?, ?, ?)", [(path, *stamp) for path, stamp in found.stamps.items()]
            )


def look_at_files(folders: Iterable[str], source: FeatureSource) -> Stamps:
    """Size and time of change of the files of some feature folders, without pictures and hidden files, and of the
    file of names."""
    found: Stamps = {}
    for folder in folders:
        if not os.path.isdir(folder):
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and ending(entry.name) not in PICTURE_SUFFIXES and entry.is_file():
                    about = entry.stat()
                    found[entry.path] = about.st_size, about.st_mtime_ns
    if source.names is not None and os.path.isfile(source.names):
        about = os.stat(source.names)
        found[source.names] = about.st_size, about.st_mtime_ns
    return found


def _noted(writer: Writer) -> Stamps:
    rows = writer.connection.execute("SELECT path, size, mtime FROM feature_files")
    return {path: (size, mtime) for path, size, mtime in rows}


def _are_older(stamps: Stamps, manifest: Manifest) -> bool:
    """Whether the features are those that the index was begun with, as far as their time of change says it."""
    created = time.mktime(time.strptime(manifest.created, "%Y-%m-%dT%H:%M:%S"))
    return all(changed < created * 1e9 for _, changed in stamps.values())


def _hashes(features: FeatureFolder, items: Iterable[tuple[Spot, int]]) -> Iterable[tuple[int, tuple[str, str]]]:
    """Label and hash of the features at some spots, by id of the item."""
    spots, start = sorted(items), 0
    while start < len(spots):
        split = spots[start][0].split
        part = [pair for pair in spots[start : start + TOGETHER] if pair[0].split == split]
        images = features.read([spot for spot, _ in part], features.source.extras)
        for row, (spot, one) in enumerate(part):
            yield one, (features.label(spot), features.hash(images, row, spot))
        start += len(part)
