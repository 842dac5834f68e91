"""Types of options that verbs share: what the help shows for a value that may be left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import Positional, arg

F = TypeVar("F", bound=Callable[..., Any])

Strings = Positional[tuple[str, ...]]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
OptionalCount = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalNumber = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
Directory = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
ProtocolName = Annotated[str, arg(metavar="P", help_behavior_hint="")]
Fusion = Annotated[Literal["mean", "zscore", "rank"], arg(metavar="HOW", help_behavior_hint="")]
Weights = Annotated[tuple[float, ...], arg(metavar="W", help_behavior_hint="")]
OutPath = Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")]


def takes_overrides(function: F) -> F:
    """Mark a verb that accepts dotted options (``--train.lr 1e-4``) beside its own."""
    function.takes_overrides = True  # type: ignore[attr-defined]
    return function
