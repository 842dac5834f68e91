"""Answers that say no: one line of JSON, without a path of this machine."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from patchword.errors import ConfigError, DataError, PatchwordError

_QUOTED_PATH = re.compile(r"(['\"`])(?:/|[A-Za-z]:[\\/])[^'\"`\n]*?([^/\\'\"`\n]*)\1")
_BARE_PATH = re.compile(r"(?<![\w.:/'\"`])(?:/[^\s/'\"`,;:)]+)+/([^\s/'\"`,;:)]+)")
_LONGEST = 500  # characters of a message
_log = logging.getLogger("patchword.web")


class Refusal(Exception):  # noqa: N818  an answer
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: one line for the client.
        headers: further headers of the answer.
        number: of an internal error, under which the log has it.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, *, number: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers, self.number = status, message, dict(headers or {}), number

    def to_json(self) -> dict[str, str]:
        """The body of the answer."""
        return {"error": self.message} | ({} if self.number is None else {"id": self.number})


def busy(message: str) -> Refusal:
    """Too much is asked at the moment: come again in a second."""
    return Refusal(503, message, {"Retry-After": "1"})


def refusal_of(error: PatchwordError) -> Refusal | None:
    """The answer to an error that the client can cause; None for one that only the index or the model can."""
    if isinstance(error, DataError | ConfigError):
        return Refusal(400, without_paths(str(error)))
    return None


def answer_to(error: Exception) -> Refusal:
    """The answer to any error; what nobody expected goes to the log, and the client gets a number to ask for."""
    if isinstance(error, Refusal):
        return error
    known = refusal_of(error) if isinstance(error, PatchwordError) else None
    if known is not None:
        return known
    number = secrets.token_hex(4)
    _log.error("internal error %s", number, exc_info=error)
    return Refusal(500, "internal error", number=number)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The answer to a request that does not fit its model. What the client sent is not repeated.

    Args:
        errors: of pydantic; the first one is told.
    """
    first: Mapping[str, Any] = errors[0] if errors else {"loc": (), "msg": "it does not fit"}
    place, *rest = [str(step) for step in first["loc"]] or ["request"]
    if place == "path":
        return Refusal(404, "there is no such id. Expected a whole number from 0.")
    if first.get("type") == "json_invalid":
        return Refusal(400, f"the body is no JSON: {without_paths(str(first.get('ctx', {}).get('error', '')))}.")
    name = ".".join(rest) or place
    return Refusal(422, f"`{without_paths(name)}`: {without_paths(str(first['msg']))}.")


def without_paths(message: str) -> str:
    """One line in which no absolute path is left, only the names of files.

    Example:
        >>> without_paths("'/home/me/my pictures/a.jpg' is damaged, see /var/log/x.txt")
        "'a.jpg' is damaged, see x.txt"
        >>> without_paths("width / height > 1")
        'width / height > 1'
    """
    line = " ".join(message.split())
    line = _QUOTED_PATH.sub(lambda found: f"{found[1]}{found[2]}{found[1]}", line)
    line = _BARE_PATH.sub(lambda found: found[1], line)
    line = line.encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."
