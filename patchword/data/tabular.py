"""Rows of a JSON-lines, JSON, CSV or TSV file: which column is the image, which the caption."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from patchword.data.text_files import read_json, read_text, require_whole
from patchword.errors import ConfigError, DataError

KNOWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "file_name", "filename", "filepath", "image_path", "image_name", "path", "img", "file"),
    "caption": ("captions", "caption", "text", "title", "sentence", "sentences", "alt_text", "comment", "raw"),
    "id": ("image_id", "img_id", "cocoid", "imgid", "id"),  # ``id`` last: beside one of these it numbers captions
    "split": ("split", "partition"),
    "source": ("source",),
}
DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Row:
    """One row: an image and its captions.

    Attributes:
        where: file and line, for messages.
        folder: folder of the file; image paths start here.
        id: image id; the image path when no id is given.
        image: image path as written; empty when only an id is given.
        captions: one or more, unchecked.
        split: name of the split, or empty.
        source: where the row comes from, or empty.
        columns: the columns used, for a note.
    """

    where: str
    folder: Path
    id: str
    image: str
    captions: tuple[object, ...]
    split: str
    source: str
    columns: str


def pick_columns(header: Sequence[str], columns: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """Our column names to those of the file.

    Example:
        >>> pick_columns(["filepath", "title", "width"], None, "file")
        {'image': 'filepath', 'caption': 'title'}

    Raises:
        ConfigError: ``columns`` names something we or the file do not have.
        DataError: no column holds the image or the caption.
    """
    chosen: dict[str, str] = {}
    for ours, theirs in (columns or {}).items():
        if ours not in KNOWN_COLUMNS:
            raise ConfigError(f"`columns` names {ours!r}. Expected some of: {', '.join(KNOWN_COLUMNS)}.")
        if theirs not in header:
            raise ConfigError(f"{where} has no column {theirs!r}. Columns found: {', '.join(header)}.")
        chosen[ours] = theirs
    by_lower = {name.strip().lower(): name for name in reversed(header)}
    for ours, known in KNOWN_COLUMNS.items():
        for name in known:
            if ours not in chosen and name in by_lower and by_lower[name] not in chosen.values():
                chosen[ours] = by_lower[name]
    is_free = "caption" not in (columns or {}) and chosen.get("caption", "caption").strip().lower() == "caption"
    if is_free and any(_NUMBERED_CAPTION.fullmatch(name.strip().lower()) for name in header):
        chosen["caption"] = ""  # all of them, see `numbered_captions`
    if "caption" not in chosen or not ("image" in chosen or "id" in chosen):
        lacking = "caption" if "caption" not in chosen else "image"
        unnamed = [ours for ours in ("image", "caption") if ours == lacking or (ours not in chosen)]
        form = ", ".join(f"{ours}: NAME" for ours in unnamed)
        raise DataError(
            f"{where} has no {lacking} column. Columns found: {', '.join(header) or 'none'}. "
            f"Expected one of: {', '.join(KNOWN_COLUMNS[lacking])}; or say which it is: --data.columns '{{{form}}}'."
        )
    return chosen


_NUMBERED_CAPTION = re.compile(r"captions?_?\d+")


def show_columns(chosen: Mapping[str, str]) -> str:
    """Which columns are used, for a note."""
    return ", ".join(f"{ours} = {theirs or 'caption 1, 2, ...'}" for ours, theirs in chosen.items())


def name_columns(rows: Sequence[Row]) -> str:
    """Which columns were used, for a note."""
    return rows[0].columns if rows else "none"


def read_rows(path: Path, columns: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a file, in order.

    Raises:
        DataError: the file is damaged, or a row lacks its image or caption.
        ConfigError: ``columns`` does not fit.
    """
    if path.suffix == ".jsonl":
        records = list(_json_lines(path))
    elif path.suffix == ".json":
        records = list(_json_list(path))
    else:
        records = list(_delimited(path, columns))
    if not records:
        raise DataError(f"'{path}' has no rows. Expected one image with its caption in each.")
    chosen: dict[str, str] = {}
    header: tuple[str, ...] = ()
    rows = []
    for where, record in records:
        if tuple(record) != header:
            header = tuple(record)
            chosen = pick_columns(header, columns, where)
        rows.append(_row(path.parent, where, record, chosen))
    return rows


def _row(folder: Path, where: str, record: Mapping[str, object], chosen: Mapping[str, str]) -> Row:
    """One row from a record."""
    cells = {ours: record[theirs] for ours, theirs in chosen.items() if theirs in record}
    image, identity = (_word(cells[key], where, key) if key in cells else "" for key in ("image", "id"))
    if not image and not identity:
        raise DataError(f"{where}: the image is empty. Expected a file name or an id.")
    captions: object = cells["caption"] if chosen["caption"] else numbered_captions(record)
    listed = captions if isinstance(captions, (list, tuple)) else _written_list(captions)
    texts = tuple(_text_of(item) for item in listed)
    if not texts:
        raise DataError(f"{where}: image {identity or image!r} has no captions. Expected at least one.")
    return Row(
        where=where,
        folder=folder,
        id=identity or image,
        image=image,
        captions=texts,
        split=_word(cells["split"], where, "split") if "split" in cells else "",
        source=_word(cells["source"], where, "source") if "source" in cells else "",
        columns=show_columns(chosen),
    )


def _written_list(cell: object) -> list[object]:
    """The items of a list that was written into a cell, as JSON or as Python shows it; else the cell itself.

    Example:
        >>> _written_list('["A dog.", "Two dogs."]'), _written_list("A [sic] dog.")
        (['A dog.', 'Two dogs.'], ['A [sic] dog.'])
    """
    text = cell.strip() if isinstance(cell, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return [cell]
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(item, str) for item in found):
            return list(found)
    return [cell]


def _text_of(item: object) -> object:
    """The text of a caption that is an object with the field ``raw`` (Karpathy's form), else the item itself."""
    return item["raw"] if isinstance(item, dict) and "raw" in item else item


def numbers_rows(ids: Sequence[str], files: Sequence[str]) -> bool:
    """Whether ids tell rows apart and not images: a picture file has several of them.

    Example:
        >>> numbers_rows(["1", "2"], ["a.jpg", "a.jpg"]), numbers_rows(["1", "1"], ["a.jpg", "a.jpg"])
        (True, False)
    """
    named = {(file, key) for file, key in zip(files, ids, strict=True) if file}
    return len(named) > len({file for file, _ in named})


def numbered_captions(record: Mapping[str, object]) -> list[object]:
    """The filled ones of the columns caption, caption_1, caption_2 ..."""
    number_of = {name: re.sub(r"\D", "", name) for name in record if _is_one_of_captions(name.strip().lower())}
    names = sorted(number_of, key=lambda name: int(number_of[name] or -1))
    return [record[name] for name in names if record[name] not in ("", None)]


def _is_one_of_captions(name: str) -> bool:
    return name == "caption" or _NUMBERED_CAPTION.fullmatch(name) is not None


def _word(value: object, where: str, column: str) -> str:
    """An id, file name or split as text."""
    if value is None:
        return ""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return require_whole(str(value).strip(), f"{where}: the {column}")
    raise DataError(f"{where}: the {column} is {value!r}. Expected a text or a whole number.")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Objects of a JSON-lines file; lines end at LF only, empty lines are passed over."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"'{path}' line {number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise DataError(f"{where} is not valid JSON ({reason}): {line[:40]!r}. Fix the line.") from None
        if not isinstance(record, dict):
            raise DataError(f'{where} is no JSON object: {line[:40]!r}. Expected {{"image": ..., "captions": [...]}}.')
        yield where, record


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Objects of a JSON file that is one list."""
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"'{path}' is no JSON list. Expected a list of objects with image and caption.")
    for number, record in enumerate(content):
        if not isinstance(record, dict):
            raise DataError(f"'{path}' entry {number} is no JSON object. Expected one with image and caption.")
        yield f"'{path}' entry {number}", record


def sniff_delimiter(header: str, columns: Mapping[str, str] | None = None) -> str:
    """The delimiter under which the header line names most columns that we know.

    Example:
        >>> sniff_delimiter("file_name;caption;note, if any")
        ';'
    """
    known = {name for names in KNOWN_COLUMNS.values() for name in names} | set((columns or {}).values())

    def hits(delimiter: str) -> int:
        return sum(cell.strip(' "\r').lower() in known or cell in known for cell in header.split(delimiter))

    return max(DELIMITERS, key=hits)


def _delimited(path: Path, columns: Mapping[str, str] | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Records of a CSV or TSV file whose first line names the columns."""
    text = read_text(path)
    delimiter = sniff_delimiter(text.partition("\n")[0], columns)
    lines = (line + "\n" for line in text.split("\n"))  # U+2028 and the like stay inside their cell
    reader = (
        ((number, _tab_separated(line.rstrip("\r\n"))) for number, line in enumerate(lines, start=1))
        if delimiter == "\t"
        else _csv_records(path, lines, delimiter)
    )
    header: list[str] | None = None
    for number, cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"'{path}' line {number}"
        if header is None:
            header = [cell.strip() for cell in cells]
            _require_once(header, columns, where)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{where} has {len(cells)} cells, the header has {len(header)} ({', '.join(header)}). "
                f"A {delimiter!r} inside a caption needs quotes around it."
            )
        yield where, dict(zip(header, cells, strict=True))


def _require_once(header: Sequence[str], columns: Mapping[str, str] | None, where: str) -> None:
    """Refuse a header that has a column of ours twice: one of the two would be lost."""
    if len(set(header)) == len(header):
        return
    chosen = pick_columns(header, columns, where)
    for name in header:
        is_used = name in chosen.values() or (not chosen["caption"] and _is_one_of_captions(name.lower()))
        if name and is_used and header.count(name) > 1:
            raise DataError(
                f"{where} names {header.count(name)} columns {name!r}. Expected every name once; "
                "several captions of an image are caption_1, caption_2, ..."
            )


def _csv_records(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each record of a quoted CSV file."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"'{path}' line {reader.line_num}: {error}. Check its quotes.") from None


def _tab_separated(line: str) -> list[str]:
    """Cells of a line: a tab ends a cell, unless all that hold one are in quotes, as a spreadsheet writes them.

    Example:
        >>> _tab_separated('a.jpg\\t"one\\ttwo"'), _tab_separated('5" tall\\tyes')
        (['a.jpg', 'one\\ttwo'], ['5" tall', 'yes'])
    """
    cells = line.split("\t")
    opened = [k for k, cell in enumerate(cells) if cell.startswith('"') and not _is_quoted(cell)]
    if opened:
        with suppress(csv.Error):
            return next(csv.reader([line], delimiter="\t", strict=True))
    return _unquote(cells)


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _unquote(cells: list[str]) -> list[str]:
    """Cells of a tab-separated line; quotes around a whole cell are taken off, others stay."""
    return [
        cell[1:-1].replace('""', '"')
        if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
        else cell
        for cell in cells
    ]
