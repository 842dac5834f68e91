"""Taking typed fields out of annotation files in JSON, with an error that names the entry when one is not there."""

from __future__ import annotations

from collections.abc import Mapping

from patchword.data.text_files import require_whole
from patchword.errors import DataError


def as_object(value: object, where: str) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is {_kind(value)}. Expected a JSON object.")
    return value


def as_list(value: object, where: str) -> list[object]:
    """A JSON list.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, list):
        raise DataError(f"{where} is {_kind(value)}. Expected a JSON list.")
    return value


def field(record: Mapping[str, object], key: str, where: str) -> object:
    """A field that must be there.

    Raises:
        DataError: it is not; the message lists the fields that are.
    """
    if key not in record:
        raise DataError(f"{where} has no field {key!r}. Fields found: {', '.join(record) or 'none'}.")
    return record[key]


def text_field(record: Mapping[str, object], key: str, where: str) -> str:
    """A field that holds a text or a whole number, as text.

    Raises:
        DataError: it is missing, empty, cut in the middle of a character, or something else.
    """
    value = field(record, key, where)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return require_whole(str(value).strip(), f"{where}: {key!r}")
    raise DataError(f"{where}: {key!r} is {value!r}. Expected a text or a whole number.")


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), repr(value)[:40])
