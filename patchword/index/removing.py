"""Taking images out of an index on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchword.errors import ConfigError, DataError
from patchword.index.catalog import Catalog
from patchword.index.results import Removed
from patchword.index.roots import locate
from patchword.index.schema import count_items, generation
from patchword.index.update import write_skipped
from patchword.index.writer import Writer, open_writer

REASON = "taken out with `index remove`; `index add` brings it back"


def remove(index: Path | str, images: Sequence[Path | str | int] = (), *, where: str | None = None) -> Removed:
    """Take images out of an index; no later `sync` brings them back. Their files are not touched.

    All or nothing: when one name is unknown, nothing is removed. The vectors stay in their shards, where nobody sees
    them, until `compact`.

    Args:
        index: index folder.
        images: ids, or paths of files or folders (as they are, or below a folder of the index).
        where: a filter, see `patchword.index.filters`: all images for which it holds.

    Raises:
        DataError: a name is unknown, or another process writes.
        ConfigError: the filter can not be read, or nothing is named.
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
    """The items that a user means by an id, a file or a folder."""
    text = str(image)
    if isinstance(image, int) or text.isdecimal():
        row = writer.connection.execute(
            "SELECT id FROM items WHERE id = ?", (min(int(text), (1 << 63) - 1),)
        ).fetchone()
        if row is not None:
            return [row[0]]
        if isinstance(image, int):
            raise DataError(f"image {image} is not in '{writer.folder.path}'. It was removed, or never there.")
    place, found = locate(Path(text)), list[int]()
    for root in writer.roots():
        names = [text.removesuffix("/")] if not Path(text).is_absolute() else []
        if place.is_relative_to(root.path):
            below = place.relative_to(root.path).as_posix()
            names.append("" if below == "." else below)
        for name in names:
            found += _below(writer, root.id, name)
    if not found:
        raise DataError(f"'{image}' is neither an id nor a path in '{writer.folder.path}'. Nothing was removed.")
    return found


def _below(writer: Writer, root: int, name: str) -> list[int]:
    """Ids of the item at a path, or of all items below a folder."""
    start, stop = (f"{name}/", f"{name}0") if name else ("", "\U0010ffff")  # "0" is what follows "/"
    rows = writer.connection.execute(
        "SELECT id FROM items WHERE root = ? AND (path = ? OR (path >= ? AND path < ?))", (root, name, start, stop)
    )
    return [row[0] for row in rows]
