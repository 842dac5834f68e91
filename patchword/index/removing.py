"""Taking images out of an index on purpose."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchword.errors import ConfigError, DataError
from patchword.index.results import Removed
from patchword.index.roots import locate
from patchword.index.update import write_skipped
from patchword.index.writer import Writer, open_writer
from patchword.store.catalog import Catalog
from patchword.store.schema import count_items, generation

REASON = "taken out with `index remove`; `index add` brings it back"
ID = "id:"  # before a number, so that it is none of a file or folder
SHOWN = 5  # images that a message names


def remove(index: Path | str, images: Sequence[Path | str | int] = (), *, where: str | None = None) -> Removed:
    """Take images out of an index; no later `sync` brings them back. Their files are not touched.

    All or nothing: when one name is unknown, nothing is removed. The vectors stay in their shards, where nobody sees
    them, until `compact`.

    Args:
        index: index folder.
        images: ids (numbers, or texts such as ``7`` and ``id:7``), or paths of files or folders (as they are, or below
            a folder of the index). A file of that name in one folder only.
        where: a filter, see `patchword.store.filters`: all images for which it holds.

    Raises:
        DataError: a name is unknown, or another process writes.
        ConfigError: a name is both an id and a path, or that of files in several folders of the index, the filter can
            not be read, or nothing is named.
    """
    if not images and where is None:
        raise ConfigError("nothing to remove. Name ids or paths, or --where FILTER.")
    with open_writer(index, "remove") as writer:
        chosen = dict[int, None]()
        for image in images:
            chosen.update(dict.fromkeys(_ids_of(writer, image)))
        if where is not None:
            with Catalog(writer.folder) as catalog:
                chosen.update(dict.fromkeys(catalog.where(where).tolist()))
        writer.remove(chosen, reason=REASON)
        write_skipped(writer)
        return Removed(tuple(sorted(chosen)), count_items(writer.connection), generation(writer.connection))


def _ids_of(writer: Writer, image: Path | str | int) -> list[int]:
    """The items that a user means by an id, a file or a folder.

    Raises:
        DataError: there is none.
        ConfigError: it may be an id or a path, or a file in several folders of the index.
    """
    text = str(image)
    number = _number_of(image)
    known = None if number is None else _path_of(writer, number)
    by_id = [] if number is None or known is None else [number]
    if number is not None and (isinstance(image, int) or text.startswith(ID)):
        if not by_id:
            raise DataError(f"image {number} is not in '{writer.folder.path}'. It was removed, or never there.")
        return by_id
    by_path = _at(writer, text)
    if by_id and by_path:
        raise ConfigError(
            f"'{text}' is the number of the image '{known}', and a file or folder with {len(by_path):,} images: write "
            f"{ID}{text} or ./{text}. Nothing was removed."
        )
    if not (by_id or by_path):
        raise DataError(f"'{image}' is neither an id nor a path in '{writer.folder.path}'. Nothing was removed.")
    return by_id or by_path


def _number_of(image: Path | str | int) -> int | None:
    """The number in a text such as ``7`` or ``id:7``, or a number itself; None for anything else.

    Example:
        >>> _number_of("7"), _number_of("id:7"), _number_of(7), _number_of("./7"), _number_of(Path("7"))
        (7, 7, 7, None, None)
    """
    if isinstance(image, int):
        return image
    digits = image.removeprefix(ID) if isinstance(image, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else None


def _path_of(writer: Writer, number: int) -> str | None:
    """The path of an item; None where there is none of this number."""
    if not 0 < number < 1 << 63:
        return None
    row = writer.connection.execute("SELECT path FROM items WHERE id = ?", (number,)).fetchone()
    return None if row is None else str(row[0])


def _at(writer: Writer, text: str) -> list[int]:
    """Ids of the items at a path, or below a folder: as it is, or below a folder of the index.

    Raises:
        ConfigError: it is a file in one folder of the index, and a file or folder in another one.
    """
    place, found, is_file = locate(Path(text)), dict[int, str](), False
    for root in writer.roots():
        names = [] if Path(text).is_absolute() else [posixpath.normpath(text)]
        if place.is_relative_to(root.path):
            below = place.relative_to(root.path).as_posix()
            names.append("" if below == "." else below)
        for name in names:
            items = _below(writer, root.id, name)
            found |= {id: str(root.path / path) for id, path in items}
            is_file = is_file or any(path == name for _, path in items)
    if is_file and len(found) > 1:
        raise ConfigError(_several(text, found))
    return list(found)


def _several(text: str, found: Mapping[int, str]) -> str:
    """What is wrong with a name that is a file and more."""
    some = ", ".join(f"{id} is '{path}'" for id, path in sorted(found.items())[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return (
        f"{text!r} is the name of {len(found):,} images: {some}{more}. Name the right one by its full path, or by its "
        f"id as in {ID}{min(found)}. Nothing was removed."
    )


def _below(writer: Writer, root: int, name: str) -> list[tuple[int, str]]:
    """Id and path of the item at a path, or of all items below a folder."""
    start, stop = (f"{name}/", f"{name}0") if name else ("", "\U0010ffff")  # "0" is what follows "/"
    rows = writer.connection.execute(
        "SELECT id, path FROM items WHERE root = ? AND (path = ? OR (path >= ? AND path < ?))",
        (root, name, start, stop),
    )
    return rows.fetchall()
