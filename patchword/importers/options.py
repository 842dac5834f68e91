"""The authors' options as our settings. The tables that read them also name the option that a refusal is about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from patchword.errors import CheckpointError

REQUIRED = object()  # a default that no value can stand for


@dataclass(frozen=True)
class Option:
    """An option of the authors' code.

    Attributes:
        name: what it is called.
        default: the value where a file has none; ``REQUIRED`` refuses such a file.
        earlier: what the option is called in the code that this one extends.
        may_be_empty: None and 0 stand for the default too.
    """

    name: str
    default: Any
    earlier: str = ""
    may_be_empty: bool = False

    def name_in(self, options: Mapping[str, Any]) -> str:
        """Which of its names the options have; the first when they have none."""
        there = [name for name in (self.name, self.earlier) if options.get(name) is not None]
        return there[0] if there else self.name


RANKING = {"margin": Option("margin", 0.2), "warmup_epochs": Option("vse_mean_warmup_epochs", 1)}


def settings(options: Mapping[str, Any], table: Mapping[str, Option]) -> dict[str, Any]:
    """The values of our settings, as they are in the file: our models check them.

    Args:
        options: the authors' options.
        table: the option that each of our settings comes from.

    Raises:
        CheckpointError: a required option is not there.

    Example:
        >>> settings({"margin": 0.05}, RANKING)
        {'margin': 0.05, 'warmup_epochs': 1}
    """
    values = {}
    for ours, option in table.items():
        value = options.get(option.name_in(options), option.default)
        if option.default is REQUIRED and (value is None or value is REQUIRED):
            raise CheckpointError(
                f"option `{option.name}` is not in the checkpoint, and the weights can not tell it. "
                "Expected the options that the authors' code stores beside the weights."
            )
        values[ours] = option.default if option.may_be_empty and not value else value
    return values


def number(options: Mapping[str, Any], option: Option) -> float:
    """An option to calculate with.

    Raises:
        CheckpointError: it is no finite number.
    """
    value = settings(options, {"": option})[""]
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise CheckpointError(f"{_in_file(option, options)}: it should be a finite number.")
    return found


def refusal(error: ValidationError, table: Mapping[str, Option], options: Mapping[str, Any], method: str) -> str:
    """What one of our models refused, with the authors' name of it where it is an option of theirs.

    Args:
        error: the refusal.
        table: the option that each of our settings comes from.
        options: the authors' options.
        method: the method of the model, for a setting that comes from the shapes.
    """
    problem = error.errors()[0]
    why = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    place = [str(part) for part in problem["loc"]]
    named = place or re.findall(r"\w+", why)  # a check of several settings names them in its text
    option = next((table[part] for part in named if part in table), None)
    if option is not None:
        return f"{_in_file(option, options)}: {why}."
    setting = f" (`{'.'.join(place)}` is {_short(problem['input'])})" if place else ""
    return f"its options and shapes fit no {method} model{setting}: {why}."


def _in_file(option: Option, options: Mapping[str, Any]) -> str:
    name = option.name_in(options)
    return f"option `{name}` is {_short(options.get(name, option.default))} in the checkpoint"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
