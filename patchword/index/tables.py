"""Tables that a user hands in, CSV or JSON Lines, with a column that says which picture a row is about."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patchword.data.text_files import read_text
from patchword.errors import DataError

KEYS = ("path", "file", "file_name", "filename", "image")
JSON_LINES = (".jsonl", ".ndjson")
Record = tuple[int, dict[str, Any]]  # number of the line, and its fields


def read_by_path(file: Path) -> tuple[str, dict[str, Record]]:
    """The rows of a table by the path that their column ``path`` (or ``file``, ``file_name``, ``image``) names.

    In CSV every field is text, or None where it is empty; JSON Lines says the types itself.

    Returns:
        The name of that column, and path to line and fields.

    Raises:
        DataError: it can not be read, has no such column, or names a path twice; with the line.
    """
    records = list(_json_lines(file) if file.suffix.lower() in JSON_LINES else _csv_rows(file))
    if not records:
        raise DataError(f"'{file}' has no rows. Expected columns with a path in each row.")
    key = next((name for name in KEYS if name in records[0][1]), None)
    if key is None:
        raise DataError(
            f"'{file}' has the columns {', '.join(map(repr, records[0][1]))}. Expected one named 'path' that says "
            "which picture a row belongs to."
        )
    rows: dict[str, Record] = {}
    for line, fields in records:
        where = fields.get(key)
        if not isinstance(where, str) or not where:
            raise DataError(f"'{file}' line {line}: `{key}` is {where!r}. Expected the path of a picture.")
        if where in rows:
            raise DataError(f"'{file}' line {line}: {where!r} occurs twice. Expected one row for each picture.")
        rows[where] = (line, fields)
    return key, rows


def _csv_rows(path: Path) -> Iterator[Record]:
    text = read_text(path)
    first = text.split("\n", 1)[0]
    mark = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError(f"'{path}' names a column twice: {', '.join(header)}.")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"'{path}' line {reader.line_num} has {len(row)} fields. Expected {len(header)}.")
            fields = [field if field != "" else None for field in row]
            yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"'{path}' line {reader.line_num} is not valid CSV: {error}.") from None


def _json_lines(path: Path) -> Iterator[Record]:
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"'{path}' line {line} is not valid JSON: {error}.") from None
        if not isinstance(record, dict):
            raise DataError(f'\'{path}\' line {line} is no object. Expected {{"path": ..., "column": ...}}.')
        yield line, record
