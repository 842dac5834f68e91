"""Reading the catalog: items and captions by id, filters, columns, and the generation that tells when to look again."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchword.errors import DataError
from patchword.store import schema
from patchword.store.filters import BUILT_IN, Column, compile_filter
from patchword.store.layout import IndexFolder, open_folder
from patchword.store.schema import connect_to_read, identity, look, one_view

T = TypeVar("T")
Value = str | int | float | None

_FIELDS = (
    "items.id", "items.path", "roots.path", "hash", "size", "mtime", "width", "height", "taken", "camera",
    "orientation", "latitude", "longitude", "feature", "roots.kind",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One indexed image.

    Attributes:
        id: never used for anything else, also after the image is gone.
        path: below its root, with ``/``; for an index of features alone: the image's id in the data set.
        root: absolute folder (of the pictures, or of the features).
        hash: of the content.
        size: bytes of the file.
        mtime: when the file was last changed, in seconds since 1970.
        width, height: pixels, upright.
        taken: EXIF date, ``2024-05-01T10:00:00``.
        camera: maker and model.
        orientation: EXIF orientation 1..8.
        latitude, longitude: degrees.
        feature: ``split/image id`` of the region features, for models that read such.
        has_picture: whether ``root/path`` is a picture file.
        columns: the user's own columns.
    """

    id: int
    path: str
    root: str
    hash: str
    size: int
    mtime: float
    width: int | None = None
    height: int | None = None
    taken: str | None = None
    camera: str | None = None
    orientation: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    feature: str | None = None
    has_picture: bool = True
    columns: dict[str, Value] = field(default_factory=dict)

    @property
    def file(self) -> Path | None:
        """The picture file, whether or not it still exists; None for an index of features alone."""
        return Path(self.root, self.path) if self.has_picture else None


@dataclass(frozen=True)
class CaptionItem:
    """One indexed caption.

    Attributes:
        image_id: the indexed image it was given for, if any.
    """

    id: int
    text: str
    image_id: int | None = None


class Catalog:
    """The catalog of an index, for reading, from any number of threads. Every call sees the newest generation.

    It goes on reading the index that it was opened with when the folder, or a link to it, leads to another one.

    Args:
        folder: an index.

    Raises:
        DataError: there is no index, or its catalog can not be read.
    """

    def __init__(self, folder: Path | str | IndexFolder) -> None:
        self.folder = open_folder(folder)
        self._identity = identity(self.folder)
        self._free: list[sqlite3.Connection] = []
        self._in_use = 0
        self._guard = threading.Condition()
        self._is_open = True
        weakref.finalize(self, _close_all, self._free)  # when no search holds it any more
        self.generation()

    def is_replaced(self) -> bool:
        """Whether another catalog lies at the place of this one.

        Raises:
            DataError: none does.
        """
        return identity(self.folder) != self._identity

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What some reading gives, with a connection that nobody else uses meanwhile.

        One that expects no writer is good for one look, and never kept.
        """
        connection = self._taken()
        if connection is None:
            found = look(self.folder, work)
            if self._is_elsewhere():
                raise self._replaced()
            return found
        try:
            return work(connection)
        finally:
            with self._guard:
                self._in_use -= 1
                if self._is_open:
                    self._free.append(connection)
                else:
                    connection.close()
                self._guard.notify()

    def _taken(self) -> sqlite3.Connection | None:
        """A kept connection, or a new one: there are as many as were ever used at once. None where none can be kept.

        Once another catalog lies at the place, there can be no new ones: then one is waited for.

        Raises:
            DataError: the catalog can not be read, or is another one and no connection to the old one is left.
        """
        with self._guard:
            while not self._free:
                if not self._is_elsewhere():
                    connection = connect_to_read(self.folder)
                    if connection.is_immutable:
                        connection.close()
                        return None
                    if not self._is_elsewhere():
                        self._in_use += 1
                        return connection
                    connection.close()  # it was replaced just now
                if not self._in_use:
                    raise self._replaced()
                self._guard.wait()
            self._in_use += 1
            return self._free.pop()

    def _is_elsewhere(self) -> bool:
        """Whether the place leads to another catalog, or to none."""
        try:
            return self.is_replaced()
        except DataError:
            return True

    def _replaced(self) -> DataError:
        return DataError(f"'{self.folder.catalog}' was replaced, or is gone. Open the index again.")

    def close(self) -> None:
        """Close the connections."""
        with self._guard:
            self._is_open = False
            _close_all(self._free)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation(self) -> int:
        """A number that grows with every change of what is in the index."""
        return self._read(schema.generation)

    def count(self, kind: str = "image") -> int:
        """Number of images, or of captions."""
        query = "SELECT coalesce(sum(alive), 0) FROM shards WHERE kind = ?"
        return self._read(lambda connection: int(connection.execute(query, (kind,)).fetchone()[0]))

    def columns(self) -> dict[str, str]:
        """The columns a filter may name, with their types: ``text``, ``integer`` or ``real``."""
        return {name: column.type for name, column in self._read(_columns).items()}

    def roots(self) -> list[str]:
        """The folders that images come from, in the order in which they were added."""
        query = "SELECT path FROM roots WHERE EXISTS (SELECT 1 FROM items WHERE root = roots.id) ORDER BY id"
        return self._read(lambda connection: [str(row[0]) for row in connection.execute(query)])

    def find(self, ids: Iterable[int] | NDArray[np.int64]) -> dict[int, Item]:
        """The items of these ids that are still in the index."""
        wanted = json.dumps([int(one) for one in ids])

        def read(connection: sqlite3.Connection) -> dict[int, Item]:
            with one_view(connection):
                own = connection.execute("SELECT name, id FROM user_columns ORDER BY id").fetchall()
                fields = ", ".join([*_FIELDS, *(f"items.u{number}" for _, number in own)])
                rows = connection.execute(
                    f"SELECT {fields} FROM items JOIN roots ON roots.id = items.root "
                    "WHERE items.id IN (SELECT value FROM json_each(?))",
                    (wanted,),
                ).fetchall()
            names = [name for name, _ in own]
            return {row[0]: _item(row, names) for row in rows}

        return self._read(read)

    def items(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Item]:
        """The items of these ids, in that order. A hit of an older snapshot may be gone: see `find`.

        Raises:
            DataError: an id is not in the index.
        """
        found = self.find(ids)
        return [_known(found, int(one), "image") for one in ids]

    def named(self, name: Path | str) -> int | None:
        """The id of an image by its path below its root, its file, or its features; None where none has that name.

        Raises:
            DataError: several images have it.
        """
        text = os.fspath(name)
        if not _can_be_stored(text):
            return None
        places = {Path(os.path.abspath(text)), Path(os.path.realpath(text))}

        def read(connection: sqlite3.Connection) -> set[int]:
            with one_view(connection):
                wanted = set[tuple[int, str]]()
                for root, path in connection.execute("SELECT id, path FROM roots").fetchall():
                    wanted |= {(root, one.relative_to(path).as_posix()) for one in places if one.is_relative_to(path)}
                    wanted.add((root, text))
                query = "SELECT id FROM items WHERE root = ? AND path = ?"
                found = {row[0] for place in wanted for row in connection.execute(query, place)}
                if found:
                    return found
                query = "SELECT id FROM items WHERE feature = ? OR substr(feature, instr(feature, '/') + 1) = ?"
                return {row[0] for row in connection.execute(query, (text, text))}

        found = self._read(read) if text else set()
        if len(found) > 1:
            ids = ", ".join(map(str, sorted(found)[:5]))
            raise DataError(f"{text!r} is the name of {len(found)} images: {ids}. Name one of them by its id.")
        return next(iter(found), None)

    def find_captions(self, ids: Iterable[int] | NDArray[np.int64]) -> dict[int, CaptionItem]:
        """The captions of these ids that are still in the index."""
        query = "SELECT id, text, image FROM captions WHERE id IN (SELECT value FROM json_each(?))"
        wanted = json.dumps([int(one) for one in ids])
        rows = self._read(lambda connection: connection.execute(query, (wanted,)).fetchall())
        return {row[0]: CaptionItem(*row) for row in rows}

    def captions(self, ids: Sequence[int] | NDArray[np.int64]) -> list[CaptionItem]:
        """The captions of these ids, in that order.

        Raises:
            DataError: an id is not in the index.
        """
        found = self.find_captions(ids)
        return [_known(found, int(one), "caption") for one in ids]

    def where(self, expression: str) -> NDArray[np.int64]:
        """Ids of the images for which a filter holds, ascending; see `patchword.store.filters`.

        They are those of the newest generation: an older snapshot may lack some of them.

        Raises:
            ConfigError: the filter can not be read, names an unknown column or compares a text with a number.
        """

        def read(connection: sqlite3.Connection) -> NDArray[np.int64]:
            with one_view(connection):
                compiled = compile_filter(expression, _columns(connection))
                joined = "SELECT items.id FROM items JOIN roots ON roots.id = items.root"
                rows = connection.execute(f"{joined} WHERE {compiled.sql} ORDER BY items.id", compiled.values)
                return np.fromiter((row[0] for row in rows), dtype=np.int64)

        return self._read(read)


def _can_be_stored(text: str) -> bool:
    """Whether a text can be that of a catalog, and a path: no NUL, and no half characters, which are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _columns(connection: sqlite3.Connection) -> dict[str, Column]:
    own = connection.execute("SELECT name, type, id FROM user_columns ORDER BY id").fetchall()
    return {**BUILT_IN, **{name: Column(f"items.u{number}", kind) for name, kind, number in own}}


def _close_all(connections: list[sqlite3.Connection]) -> None:
    """Close connections that nobody uses."""
    while connections:
        connections.pop().close()


def _item(row: tuple[Any, ...], names: Sequence[str]) -> Item:
    plain, own = row[: len(_FIELDS)], row[len(_FIELDS) :]
    columns = dict(zip(names, own, strict=True))
    values: list[Any] = [*plain[:5], plain[5] / 1e9, *plain[6:-1], plain[-1] != "features", columns]
    return Item(*values)


def _known(found: dict[int, Any], one: int, what: str) -> Any:
    if one not in found:
        raise DataError(f"{what} {one} is not in the index. It was removed, or never there.")
    return found[one]


def generation(folder: Path | str) -> int:
    """A number that grows with every change of what is in an index: one small read."""
    return look(open_folder(folder), schema.generation)
