"""How a search is to be answered: how many images, which of them, and with what effort."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import TypedDict

from patchword.errors import ConfigError
from patchword.retrieve.query import Mode


class How(TypedDict, total=False):
    """The keywords of a search beside the number of images; `Wanted` says what each means."""

    mode: Mode
    where: str | None
    threshold: float | None
    candidates: int | None


@dataclass(frozen=True)
class Wanted:
    """How a search is to be answered.

    Attributes:
        k: at most so many images.
        mode: ``exact`` scores every image, ``fast`` those of a shortlist, ``auto`` scores every one as long as that is
            expected to take less than 100 ms.
        where: only images for which this holds; see ``patchword.store.filters``.
        threshold: only images with at least this score.
        candidates: of the shortlist; by default what ``index info --recall`` recommends.

    Raises:
        ConfigError: k or the candidates are no whole number, or below 1; the threshold is no number; or the mode is
            unknown.
    """

    k: int = 10
    mode: Mode = "auto"
    where: str | None = None
    threshold: float | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        for name, count in (("k", self.k), ("candidates", self.candidates)):
            if count is not None and (not isinstance(count, Integral) or count < 1):
                raise ConfigError(f"`{name}` is {count!r}. Expected a whole number, 1 or more.")
        if self.threshold is not None and math.isnan(self.threshold):
            raise ConfigError("`threshold` is nan. Expected a number, such as 0.5.")
        if self.mode not in ("auto", "exact", "fast"):
            raise ConfigError(f"the mode {self.mode!r} is unknown. Known: auto, exact, fast.")
