"""Hugging Face data sets on disk: folders written by ``save_to_disk`` and local parquet files. Extra: ``hub``.

Nothing is downloaded. Rows may hold one caption or a list, the split as a column or as a folder, and the picture as
bytes inside the table or as a file name beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patchword.data.find_pictures import expected_files, picture_folders
from patchword.data.pictures import Picture, PictureFiles, decode, decode_bytes
from patchword.data.split_names import is_split_name
from patchword.data.table import Split, group_by_image
from patchword.data.tabular import KNOWN_COLUMNS, numbered_captions, numbers_rows, pick_columns, show_columns
from patchword.data.text_files import in_split_order, missing_split, require_caption
from patchword.errors import DataError

NO_SPLIT = "all"
_MARKS = ("dataset_dict.json", "state.json")


def _folders(root: Path, name: str | None) -> list[Path]:
    return [root / name, root] if name else [root]


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every path at which such files are looked for."""
    return [folder / file for folder in _folders(root, name) for file in (*_MARKS, "*.parquet", "data/*.parquet")]


def find(root: Path, name: str | None = None) -> Path | None:
    """The folder (or parquet file) of a saved data set, or None. Needs no extra package."""
    if root.is_file():
        return root if root.suffix == ".parquet" else None
    for folder in _folders(root, name):
        if any((folder / mark).is_file() for mark in _MARKS) or _parquet_files(folder):
            return folder
    return None


def _parquet_files(place: Path) -> dict[str, list[Path]]:
    """Parquet files by split: the word before the first ``-`` or ``.`` of their names (``test-00000-of-00009``)."""
    if place.is_file():
        paths = [place]
    else:
        paths = [*sorted(place.glob("*.parquet")), *sorted((place / "data").glob("*.parquet"))]
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.name.partition(".")[0].partition("-")[0], []).append(path)
    return found


@dataclass(frozen=True)
class TablePictures(PictureFiles):
    """Pictures stored inside a saved data set; ``files`` are names for messages.

    Attributes:
        table: the data set; its picture column yields undecoded ``{"bytes", "path"}``.
        rows: N rows of the table.
        column: name of the picture column.
    """

    table: Any = None
    rows: tuple[int, ...] = ()
    column: str = "image"

    def picture(self, image: int) -> Picture:
        """Decode one picture, untransformed."""
        cell = self.table[self.rows[image]][self.column]
        if cell is not None and cell["bytes"] is not None:
            return decode_bytes(cell["bytes"], f"'{self.files[image]}'")
        if cell is not None and cell["path"]:
            return decode(Path(cell["path"]))
        raise DataError(f"'{self.files[image]}' holds no picture. Expected its bytes or a file name.")

    def raw(self, image: int) -> bytes | None:
        """The bytes of one picture, in the table or in the file that it names; None where there are none."""
        cell = self.table[self.rows[image]][self.column] or {}
        path = Path(cell.get("path") or "")
        if cell.get("bytes") is None and path.is_file():
            return path.read_bytes()
        stored: bytes | None = cell.get("bytes")
        return stored

    def problem(self, image: int) -> str | None:
        """Why one picture can not be used, as one sentence; None when it decodes."""
        try:
            self.picture(image)
        except DataError as error:
            return str(error)
        return None

    def select(self, images: Sequence[int]) -> TablePictures:
        """The source of a subset of the pictures; nothing is read."""
        chosen = [int(i) for i in images]
        return replace(self, files=[self.files[i] for i in chosen], rows=tuple(self.rows[i] for i in chosen))


def _open_tables(place: Path) -> dict[str, Any]:
    """Every table of a saved data set, by split.

    Raises:
        DataError: the package ``datasets`` is not installed, or the files are damaged.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"'{place}' is a Hugging Face data set, and the package `datasets` is not installed. "
            "In a clone of patchword: pip install '.[hub]'"
        ) from None
    import pyarrow  # type: ignore[import-untyped]

    parquet = _parquet_files(place)
    try:
        if parquet:
            found: dict[str, Any] = {
                split if len(parquet) > 1 or is_split_name(split) else NO_SPLIT: (
                    datasets.Dataset.from_parquet([str(path) for path in paths])
                )
                for split, paths in parquet.items()
            }
        else:
            saved = datasets.load_from_disk(str(place))
            found = dict(saved) if isinstance(saved, datasets.DatasetDict) else {NO_SPLIT: saved}
        if "restval" in found:  # counts as train
            parts = [found[name] for name in ("train", "restval") if name in found]
            found = {name: table for name, table in found.items() if name != "restval"}
            found["train"] = datasets.concatenate_datasets(parts)
        return found
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        pyarrow.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"'{place}' can not be opened as a Hugging Face data set: {reason}") from None


def _tables(place: Path, columns: Mapping[str, str] | None) -> dict[str, tuple[Any, dict[str, str], list[int] | None]]:
    """Table, columns and rows (None: all) of every split; a split column inside the table wins over its name."""
    found: dict[str, tuple[Any, dict[str, str], list[int] | None]] = {}
    tables = _open_tables(place)
    for name, table in tables.items():
        chosen = pick_columns(table.column_names, columns, f"'{place}' {name}")
        if "split" not in chosen or len(tables) > 1:
            found[name] = (table, chosen, None)
            continue
        rows_of: dict[str, list[int]] = {}
        for row, split in enumerate(table[chosen["split"]]):
            rows_of.setdefault("train" if split == "restval" else str(split), []).append(row)
        found |= {split: (table, chosen, rows) for split, rows in rows_of.items()}
    return found


def splits(place: Path, *, columns: Mapping[str, str] | None = None) -> list[str]:
    """Names of the splits: values of the split column, else the names of the tables.

    Raises:
        DataError: the package ``datasets`` is not installed.
    """
    return in_split_order(set(_tables(place, columns)))


def read(place: Path, split: str, *, dataset: str, columns: Mapping[str, str] | None = None) -> Split:
    """Read one split; rows of the same image are joined, wherever they are.

    Raises:
        DataError: the split or a column is missing, or a row has no caption.
    """
    tables = _tables(place, columns)
    if split not in tables:
        raise missing_split(place, split, in_split_order(set(tables)))
    table, chosen, rows = tables[split]
    image_column, stored = _picture_column(table, chosen)
    cells = table.remove_columns([image_column] if stored else [])[:]  # lists; the pictures are left where they are
    numbers = list(range(len(table))) if rows is None else rows
    ids = _ids(place, cells, chosen, image_column if stored else None, numbers, is_named="id" in (columns or {}))
    numbers = _in_image_order(cells, ids, numbers)
    texts: list[str] = []
    owner: list[str] = []
    row_of: dict[str, int] = {}
    for number in numbers:
        cell = _captions_of(cells, chosen, number)
        row_of.setdefault(ids[number], number)
        for item in cell if isinstance(cell, (list, tuple)) else [cell]:
            text = item["raw"] if isinstance(item, dict) and "raw" in item else item
            texts.append(require_caption(text, f"'{place}' row {number}: the caption"))
            owner.append(ids[number])
    without = set(row_of) - set(owner)
    if without:
        raise DataError(f"'{place}' row {row_of[min(without)]} has no caption. Expected at least one.")
    image_ids, positions = group_by_image(owner, texts)
    source: TablePictures | None = None
    files, note = None, ""
    if stored:
        chosen_rows = tuple(row_of[image] for image in image_ids)
        names = [Path(f"{place}#row {row}") for row in chosen_rows]
        source = TablePictures(names, None, _undecoded(table, image_column), chosen_rows, image_column)
    elif image_column:
        files, note = _files(place, [str(cells[image_column][row_of[image]]) for image in image_ids])
    return Split(
        dataset=dataset,
        name=split,
        image_ids=image_ids,
        captions=texts,
        owner=positions,
        images=source,
        files=files,
        layout=f"hf in '{place}'",
        notes=tuple(n for n in (f"columns: {show_columns(chosen)}", note) if n),
    )


def _captions_of(cells: Mapping[str, Sequence[Any]], chosen: Mapping[str, str], number: int) -> Any:
    """The caption or captions of a row."""
    if chosen["caption"]:
        return cells[chosen["caption"]][number]
    return numbered_captions({name: column[number] for name, column in cells.items()})


def _picture_column(table: Any, chosen: Mapping[str, str]) -> tuple[str, bool]:
    """The picture column (empty: none) and whether it holds the pictures themselves."""
    if "image" not in chosen:
        return "", False
    kind = table.features[chosen["image"]]
    return chosen["image"], type(kind).__name__ == "Image" or (isinstance(kind, dict) and "bytes" in kind)


def _undecoded(table: Any, column: str) -> Any:
    """The table with pictures given as bytes; damaged ones then fail one by one, with our message."""
    import datasets

    kind = table.features[column]
    return table.cast_column(column, datasets.Image(decode=False)) if type(kind).__name__ == "Image" else table


def _ids(
    place: Path,
    cells: Mapping[str, Sequence[object]],
    chosen: Mapping[str, str],
    stored: str | None,
    numbers: Sequence[int],
    *,
    is_named: bool,
) -> dict[int, str]:
    """Image id of each row: the id column, else a file name, else the number of the row.

    Ids of which one file has several are those of captions, unless the user named their column: then the file name.

    Raises:
        DataError: the cell is empty.
    """
    names = [name for name in KNOWN_COLUMNS["image"] if name in cells]
    file_column = chosen.get("image", "") if stored is None else (names[0] if names else "")
    column = chosen.get("id", file_column)
    if file_column and column != file_column and not is_named:
        keys, files = ([_word(cells[name][number]) for number in numbers] for name in (column, file_column))
        column = file_column if numbers_rows(keys, files) else column
    if not column:
        return {number: str(number) for number in numbers}
    for number in numbers:
        if not _word(cells[column][number]):
            raise DataError(f"'{place}' row {number}: {column!r} is empty. Expected a file name or an id in every row.")
    return {number: str(cells[column][number]) for number in numbers}


def _word(cell: object) -> str:
    """A cell as text; empty where it is."""
    return "" if cell is None else str(cell).strip()


def _in_image_order(cells: Mapping[str, Sequence[Any]], ids: Mapping[int, str], numbers: Sequence[int]) -> list[int]:
    """Rows ordered by first appearance of their image, then by sentence number where there is one."""
    first: dict[str, int] = {}
    for number in numbers:
        first.setdefault(ids[number], number)
    sentence = next((cells[name] for name in ("sentids", "sentid", "sentences_sentid") if name in cells), None)

    def place_of(number: int) -> tuple[int, int, int]:
        value = 0 if sentence is None else sentence[number]
        digits = str(value[0] if isinstance(value, (list, tuple)) and value else value)
        return first[ids[number]], int(digits) if digits.isdigit() else 0, number

    return sorted(numbers, key=place_of)


def _files(place: Path, names: Sequence[str]) -> tuple[list[Path] | None, str]:
    """Picture files that the table names, beside it."""
    home = place if place.is_dir() else place.parent
    written = [home / name for name in names]
    if all(path.is_file() for path in written):
        return written, ""
    return expected_files(names, picture_folders(home))
