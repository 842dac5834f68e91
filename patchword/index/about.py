"""What is in an index, in numbers."""

from __future__ import annotations

from pathlib import Path

from patchword.index.catalog import Catalog
from patchword.index.layout import IndexFolder, open_folder
from patchword.index.manifest import read_manifest
from patchword.index.results import StoreInfo
from patchword.index.schema import connect_to_read, one_view


def info(index: Path | str | IndexFolder) -> StoreInfo:
    """Count what an index holds. Cheap: no vector is read and no model loaded.

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
            generation = connection.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0]
    finally:
        connection.close()
    by_kind = {row[0]: row[1:] for row in shards}
    images, captions = by_kind.get("image", (0,) * 5), by_kind.get("caption", (0,) * 5)
    with Catalog(place) as catalog:
        columns = catalog.columns()
    stamp = manifest.model
    pooled = manifest.pooled if isinstance(manifest.pooled, dict) else {}
    return StoreInfo(
        images=images[2],
        captions=captions[2],
        vectors=images[3],
        set_size=round(images[3] / images[1], 2) if images[1] else 0.0,
        width=manifest.width,
        pooled={key: pooled[key] for key in ("kind", "width") if key in pooled},
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
        generation=generation,
        created=manifest.created,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
