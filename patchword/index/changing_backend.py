"""Another backend or other vectors for the shortlist of an index, made from its shards: nothing is encoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from patchword.console import ProgressBar
from patchword.errors import DataError
from patchword.index.compacting import live_tensors
from patchword.index.damage import lost_ids
from patchword.index.model_place import follow_model
from patchword.index.results import BackendChanged
from patchword.index.writer import Writer, open_writer, whole_shard
from patchword.shortlist.build import change_shortlist, check_backend, follow_catalog
from patchword.shortlist.pooled import PoolSpec, pool_kind
from patchword.store.estimate import require_space
from patchword.store.live import live_places
from patchword.store.manifest import BackendChoice, PoolKind, write_manifest
from patchword.store.model_hash import ModelGiven, open_model
from patchword.store.schema import KINDS, bump_generation, count_items, meta, register_shard, set_meta, transaction
from patchword.store.shards import Array, write_shard
from patchword.store.unfinished import announce, finish
from patchword.types import Encoded

BLOCK = 2048


def change_backend(
    index: Path | str,
    kind: str,
    options: Mapping[str, Any] | None = None,
    *,
    pooled: PoolKind | None = None,
    model: ModelGiven = None,
    console: Console | None = None,
) -> BackendChanged:
    """Build the shortlist of an index again, with another backend, other options or other vectors.

    Until the new shortlist is whole, the old one stays and is searched; where the new one fails, it is kept.

    Args:
        index: index folder.
        kind: of the backend: ``exact``, ``faiss`` or ``milvus``.
        options: of the backend; those it had are forgotten.
        pooled: kind of the shortlist's vectors; as they are by default. Another one writes the shards anew.
        model: for ``pooled``: a loaded model or its folder, when it is not where it was.
        console: where progress goes.

    Raises:
        ConfigError: the backend or the kind of vectors is unknown, or an option is wrong.
        DataError: another process writes, a server does not answer, or images have lost their vectors.
    """
    started = time.monotonic()
    choice = BackendChoice(kind=kind, options=dict(options or {}))
    with open_writer(index, "backend") as writer:
        follow_model(writer, model)
        before = writer.manifest
        spec = None
        if pooled is not None and pooled != before.pooled.kind:
            spec = pool_kind(open_model(before, model), pooled)
        check_backend(choice, (before.pooled if spec is None else spec.pooling).width)
        if spec is not None:
            _pool_again(writer, spec, console or Console(quiet=True))
        manifest = writer.manifest.model_copy(update={"backend": choice})
        try:
            change_shortlist(writer.folder, manifest)
        except BaseException:
            if spec is not None:
                follow_catalog(writer.folder)  # the old backend, with the vectors that the shards hold now
            raise
        writer.manifest = manifest
        return BackendChanged(
            backend=choice.kind,
            pooled=manifest.pooled.kind,
            images=count_items(writer.connection),
            seconds=round(time.monotonic() - started, 3),
        )


def _pool_again(writer: Writer, spec: PoolSpec, console: Console) -> None:
    """Write all shards with other shortlist vectors, made from the vectors in them, and put them in place together.

    Raises:
        DataError: a shard can not be read, or items have lost their vectors.
    """
    place = writer.folder
    if any(lost_ids(writer, kind) for kind in KINDS):
        raise DataError(
            f"some items of '{place.path}' have lost their vectors. Encode them again first: patchword index sync "
            f"{place.path}"
        )
    parts = writer.connection.execute("SELECT number, kind, count, live, bytes FROM shards ORDER BY number").fetchall()
    parts = [part for part in parts if part[1] in KINDS]  # what was given up has no items any more
    require_space(place.path, sum(part[4] for part in parts))
    manifest = writer.manifest.model_copy(update={"pooled": spec.pooling})
    number = meta(writer.connection, "next_shard")
    made = []
    with ProgressBar(sum(part[2] for part in parts), "making shortlist vectors", "items", console) as shown:
        for old, kind, count, live, _ in parts:
            shard, alive = writer.shard(old), live_places(live, count)
            shown.advance(count)
            if not len(alive):
                continue
            ids, lengths = shard.ids[alive], shard.lengths[alive]
            tensors = live_tensors([shard], [alive], ids, lengths)
            tensors.pop("pooled", None)
            (vectors,) = tensors["vectors"]
            pieces = list(_pooled(spec, kind, vectors, lengths))
            if not np.array_equal(np.concatenate(pieces), vectors):
                tensors["pooled"] = pieces
            written = write_shard(place.shard(number), tensors)
            made.append(whole_shard(number, kind, ids, lengths, written))
            number += 1
    if made:
        announce(place, manifest, made[0].number)
    with transaction(writer.connection) as connection:
        connection.execute("DELETE FROM shards")
        for row in made:
            register_shard(connection, row)
        set_meta(connection, "next_shard", number)
        bump_generation(connection)
    if made:
        finish(place, writer.connection, writer.manifest)
    else:
        write_manifest(place, manifest)
    writer.manifest = manifest
    writer.remove_orphans()


def _pooled(spec: PoolSpec, kind: str, vectors: Array, lengths: Array) -> Iterator[Array]:
    """Shortlist vectors of the sets of a shard, block by block."""
    pool = spec.pool_images if kind == "image" else spec.pool_captions
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    for start in range(0, len(lengths), BLOCK):
        stop = min(start + BLOCK, len(lengths))
        rows = torch.from_numpy(vectors[ends[start] : ends[stop]].astype(np.float32))
        yield pool(Encoded(rows, torch.from_numpy(lengths[start:stop].astype(np.int64)))).half().numpy()
