"""The user's own columns: read from a CSV or JSON Lines file keyed by path, kept with the items, named in filters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchword.errors import DataError
from patchword.index.file_bytes import hash_bytes
from patchword.index.records import RACY_NS, Root
from patchword.index.tables import JSON_LINES, read_by_path
from patchword.index.writer import Writer
from patchword.store.filters import BUILT_IN, INTEGER, REAL, TEXT
from patchword.store.schema import bump_generation, transaction

Value = str | int | float | None
Stamp = tuple[int, int]  # size, and time of change in ns; 0 where the file may have changed again unseen
MAX_COLUMNS = 200
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})")
_REAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """Values for items.

    Attributes:
        file: where they come from, for messages.
        types: name of each column to ``text``, ``integer`` or ``real``.
        rows: path to its values, in the order of the columns.
        stamp, hash: of the file, not of a later moment than the rows.
    """

    file: Path
    types: dict[str, str]
    rows: dict[str, tuple[Value, ...]]
    stamp: Stamp = (0, 0)
    hash: str = ""


@dataclass(frozen=True)
class Applied:
    """What setting columns did.

    Attributes:
        items: that got values.
        unknown: paths of the table that name no item.
    """

    items: int
    unknown: tuple[str, ...]


def stamp_of(file: Path) -> Stamp | None:
    """What differs when a file is another one; None where there is none."""
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns if time.time_ns() - about.st_mtime_ns > RACY_NS else 0


def hash_of(file: Path) -> str | None:
    """Hash of the content of a file; None where it can not be read."""
    try:
        return hash_bytes(file.read_bytes())
    except OSError:
        return None


def read_columns(file: Path | str) -> Table:
    """Read a table whose column ``path`` (or ``file``, ``file_name``, ``image``) says which item a row belongs to.

    In CSV a column of whole numbers is an integer one, a column of numbers a real one, everything else text; an empty
    field is no value. JSON Lines says the types itself.

    Raises:
        DataError: it can not be read, has no such column, or names a path twice; with the line.
    """
    path = Path(file)
    stamp, digest = stamp_of(path), hash_of(path)  # before it is read: a change meanwhile is one that a sync sees
    key, records = read_by_path(path)
    is_typed = path.suffix.lower() in JSON_LINES
    fields = [{name: _value(path, line, name, value) for name, value in row.items()} for line, row in records.values()]
    names = [name for name in dict.fromkeys(name for row in fields for name in row) if name != key]
    _check_names(path, names)
    types = {name: _type_of((row.get(name) for row in fields), is_typed=is_typed) for name in names}
    rows = {
        where: tuple(cast(row.get(name), types[name]) for name in names)
        for where, row in zip(records, fields, strict=True)
    }
    return Table(path, types, rows, stamp or (0, 0), digest or "")


def _value(path: Path, line: int, name: str, value: Any) -> Value:
    """A JSON value as SQLite holds it: truth values are 0 and 1, numbers beyond its range are texts.

    Raises:
        DataError: it is a list or an object.
    """
    if not isinstance(value, str | int | float | None):
        raise DataError(f"'{path}' line {line}: `{name}` is a {type(value).__name__}. Expected one value.")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    if isinstance(value, float) and value - value != 0:
        return str(value)
    found: Value = value
    return found


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names that a filter could not tell apart.

    Raises:
        DataError: naming the first.
    """
    if len(names) > MAX_COLUMNS:
        raise DataError(f"'{path}' has {len(names)} columns. At most {MAX_COLUMNS} are kept.")
    for name in names:
        if name in BUILT_IN:
            raise DataError(f"'{path}': every index has a column `{name}` already. Rename yours.")
        if not name or len(name) > 200 or not name.isprintable():
            raise DataError(f"'{path}': {name[:40]!r} can not be the name of a column.")


def _type_of(values: Iterable[Value], *, is_typed: bool = False) -> str:
    """The narrowest type that holds all values.

    Args:
        values: of a column.
        is_typed: a text is a text even where it looks like a number.

    Example:
        >>> _type_of(["1", None, "-20"]), _type_of(["1", "2.5"]), _type_of(["007", "1"]), _type_of([None])
        ('integer', 'real', 'text', 'text')
    """
    present = [value for value in values if value is not None]
    if not present or (is_typed and any(isinstance(value, str) for value in present)):
        return TEXT
    if all(isinstance(v, int) or (isinstance(v, str) and _INTEGER.fullmatch(v)) for v in present):
        return INTEGER
    return REAL if all(not isinstance(v, str) or _is_real(v) for v in present) else TEXT


def _is_real(text: str) -> bool:
    return _REAL.fullmatch(text) is not None and not re.fullmatch(r"[-+]?0\d+", text)


def cast(value: Value, kind: str) -> Value:
    """A value as a column of this type holds it."""
    if value is None:
        return None
    return str(value) if kind == TEXT else int(value) if kind == INTEGER else float(value)


def widest(a: str, b: str) -> str:
    """The type that holds the values of both."""
    return a if a == b else TEXT if TEXT in (a, b) else REAL


def places_of(name: str, roots: Iterable[Root]) -> list[tuple[int, str]]:
    """What a row that names this path may be about: number of a root, and path below it.

    Example:
        >>> photos = Root(1, Path("/photos"), "folder", False)
        >>> places_of("/photos//a/x.png", [photos]), places_of("./a//x.png", [photos])
        ([(1, '/photos//a/x.png'), (1, 'a/x.png')], [(1, './a//x.png'), (1, 'a/x.png')])
    """
    path, found = Path(name), list[tuple[int, str]]()
    for root in roots:
        found.append((root.id, name))  # the id of an image without a picture need not be a path
        if not path.is_absolute():
            found.append((root.id, path.as_posix()))
        elif path.is_relative_to(root.path):
            found.append((root.id, path.relative_to(root.path).as_posix()))
    return list(dict.fromkeys(found))


def apply_columns(writer: Writer, table: Table) -> Applied:
    """Set the columns of the items that a table names, in one transaction; columns that are new are made.

    A row belongs to the items whose path below their root, or whose absolute path, it names.
    """
    with transaction(writer.connection) as connection:
        have = {name: (number, kind) for number, name, kind in connection.execute("SELECT * FROM user_columns")}
        fields, kinds = [], []
        for name, kind in table.types.items():
            if name not in have:
                number = connection.execute(
                    "INSERT INTO user_columns (name, type) VALUES (?, ?)", (name, kind)
                ).lastrowid
                connection.execute(f"ALTER TABLE items ADD COLUMN u{number}")
            else:
                number, old = have[name]
                kind = widest(old, kind)
                if kind != old:
                    connection.execute("UPDATE user_columns SET type = ? WHERE id = ?", (kind, number))
                    connection.execute(f"UPDATE items SET u{number} = CAST(u{number} AS {kind.upper()})")
            fields.append(f"u{number} = ?")
            kinds.append(kind)
        roots = writer.roots()
        count, unknown = 0, list[str]()
        for path, row in table.rows.items():
            hits = 0
            for place in places_of(path, roots):
                values = [cast(value, kind) for value, kind in zip(row, kinds, strict=True)]
                query = f"UPDATE items SET {', '.join(fields)} WHERE root = ? AND path = ?"
                hits += connection.execute(query, (*values, *place)).rowcount if fields else 0
            count += hits
            if not hits:
                unknown.append(path)
        bump_generation(connection)
    return Applied(count, tuple(unknown))
