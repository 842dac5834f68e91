"""Making a new index. From its first instant it is a whole one, without items; then it is filled as by a sync."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from patchword.errors import ConfigError, DataError
from patchword.files import sync_folder
from patchword.index.column_files import follow_columns, next_id, set_columns
from patchword.index.columns import read_columns
from patchword.index.encode import pixel_transform_of
from patchword.index.features import FeatureFolder, Spot, feature_source
from patchword.index.model_place import follow_model
from patchword.index.options import THREADS, EncodeOptions
from patchword.index.results import Changes
from patchword.index.roots import locate, root_for
from patchword.index.syncing import sync_locked
from patchword.index.writer import Writer, write_locked
from patchword.loading import load
from patchword.methods.clip import Interaction
from patchword.model import Model
from patchword.shortlist import backend_class
from patchword.shortlist.build import check_backend
from patchword.shortlist.pooled import pool_kind
from patchword.store.layout import IndexFolder, is_index
from patchword.store.lock import writer_lock
from patchword.store.manifest import BackendChoice, FeatureSource, Manifest, PoolKind, write_manifest
from patchword.store.model_hash import open_model, stamp_of
from patchword.store.schema import connect_to_write, create
from patchword.types import Encoded, Images


def build(
    folder: Path | str | None,
    out: Path | str,
    *,
    model: Model | Path | str,
    features: Path | str | None = None,
    name: str | None = None,
    splits: Sequence[str] = (),
    feature_names: Path | str | None = None,
    columns: Path | str | None = None,
    follow_links: bool = False,
    interaction: Interaction | None = None,
    device: str = "cpu",
    batch: int = 32,
    threads: int = THREADS,
    shard_mb: int | float = 256.0,
    pooled: PoolKind | None = None,
    backend: str | None = None,
    backend_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Changes:
    """Index the pictures below a folder.

    Run again after an interruption, it goes on where it stopped.

    Args:
        folder: where the pictures are; None with ``features``: the images of the data set without pictures.
        out: the index folder to make.
        model: a loaded model or its folder.
        features: data folder with region features, for models that read such; pictures are found by name.
        name, splits: which data set and splits of it; all splits by default.
        feature_names: CSV or JSON Lines with the columns ``path`` and ``id``: which image of the features a picture is,
            where their names do not say it.
        columns: a CSV or JSON Lines file of the user's columns, keyed by path.
        follow_links: go through symbolic links.
        interaction: of a CLIP, SigLIP or SigLIP 2 model: ``global`` (its default) or ``patches``.
        device: where the model computes.
        batch: images encoded at a time.
        threads: that read and decode.
        shard_mb: size at which a vector file is closed, and about the memory it takes until then.
        pooled: kind of the shortlist's vectors; the model's own by default.
        backend, backend_options: what finds the shortlist; ``exact`` by default.
        console: where progress goes.

    Raises:
        DataError: the folder is missing or is a file, another process writes, or the disk has not enough room.
        ConfigError: the place is taken, or model and input do not fit.
    """
    options = EncodeOptions(None, device, batch, threads, console)  # refuses wrong numbers before anything is loaded
    if shard_mb <= 0:
        raise ConfigError(f"`shard_mb` is {shard_mb}. Expected a size above 0, such as 256.")
    if folder is None and features is None:
        raise ConfigError("nothing to index. Name a folder of pictures, or --features DIR.")
    if feature_names is not None and features is None:
        raise ConfigError("--feature-names without --features DIR. Expected both.")
    if folder is not None and Path(folder).is_file():
        raise DataError(
            f"'{folder}' is a file. Expected a folder of pictures. Build an index of its folder, or add the file to an "
            f"index: patchword index add INDEX {folder}"
        )
    if folder is not None and not Path(folder).is_dir():
        raise DataError(f"'{folder}' is missing. Expected a folder of pictures.")
    backend_class(backend or "exact")  # refuses an unknown one before the model is loaded
    table = None if columns is None else read_columns(columns)
    place = IndexFolder(Path(out))
    loaded = model if isinstance(model, Model) else load(model, device=device, interaction=interaction)
    source = None if features is None else feature_source(features, name=name, splits=splits, names=feature_names)
    choice = BackendChoice(kind=backend or "exact", options=dict(backend_options or {}))
    with contextlib.ExitStack() as stack:
        if is_index(place.path):
            stack.enter_context(writer_lock(place.lock, "build"))
            writer = stack.enter_context(write_locked(place))
            _require_same_start(writer, folder, source, loaded)
            _require_same_shortlist(writer, pooled, backend, backend_options)
        else:
            _require_free(place.path)
            manifest = _make_manifest(loaded, source, shard_mb, pooled, choice)
            check_backend(choice, manifest.pooled.width)
            writer = _create(stack, place, manifest, folder, follow=follow_links)
        moved_to, first = follow_model(writer, loaded), next_id(writer)
        changes = sync_locked(writer, None, replace(options, model=loaded), allow_empty=True, says_size=True)
        changes = follow_columns(writer, first, replace(changes, model_place=moved_to), besides=table)
        return set_columns(writer, table, changes)


def _require_same_start(writer: Writer, folder: Path | str | None, source: FeatureSource | None, model: Model) -> None:
    """An index that is there already is gone on with only when it was begun in the same way.

    Raises:
        ConfigError: it was begun otherwise.
    """
    open_model(writer.manifest, model)
    roots = {(root.kind, root.path) for root in writer.roots()}
    mine = ("folder", locate(Path(folder))) if folder is not None else ("features", Path(source.root if source else ""))
    if source is not None:
        source = source.with_extras(model.method.image_extras)
    if mine not in roots or (source is not None and source != writer.manifest.features):
        names = ", ".join(f"'{path}'" for _, path in sorted(roots))
        raise ConfigError(
            f"'{writer.folder.path}' is already an index, of {names}. Add to it with: patchword index add, "
            "or choose another name."
        )


def _require_same_shortlist(
    writer: Writer, pooled: PoolKind | None, backend: str | None, options: Mapping[str, Any] | None
) -> None:
    """Refuse another shortlist for an index that is there already, which would be ignored.

    Raises:
        ConfigError: one was asked for.
    """
    manifest, place = writer.manifest, writer.folder.path
    has = manifest.backend
    if (backend or has.kind, options or has.options) != (has.kind, has.options):
        raise ConfigError(
            f"'{place}' has the backend {has.kind} with {_listed(has.options)}. Change it with: patchword index "
            f"backend {place} {backend or has.kind}"
        )
    if pooled not in (None, manifest.pooled.kind):
        raise ConfigError(
            f"'{place}' has shortlist vectors of the kind {manifest.pooled.kind}. Change them with: patchword index "
            f"backend {place} {has.kind} --pooled {pooled}"
        )


def _listed(options: Mapping[str, Any]) -> str:
    """Options in words."""
    return ", ".join(f"{key}={value}" for key, value in options.items() if key != "token") or "no options"


def _require_free(path: Path) -> None:
    """Refuse a place that holds something else.

    Raises:
        ConfigError: it does.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ConfigError(f"'{path}' is taken and is no index. Choose another name for the index.")


def _make_manifest(
    model: Model, source: FeatureSource | None, shard_mb: int | float, pooled: PoolKind | None, backend: BackendChoice
) -> Manifest:
    """What the index is made with; one image is encoded to know its size.

    Raises:
        ConfigError: the model reads regions and there are none, or the reverse.
        DataError: the features do not fit the model.
    """
    stamp = stamp_of(model)
    if stamp.reads == "pictures" and source is not None:
        raise ConfigError(f"this {stamp.method} reads pictures, not region features. Leave out --features.")
    if source is not None:
        source = source.with_extras(model.method.image_extras)
    sets = _encode_one(model, None if source is None else FeatureFolder(source))
    return Manifest(
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
        model=stamp,
        width=sets.vectors.shape[1],
        set_size=sets.max_length,
        pooled=pool_kind(model, pooled).pooling,
        backend=backend,
        features=source,
        shard_mb=shard_mb,
    )


def _encode_one(model: Model, features: FeatureFolder | None) -> Encoded:
    """The vector set of one image, to see its form."""
    import torch

    model.method.eval()
    with torch.no_grad():
        if features is not None:
            features.check(model)
            images = features.read([Spot(0, 0)], model.method.image_extras)
        else:
            noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            images = Images(pixel_transform_of(model)(noise, None)[None], None)
        return model.method.encode_images(images.to(model.device)).float().to("cpu")


def _create(
    stack: contextlib.ExitStack, place: IndexFolder, manifest: Manifest, folder: Path | str | None, *, follow: bool
) -> Writer:
    """Make an empty index under a temporary name, put it in place whole, and hold its lock from then on."""
    place.path.parent.mkdir(parents=True, exist_ok=True)
    fresh = IndexFolder(place.path.with_name(f".{place.path.name}.building"))
    fresh.path.mkdir(exist_ok=True)
    stack.enter_context(writer_lock(fresh.lock, "build"))
    for left in fresh.path.iterdir():  # of a build that was killed
        if left.name != fresh.lock.name:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    fresh.shards.mkdir()
    create(fresh.catalog)
    write_manifest(fresh, manifest)
    with connect_to_write(fresh.catalog) as connection:
        starting = Writer(fresh, connection, manifest)
        if folder is not None:
            root_for(starting, Path(folder), follow=follow)
        else:
            assert manifest.features is not None
            connection.execute(
                "INSERT INTO roots (path, kind, follow) VALUES (?, 'features', 0)", (manifest.features.root,)
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync_folder(fresh.path)
    try:
        os.rename(fresh.path, place.path)  # onto nothing, or onto an empty folder
    except OSError:
        raise ConfigError(f"'{place.path}' was taken by another process meanwhile. Choose another name.") from None
    sync_folder(place.path.parent)
    return stack.enter_context(write_locked(place))
