"""Many queries from a file: one on each line, and a line that can not be read does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from patchword.config import Config
from patchword.errors import DataError, PatchwordError
from patchword.index.tables import JSON_LINES
from patchword.retrieve.query import Part, Query, parse_query


@dataclass(frozen=True)
class QueryLine:
    """A line of a file of queries.

    Attributes:
        number: of the line, from 1.
        written: what it holds: its text, or in JSON Lines the value.
        query: what it asks; None when it can not be read.
        error: why it can not be read.
    """

    number: int
    written: Any
    query: Query | None = None
    error: PatchwordError | None = None

    @property
    def label(self) -> str:
        """What it holds, as text."""
        return self.written if isinstance(self.written, str) else json.dumps(self.written, ensure_ascii=False)


class WrittenPart(Config):
    """A part of a query in JSON; exactly one of `text`, `image` (a picture file) and `image_id`, as over HTTP."""

    text: str | None = None
    image: str | None = None
    image_id: int | None = Field(None, ge=0, lt=1 << 63)
    weight: float = 1.0

    @model_validator(mode="after")
    def _one_thing(self) -> WrittenPart:
        if sum(value is not None for value in (self.text, self.image, self.image_id)) != 1:
            raise ValueError("expected exactly one of `text`, `image` and `image_id`")
        return self

    def part(self) -> Part:
        """As a query has it.

        Raises:
            ConfigError: the weight is zero or no number.
        """
        picture = Path(self.image) if self.image is not None else self.image_id
        return Part(text=self.text, image=picture, weight=self.weight)


class WrittenQuery(Config):
    """A query in JSON."""

    parts: tuple[WrittenPart, ...]


def read_queries(file: Path | str) -> list[QueryLine]:
    """The queries of a file, without its empty lines.

    In a text file a line is one part, as `patchword.retrieve.query.parse_part` reads it. In JSON Lines (``.jsonl``,
    ``.ndjson``) it is such a text, or an object ``{"parts": [{"text": "a dog"}, {"image": "cat.jpg", "weight": -0.5},
    {"image_id": 12}]}``.

    Raises:
        DataError: the file can not be read, or holds no queries.
    """
    path = Path(file)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' can not be read as a file of queries: {error.strerror}.") from None
    parse = _json_line if path.suffix.lower() in JSON_LINES else _text_line
    rows = enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    found = [_line(number, row.strip(), parse) for number, row in rows if row.strip()]
    if not found:
        raise DataError(f"'{path}' holds no queries. Expected one on each line.")
    return found


def _line(number: int, row: bytes, parse: Callable[[str], tuple[Any, Query]]) -> QueryLine:
    """One line, read or refused."""
    text = row.decode("utf-8", "backslashreplace")
    try:
        row.decode("utf-8")
        return QueryLine(number, *parse(text))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{row[error.start]:02x}. Convert the file to UTF-8."
        return QueryLine(number, text, error=DataError(reason))
    except PatchwordError as error:
        return QueryLine(number, text, error=error)


def _text_line(text: str) -> tuple[str, Query]:
    """A query of one written part."""
    return text, parse_query(text)


def _json_line(text: str) -> tuple[Any, Query]:
    """A query of written parts, or of one that is written as text.

    Raises:
        DataError: it is no JSON, or no query.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}.") from None
    if isinstance(value, str):
        return _text_line(value)
    try:
        return value, Query(tuple(one.part() for one in WrittenQuery.model_validate(value).parts))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise DataError(
            f'`{where}`: {first["msg"]}. Expected such as {{"parts": [{{"text": "a dog"}}, {{"image_id": 12}}]}}.'
        ) from None
