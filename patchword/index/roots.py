"""The folders that items come from: which root a path belongs to, new roots, and roots that have moved."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchword.errors import ConfigError, DataError
from patchword.index.records import Root
from patchword.index.scan import show
from patchword.index.update import Scope
from patchword.index.writer import Writer
from patchword.store.schema import bump_generation, transaction

SAMPLE = 100  # indexed files that a folder is asked for before it is taken for the new place of theirs


def locate(path: Path) -> Path:
    """Absolute path without links in its folders; a last part that is a link stays one."""
    absolute = Path(os.path.abspath(path))
    return absolute.resolve() if os.path.isdir(absolute) else absolute.parent.resolve() / absolute.name


def enclosing(roots: Sequence[Root], place: Path) -> Scope | None:
    """The part of a root that a place is; None when no root holds it."""
    for root in roots:
        if root.kind == "folder" and place.is_relative_to(root.path):
            below = place.relative_to(root.path).as_posix()
            return Scope(root.id, "" if below == "." else below)
    for root in roots:
        if root.kind == "files" and place.parent == root.path and not place.is_dir():
            return Scope(root.id, place.name)
    return None


def root_for(writer: Writer, path: Path, *, follow: bool = False) -> Scope:
    """The scope of a file or folder that is to be indexed; a new root is registered where none holds it.

    Files that lie in no indexed folder get a root of kind ``files``, of which only they are ever looked at. A folder
    that holds older roots takes over their items.
    """
    place = locate(path)
    found = enclosing(writer.roots(), place)
    if found is not None:
        return found
    is_folder = place.is_dir()
    home = place if is_folder else place.parent
    if show(str(home)) != str(home):
        raise DataError(f"'{show(str(home))}': the name of the folder is not valid UTF-8. Rename it.")
    with transaction(writer.connection) as connection:
        number = connection.execute(
            "INSERT INTO roots (path, kind, follow) VALUES (?, ?, ?)",
            (str(home), "folder" if is_folder else "files", int(follow)),
        ).lastrowid
        assert number is not None
        for root in writer.roots():
            if is_folder and root.id != number and root.kind != "features" and root.path.is_relative_to(home):
                _rehome(writer, root, number, root.path.relative_to(home).as_posix())
    return Scope(number, "" if is_folder else place.name)


def _rehome(writer: Writer, old: Root, number: int, below: str) -> None:
    """Let a new root take over the items and skipped files of one that lies in it, within a transaction."""
    prefix = "" if below == "." else f"{below}/"
    for table in ("items", "skipped"):
        writer.connection.execute(
            f"UPDATE {table} SET root = ?, path = ? || path WHERE root = ?", (number, prefix, old.id)
        )
    writer.connection.execute("DELETE FROM roots WHERE id = ?", (old.id,))
    bump_generation(writer.connection)


def scope_of(writer: Writer, folder: Path) -> Scope:
    """The scope that a user means by a folder to be synced.

    Where the only root is missing, the folder is taken for its new place if it holds at least half of the files that
    are looked for; the next `Writer.settle` registers it.

    Raises:
        ConfigError: it is no folder of this index.
        DataError: it is missing, or does not look like the root that is.
    """
    place, roots = locate(folder), writer.roots()
    found = enclosing(roots, place)
    if found is not None:
        return found
    for root in roots:
        if root.kind == "features" and root.path == place:
            return Scope(root.id)
    if not os.path.isdir(place):
        raise DataError(f"'{folder}' is missing. Expected a folder of this index: {_names(roots)}.")
    if len(roots) == 1 and roots[0].kind == "folder" and not os.path.exists(roots[0].path):
        root = roots[0]
        looked_for = _some_of({path: item.size for path, item in writer.known(root.id).items()})
        there = sum(_has_size(place / path, size, follow=root.follow) for path, size in looked_for.items())
        if 2 * there < len(looked_for):
            raise DataError(
                f"'{folder}' does not look like '{root.path}', which is missing, under another name: of "
                f"{len(looked_for)} indexed files {there} are there with their size (at least half are expected). Make "
                "the old folder reachable again; to index this one as well: patchword index add INDEX FOLDER"
            )
        writer.follow_root(root.id, place)
        return Scope(root.id)
    raise ConfigError(
        f"'{folder}' is no folder of this index, whose folders are {_names(roots)}. "
        "To index it as well: patchword index add INDEX FOLDER"
    )


def _some_of(sizes: Mapping[str, int]) -> dict[str, int]:
    """At most `SAMPLE` entries, evenly from all of them."""
    paths = list(sizes)
    count = min(SAMPLE, len(paths))
    return {path: sizes[path] for path in (paths[k * len(paths) // count] for k in range(count))}


def _has_size(file: Path, size: int, *, follow: bool) -> bool:
    """Whether a file is there with so many bytes."""
    try:
        about = os.stat(file, follow_symlinks=follow)
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_size == size


def _names(roots: Sequence[Root]) -> str:
    return ", ".join(f"'{root.path}'" for root in roots) or "none"
