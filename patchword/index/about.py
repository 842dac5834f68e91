"""Counting what the folder of an index holds."""

from __future__ import annotations

from pathlib import Path

from patchword.index.results import FolderInfo
from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.manifest import read_manifest
from patchword.store.schema import connect_to_read, generation, one_view


def info(index: Path | str | IndexFolder) -> FolderInfo:
    """Count what an index holds. This is cheap: no vector is read and no model is loaded.

    Raises:
        DataError: there is no index, or it can not be read.
    """
    place = open_folder(index)
    manifest = read_manifest(place)
    connection = connect_to_read(place)
    try:
        with one_view(connection):
            shards = connection.execute(
                "SELECT kind, count(*), sum(count), sum(alive), sum(vectors), sum(bytes) FROM shards GROUP BY kind"
            ).fetchall()
            roots = connection.execute(
                "SELECT roots.path, count(items.id) FROM roots LEFT JOIN items ON items.root = roots.id "
                "GROUP BY roots.id ORDER BY roots.id"
            ).fetchall()
            skipped = connection.execute("SELECT count(*) FROM skipped").fetchone()[0]
            newest = generation(connection)
    finally:
        connection.close()
    by_kind = {row[0]: row[1:] for row in shards}
    images, captions = by_kind.get("image", (0,) * 5), by_kind.get("caption", (0,) * 5)
    with Catalog(place) as catalog:
        columns = catalog.columns()
    stamp = manifest.model
    return FolderInfo(
        images=images[2],
        captions=captions[2],
        vectors=images[3],
        set_size=round(images[3] / images[1], 2) if images[1] else 0.0,
        width=manifest.width,
        pooled={"kind": manifest.pooled.kind, "width": manifest.pooled.width},
        model={"label": stamp.label, "method": stamp.method, "path": stamp.path, "hash": stamp.hash},
        roots=dict(roots),
        columns=columns,
        backend=manifest.backend.kind,
        shards=images[0] + captions[0],
        dead=images[1] - images[2] + captions[1] - captions[2],
        skipped=skipped,
        bytes={
            "images": images[4],
            "captions": captions[4],
            "catalog": _size(place.catalog),
            "shortlist": sum(_size(path) for path in place.shortlist.rglob("*")) if place.shortlist.is_dir() else 0,
        },
        generation=newest,
        created=manifest.created,
    )


def _size(path: Path) -> int:
    """The bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0
