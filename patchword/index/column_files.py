"""The files that the user's columns came from, remembered, so that a sync takes over what they say now.

They are read again when their size or time of change differs, and when there are new images that they may name. The
file that was named last has the last word about a column that several have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from patchword.errors import DataError
from patchword.index.columns import Stamp, Table, apply_columns, hash_of, places_of, read_columns, stamp_of
from patchword.index.results import Changes
from patchword.index.writer import Writer
from patchword.store.schema import generation, meta, transaction


def set_columns(writer: Writer, table: Table | None, changes: Changes) -> Changes:
    """Set the columns of a table, if there is one, remember its file, and say what it named in vain."""
    if table is None:
        return changes
    applied = apply_columns(writer, table)
    _remember(writer, table)
    return replace(changes, unknown_columns=applied.unknown, generation=generation(writer.connection))


def _remember(writer: Writer, table: Table) -> None:
    """Note a file whose columns are set, behind those that were set before."""
    path = str(table.file.resolve())
    with transaction(writer.connection) as connection:
        connection.execute("DELETE FROM column_files WHERE path = ?", (path,))
        connection.execute(
            "INSERT INTO column_files (path, size, mtime, hash) VALUES (?, ?, ?, ?)", (path, *table.stamp, table.hash)
        )


def follow_columns(writer: Writer, first: int, changes: Changes, *, besides: Table | None = None) -> Changes:
    """Set columns again from all files when one has changed, else those of new images.

    A file that is not there changes nothing: its disk may just be missing. Nor does one that can not be read any more;
    that is told. A row that is gone from a file changes nothing either, as when the file is named again.

    Args:
        writer: of the index.
        first: images with ids from this one on are new.
        changes: of the work that was done before.
        besides: a table that is set after this in any case.
    """
    changed = _look(writer, None if besides is None else besides.file.resolve())
    new = set(writer.connection.execute("SELECT root, path FROM items WHERE id >= ?", (first,)))
    roots = writer.roots()
    if not new and not any(changed.values()):
        return changes
    said = list[str]()
    for path, is_changed in changed.items():
        try:
            table = read_columns(path)
        except DataError as error:
            said.append(f"{error} The columns that it gave stay as they were.")
            continue
        if not any(changed.values()):
            rows = {name: row for name, row in table.rows.items() if not new.isdisjoint(places_of(name, roots))}
            table = replace(table, rows=rows)
        if not table.rows:
            continue
        applied = apply_columns(writer, table)
        if is_changed:
            _renew(writer, path, table.stamp, table.hash)
            vain = f"; {in_vain(len(applied.unknown))}" if applied.unknown else ""
            said.append(f"'{path}' has changed: columns of {applied.items:,} images were set anew{vain}")
    return replace(changes, column_files=tuple(said), generation=generation(writer.connection))


def in_vain(rows: int, of: str = "") -> str:
    """How many rows of a table name no image.

    Example:
        >>> in_vain(1, " of --columns"), in_vain(2)
        ('1 row of --columns names no image', '2 rows name no image')
    """
    return f"1 row{of} names no image" if rows == 1 else f"{rows:,} rows{of} name no image"


def _look(writer: Writer, besides: Path | None) -> dict[Path, bool]:
    """The remembered files that are there, in their order, and whether what they hold has changed."""
    rows = writer.connection.execute("SELECT path, size, mtime, hash FROM column_files ORDER BY id").fetchall()
    found = dict[Path, bool]()
    for name, size, mtime, before in rows:
        path = Path(name)
        stamp = stamp_of(path)
        if stamp is None or path == besides:
            continue
        is_other = stamp != (size, mtime) or not mtime
        found[path] = is_other and hash_of(path) != before
        if is_other and not found[path]:
            _renew(writer, path, stamp, before)
    return found


def _renew(writer: Writer, path: Path, stamp: Stamp, digest: str) -> None:
    """Note how a remembered file is now."""
    with transaction(writer.connection) as connection:
        connection.execute(
            "UPDATE column_files SET size = ?, mtime = ?, hash = ? WHERE path = ?", (*stamp, digest, str(path))
        )


def next_id(writer: Writer) -> int:
    """The id that the next new item will get."""
    return meta(writer.connection, "next_id")
