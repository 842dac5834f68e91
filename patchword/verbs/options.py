"""Types of options that verbs share: what the help shows for a value that may be left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import Positional, arg

from patchword.errors import ConfigError

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
Device = Annotated[str, arg(metavar="DEVICE", help_behavior_hint="")]
OutPath = Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")]


def device_of(name: str) -> str:
    """Where torch computes, for ``--device``: ``auto`` is CUDA when torch finds it, else the CPU.

    Raises:
        ConfigError: the name is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:N``, or there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    asked = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if asked is None:
        raise ConfigError(f"unknown device '{name}'. Expected auto, cpu, or a CUDA device such as cuda:0.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(asked[1] or 0) >= found:
        raise ConfigError(
            f"there is no device '{name}': torch finds {found} CUDA devices. Use --device auto, or --device cpu."
        )
    return name


def device_asked(name: str) -> str:
    """The same for verbs that may end without a model: ``auto`` is left to ``load``, so that torch is not imported.

    Raises:
        ConfigError: see ``device_of``.
    """
    return name if name in ("auto", "cpu") else device_of(name)


def takes_overrides(function: F) -> F:
    """Mark a verb that accepts dotted options (``--train.lr 1e-4``) beside its own."""
    function.takes_overrides = True  # type: ignore[attr-defined]
    return function
