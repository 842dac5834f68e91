"""Bringing an index up to date: `sync` with all its folders, `add` with more files or folders."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from patchword.errors import ConfigError, DataError
from patchword.index.column_files import follow_columns, next_id, set_columns
from patchword.index.columns import read_columns
from patchword.index.damage import find_damage, lost_ids, require_present
from patchword.index.feature_changes import FeatureChanges, find_feature_changes, note_features
from patchword.index.file_bytes import FileHashes
from patchword.index.model_place import follow_model
from patchword.index.options import THREADS, EncodeOptions
from patchword.index.pending import Source
from patchword.index.quarantine import give_up, take_back
from patchword.index.records import Root
from patchword.index.results import Changes
from patchword.index.roots import root_for, scope_of
from patchword.index.scan import SETTLED, Scan, Skip, ending, scan_folder, see, unread
from patchword.index.update import Scope, Update
from patchword.index.writer import Writer, open_writer
from patchword.store.layout import open_folder
from patchword.store.schema import generation

if TYPE_CHECKING:
    from patchword.index.sources import FeaturesAlone
    from patchword.store.model_hash import ModelGiven


def sync(
    index: Path | str,
    folder: Path | str | None = None,
    *,
    columns: Path | str | None = None,
    allow_empty: bool = False,
    verify: bool = False,
    restore: bool = False,
    model: ModelGiven = None,
    device: str = "cpu",
    batch: int = 32,
    threads: int = THREADS,
    console: Console | None = None,
) -> Changes:
    """Make an index hold what its folders hold now: encode new and changed files, forget those that are gone.

    A file whose size and time of change are as before is not read. Moved and renamed files keep their ids and are
    not encoded again. The model is loaded only when something is to be encoded. Pictures whose region features have
    changed, because they were extracted again, are encoded again. Files of columns that have changed are read again.

    Images whose vectors are lost, because a shard is missing or damaged, are encoded again from their files and keep
    their ids; so are captions. Damage that leaves the size of a shard as it was is seen only with ``verify``.

    Args:
        index: index folder.
        folder: only this folder, one of the index's or in one; or where its only folder is now.
        columns: a CSV or JSON Lines file of the user's columns, keyed by path.
        allow_empty: accept that a folder that had pictures has none any more.
        verify: read all shards to the last byte for damage.
        restore: accept that more than half of the shards are missing, and encode their items again.
        model, device, batch, threads, console: see `EncodeOptions`.

    Raises:
        DataError: a folder is missing or suddenly empty, most shards are missing, another process writes, or the disk
            is full.
        CheckpointError: the model is missing or is not the one of the index.
    """
    options = EncodeOptions(model, device, batch, threads, console)
    table = None if columns is None else read_columns(columns)
    with open_writer(open_folder(index), "sync") as writer:
        place, first = follow_model(writer, model), next_id(writer)
        changes = sync_locked(writer, folder, options, allow_empty=allow_empty, verify=verify, restore=restore)
        changes = follow_columns(writer, first, replace(changes, model_place=place), besides=table)
        return set_columns(writer, table, changes)


def sync_locked(
    writer: Writer,
    folder: Path | str | None,
    options: EncodeOptions,
    *,
    allow_empty: bool = False,
    verify: bool = False,
    restore: bool = False,
    says_size: bool = False,
) -> Changes:
    """Do what `sync` does, for a caller who holds the lock; with ``says_size`` say first how much there is to do."""
    started = time.monotonic()
    named = [] if folder is None else [scope_of(writer, Path(folder))]
    scopes = named or [Scope(root.id) for root in writer.roots()]
    roots = {root.id: root for root in writer.roots()}
    alone = next((root for root in roots.values() if root.kind == "features" and Scope(root.id) in scopes), None)
    if alone is not None:
        features = find_feature_changes(writer)
        source = _open_features(writer, alone, options, features)
        scan, scopes = Scan(files=source.files(writer.known(alone.id), features.outdated)), [Scope(alone.id)]
        update = Update(
            writer, source.hashes, lambda: source, _console(options), outdated=features.outdated, started=started
        )
    else:
        scan = Scan()
        for scope in scopes:
            scan.join(_look(writer, roots[scope.root], scope, allow_empty=allow_empty))
        features = find_feature_changes(writer)
        update = _of_pictures(writer, options, started, features)
        update.says_size = says_size
    back, damage = take_back(writer), find_damage(writer, whole=verify)
    if damage:
        if not restore:
            require_present(writer, damage)
        update.open()
        give_up(writer, damage)
    update.lost = frozenset(lost_ids(writer, "image"))
    changes = update.run(scan, scopes, removes=True, moves=writer.manifest.features is None)
    captions = _restore_captions(writer, options)
    note_features(writer, features)
    return replace(
        changes,
        damage=tuple(f"{writer.folder.shard(one.number).name}: {one.reason}" for one in damage),
        without_vectors=len(lost_ids(writer, "image")) if update.lost else 0,
        restored_captions=captions[0],
        lost_captions=captions[1],
        generation=generation(writer.connection),
        taken_back=tuple(back),
    )


def add(
    index: Path | str,
    paths: Sequence[Path | str] = (),
    *,
    columns: Path | str | None = None,
    follow_links: bool = False,
    model: ModelGiven = None,
    device: str = "cpu",
    batch: int = 32,
    threads: int = THREADS,
    console: Console | None = None,
) -> Changes:
    """Index more files or folders; `sync` will look after them too. Nothing is removed.

    What was removed with `remove`, or could not be read before, is tried again. With ``columns`` and no path, only
    the columns are set.

    Args:
        index: index folder.
        paths: picture files and folders.
        columns: a CSV or JSON Lines file of the user's columns, keyed by path.
        follow_links: go through symbolic links in new folders.
        model, device, batch, threads, console: see `EncodeOptions`.

    Raises:
        DataError: a path is missing, another process writes, or the disk is full.
        CheckpointError: the model is missing or is not the one of the index.
    """
    options = EncodeOptions(model, device, batch, threads, console)
    if not paths and columns is None:
        raise ConfigError("nothing to add. Name picture files or folders, or --columns FILE.")
    for path in paths:
        if not os.path.lexists(path):
            raise DataError(f"'{path}' is missing. Expected a picture file or a folder.")
        if not os.path.isdir(path) and see(0, os.path.basename(path), Path(path)) is None:
            raise DataError(f"'{path}' is no picture: its name ends in '{ending(str(path))}'.")
    table = None if columns is None else read_columns(columns)
    with open_writer(open_folder(index), "add") as writer:
        if any(root.kind == "features" for root in writer.roots()) and paths:
            raise ConfigError("this index holds features without pictures: it has no files to add. Use sync.")
        place, first = follow_model(writer, model), next_id(writer)
        scopes = [root_for(writer, Path(path), follow=follow_links) for path in paths]
        roots = {root.id: root for root in writer.roots()}
        scan, whole = Scan(), _without_inner(scopes)
        for scope in whole:
            scan.join(_look(writer, roots[scope.root], scope, allow_empty=True, named=True))
        changes = _of_pictures(writer, options).run(scan, whole, removes=False, moves=False, retry=True)
        changes = follow_columns(writer, first, replace(changes, model_place=place), besides=table)
        return set_columns(writer, table, changes)


def _console(options: EncodeOptions) -> Console:
    return options.console or Console(quiet=True)


def _of_pictures(
    writer: Writer, options: EncodeOptions, started: float | None = None, features: FeatureChanges | None = None
) -> Update:
    """An update from picture files; what encodes, and with it torch, is imported when something is to be encoded."""
    changed = features or FeatureChanges()

    def open_source() -> Source:
        from patchword.index.sources import open_pictures

        return open_pictures(writer, options, changed.features)

    hashes = FileHashes({root.id: root for root in writer.roots()}, options.threads)
    return Update(
        writer, hashes, open_source, _console(options), outdated=changed.outdated, started=started or time.monotonic()
    )


def _open_features(writer: Writer, root: Root, options: EncodeOptions, changed: FeatureChanges) -> FeaturesAlone:
    """Region features as the items themselves; what is there can only be known with what reads them."""
    from patchword.index.sources import open_features

    return open_features(writer, root.id, options, changed.features)


def _restore_captions(writer: Writer, options: EncodeOptions) -> tuple[int, int]:
    """Encode captions that lost their vectors again; returns how many, and how many had to be taken out."""
    lost = lost_ids(writer, "caption")
    if not lost:
        return 0, 0
    from patchword.index.captions import restore_captions

    return restore_captions(writer, lost, options)


def _look(writer: Writer, root: Root, scope: Scope, *, allow_empty: bool, named: bool = False) -> Scan:
    """Look for the files that are there in a scope.

    Args:
        named: a user has named this very scope, so that its files count also where only named ones do.

    Raises:
        DataError: the root is missing, can not be read, or has no pictures any more.
    """
    if not os.path.isdir(root.path):  # also False where the system says nothing
        before = sum(scope.holds(path) for path in writer.known(root.id))
        raise DataError(
            f"'{root.path}', the folder of {before:,} indexed images, is missing. Make it reachable again, name where "
            "it is now (index sync INDEX FOLDER), or take its images out (index remove)."
        )
    if named and not os.path.isdir(root.path / scope.below):
        return _see_all(root, [scope.below])
    if root.kind == "files":
        paths = {path for path in (*writer.known(root.id), *writer.skips(root.id)) if scope.holds(path)}
        scan = _see_all(root, sorted(paths))
    else:
        scan = scan_folder(root.id, root.path, scope.below, follow=root.follow)
    _require_reached(writer, root, scope, scan)
    if not allow_empty and not scan.found:
        before = sum(scope.holds(path) for path in writer.known(root.id))
        if before:
            raise DataError(
                f"'{root.path / scope.below}' has no picture any more; {before:,} are indexed. If its disk is not "
                "there, mount it; if they are really gone, add --allow-empty."
            )
    return scan


def _require_reached(writer: Writer, root: Root, scope: Scope, scan: Scan) -> None:
    """Refuse a scope with indexed images of which nothing can be looked at.

    Raises:
        DataError: there is no file in it of which the system says anything.
    """
    if scan.files or not scan.skips or not all(skip.is_unknown for skip in scan.skips):
        return
    before = sum(scope.holds(path) for path in writer.known(root.id))
    if before:
        first = scan.skips[0]
        raise DataError(
            f"nothing in '{root.path / scope.below}', where {before:,} indexed images come from, can be read now "
            f"('{first.path}': {first.reason}). Nothing was changed. Make it reachable again, and sync again."
        )


def _see_all(root: Root, paths: Sequence[str]) -> Scan:
    """Look at some files of a root."""
    scan = Scan()
    for path in paths:
        place = root.path / path
        try:
            is_link = stat.S_ISLNK(os.lstat(place).st_mode)
        except OSError as error:
            if error.errno not in SETTLED:
                scan.skips.append(unread(root.id, path, error))
            continue
        if is_link and not root.follow:
            scan.skips.append(Skip(root.id, path, "a symbolic link, which is not followed (--follow-links does)"))
            continue
        found = see(root.id, path, place, follow=root.follow)
        if isinstance(found, Skip):
            scan.skips.append(found)
        elif found is not None:
            scan.files.append(found)
    return scan


def _without_inner(scopes: Sequence[Scope]) -> list[Scope]:
    """The scopes that lie in no other one."""
    unique = list(dict.fromkeys(scopes))
    return [
        scope
        for scope in unique
        if not any(other != scope and other.root == scope.root and other.holds(scope.below) for other in unique)
    ]
