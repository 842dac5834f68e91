"""Bringing an index up to date: `sync` with all its folders, `add` with more files or folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from patchword.errors import ConfigError, DataError
from patchword.index.columns import read_columns, with_columns
from patchword.index.encode import Encoder
from patchword.index.features import FeatureFolder
from patchword.index.layout import open_folder
from patchword.index.model_hash import ModelGiven
from patchword.index.results import Changes
from patchword.index.roots import root_for, scope_of
from patchword.index.scan import Scan, Skip, ending, scan_folder, see
from patchword.index.sources import FeaturesAlone, Pictures, Source
from patchword.index.update import Scope, Update
from patchword.index.writer import Root, Writer, open_writer

THREADS = 2  # that decode: more gain nothing where encoding takes most of the time


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; nothing here changes what an index holds.

    Attributes:
        model: a loaded model or a folder, when it is not at the path in the manifest.
        device: where it computes.
        batch: images encoded at a time.
        threads: that read and decode.
        console: where progress goes.
    """

    model: ModelGiven = None
    device: str = "cpu"
    batch: int = 32
    threads: int = THREADS
    console: Console | None = None

    def __post_init__(self) -> None:
        for what, number in (("batch", self.batch), ("threads", self.threads)):
            if number < 1:
                raise ConfigError(f"`{what}` is {number}. Expected 1 or more.")


def sync(
    index: Path | str,
    folder: Path | str | None = None,
    *,
    columns: Path | str | None = None,
    allow_empty: bool = False,
    model: ModelGiven = None,
    device: str = "cpu",
    batch: int = 32,
    threads: int = THREADS,
    console: Console | None = None,
) -> Changes:
    """Make an index hold what its folders hold now: encode new and changed files, forget those that are gone.

    A file whose size and time of change are as before is not read. Moved and renamed files keep their ids and are
    not encoded again. The model is loaded only when something is to be encoded.

    Args:
        index: index folder.
        folder: only this folder, one of the index's or in one; or where its only folder is now.
        columns: a CSV or JSON Lines file of the user's columns, keyed by path.
        allow_empty: accept that a folder that had pictures has none any more.
        model, device, batch, threads, console: see `EncodeOptions`.

    Raises:
        DataError: a folder is missing or suddenly empty, another process writes, or the disk is full.
        CheckpointError: the model is missing or is not the one of the index.
    """
    options = EncodeOptions(model, device, batch, threads, console)
    table = None if columns is None else read_columns(columns)
    with open_writer(open_folder(index), "sync") as writer:
        return with_columns(writer, table, sync_locked(writer, folder, options, allow_empty=allow_empty))


def sync_locked(
    writer: Writer, folder: Path | str | None, options: EncodeOptions, *, allow_empty: bool = False
) -> Changes:
    """Do what `sync` does, for a caller who holds the lock."""
    named = [] if folder is None else [scope_of(writer, Path(folder))]
    scopes = named or [Scope(root.id) for root in writer.roots()]
    roots = {root.id: root for root in writer.roots()}
    features = _open_features(writer)
    alone = [root for root in roots.values() if root.kind == "features" and root.id in {s.root for s in scopes}]
    if alone:
        return _sync_features(writer, alone[0], features, options)
    scan = Scan()
    for scope in scopes:
        scan.join(_look(writer, roots[scope.root], scope, allow_empty=allow_empty))
    source = _pictures(writer, roots, features, options)
    return _update(writer, source, options).run(scan, scopes, removes=True, moves=features is None)


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
        scopes = [root_for(writer, Path(path), follow=follow_links) for path in paths]
        roots = {root.id: root for root in writer.roots()}
        scan, whole = Scan(), _without_inner(scopes)
        for scope in whole:
            scan.join(_look(writer, roots[scope.root], scope, allow_empty=True, named=True))
        source = _pictures(writer, roots, _open_features(writer) if whole else None, options)
        changes = _update(writer, source, options).run(scan, whole, removes=False, moves=False, retry=True)
        return with_columns(writer, table, changes)


def _update(writer: Writer, source: Source, options: EncodeOptions) -> Update:
    return Update(writer, source, options.console or Console(quiet=True))


def _open_features(writer: Writer) -> FeatureFolder | None:
    source = writer.manifest.features
    return None if source is None else FeatureFolder(source)


def _encoder(writer: Writer, options: EncodeOptions) -> Encoder:
    return Encoder(writer.manifest, options.model, batch=options.batch, device=options.device)


def _pictures(
    writer: Writer, roots: dict[int, Root], features: FeatureFolder | None, options: EncodeOptions
) -> Pictures:
    return Pictures(_encoder(writer, options), roots, options.threads, features)


def _sync_features(writer: Writer, root: Root, features: FeatureFolder | None, options: EncodeOptions) -> Changes:
    """Sync an index of features alone."""
    assert features is not None
    pairs = features.seen(root.id)
    source = FeaturesAlone(_encoder(writer, options), features, {seen.path: spot for seen, spot in pairs})
    scan = Scan(files=[seen for seen, _ in pairs])
    return _update(writer, source, options).run(scan, [Scope(root.id)], removes=True, moves=False)


def _look(writer: Writer, root: Root, scope: Scope, *, allow_empty: bool, named: bool = False) -> Scan:
    """Look for the files that are there in a scope.

    Args:
        named: a user has named this very scope, so that its files count also where only named ones do.

    Raises:
        DataError: the root is missing, or has no pictures any more.
    """
    if not root.path.is_dir():
        before = sum(scope.holds(path) for path in writer.known(root.id))
        raise DataError(
            f"'{root.path}', the folder of {before:,} indexed images, is missing. Make it reachable again, name where "
            "it is now (index sync INDEX FOLDER), or take its images out (index remove)."
        )
    if named and not (root.path / scope.below).is_dir():
        return _see_all(root, [scope.below])
    if root.kind == "files":
        paths = {path for path in (*writer.known(root.id), *writer.skips(root.id)) if scope.holds(path)}
        scan = _see_all(root, sorted(paths))
    else:
        scan = scan_folder(root.id, root.path, scope.below, follow=root.follow)
    if not allow_empty and not scan.found:
        before = sum(scope.holds(path) for path in writer.known(root.id))
        if before:
            raise DataError(
                f"'{root.path / scope.below}' has no picture any more; {before:,} are indexed. If its disk is not "
                "there, mount it; if they are really gone, add --allow-empty."
            )
    return scan


def _see_all(root: Root, paths: Sequence[str]) -> Scan:
    """Look at some files of a root."""
    scan = Scan()
    for path in paths:
        place = root.path / path
        if not os.path.lexists(place):
            continue
        if place.is_symlink() and not root.follow:
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
