"""How an index is filled: what concerns the work and the machine, not what the index holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from patchword.errors import ConfigError

if TYPE_CHECKING:
    from patchword.store.model_hash import ModelGiven

THREADS = 2  # that decode: more gain nothing where encoding takes most of the time


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; nothing here changes what an index holds.

    Attributes:
        model: a loaded model or a folder, when it is not at the path in the manifest.
        device: where it computes.
        batch: images encoded at a time.
        threads: that read and decode.
        console: where progress goes.
    """

    model: ModelGiven = None
    device: str = "cpu"
    batch: int = 32
    threads: int = THREADS
    console: Console | None = None

    def __post_init__(self) -> None:
        for what, number in (("batch", self.batch), ("threads", self.threads)):
            if number < 1:
                raise ConfigError(f"`{what}` is {number}. Expected 1 or more.")
