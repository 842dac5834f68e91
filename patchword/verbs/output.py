"""How verbs print: results to standard output, remarks to standard error."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Print a result as JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=_lacks_letters(), default=str))


def _lacks_letters() -> bool:
    """Whether standard output is of another encoding than UTF-8. What it lacks is escaped there in a way that is not
    JSON's, so JSON has to escape it first.
    """
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is not None and codecs.lookup(encoding).name != "utf-8"


def note(text: str) -> None:
    """Print something beside the result."""
    sys.stderr.write(text + "\n")


def wrote(*files: Path | None) -> int:
    """Name the files that were written beside the result; returns the exit code."""
    for file in files:
        if file is not None:
            note(f"wrote '{file}'")
    return 0


def json_line(value: Any) -> str:
    """One JSON object on one line."""
    return json.dumps(value, ensure_ascii=_lacks_letters())


def show(numbers: dict[str, Any], table: str, *, json: bool) -> int:
    """Print a result in the form asked for; returns the exit code."""
    if json:
        say_json(numbers)
    else:
        say(table)
    return 0
