"""The contract of a shortlist's backend: vectors under ids, and the largest inner products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchword.errors import ConfigError
from patchword.store.layout import IndexFolder

Ids = NDArray[np.int64]
NONE = -1  # stands in a result where there is no further item


class GlobalIndex(ABC):
    """Vectors under integer ids.

    Attributes:
        is_on_server: whether the vectors lie with a server. When it does not answer, that is said; files that can not
            be read are only made again.
        learns_from_first: whether the first vectors that are added also train it, so that all should come at once.
    """

    is_on_server: ClassVar[bool] = False
    learns_from_first: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def empty(cls, width: int, expected: int, options: Mapping[str, Any]) -> GlobalIndex:
        """A backend without vectors.

        Args:
            width: d.
            expected: number of vectors that it is made for.
            options: of the backend.

        Raises:
            ConfigError: it is not installed, or an option is wrong.
            DataError: its server does not answer.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> GlobalIndex:
        """A backend as it was saved.

        Raises:
            ConfigError: as for ``empty``.
            DataError: its files are missing or damaged, or its server does not answer.
        """

    @classmethod
    def with_defaults(cls, options: Mapping[str, Any], place: IndexFolder, kind: str) -> dict[str, Any]:
        """Options with what a backend takes from the place of the index where they do not say it.

        Args:
            options: as they were given.
            place: of the index.
            kind: of its items: ``image`` or ``caption``.
        """
        return dict(options)

    @classmethod
    @abstractmethod
    def check(cls, width: int, options: Mapping[str, Any]) -> None:
        """Refuse, before anything is made, options that can not work, and a server that does not answer.

        Args:
            width: d at most.
            options: of the backend.

        Raises:
            ConfigError: it is not installed, or an option is wrong.
            DataError: its server does not answer.
        """

    @classmethod
    def discard(cls, folder: Path, options: Mapping[str, Any]) -> None:
        """Take away what a saved backend has outside its folder, which goes afterwards.

        Raises:
            ConfigError: it is not installed.
            DataError: its server does not answer.
        """
        return None

    @property
    def dead_share(self) -> float:
        """Share of what it holds whose items are deleted. When it is large, the backend is better built again."""
        return 0.0

    @abstractmethod
    def __len__(self) -> int:
        """Number of vectors."""

    @abstractmethod
    def add(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        """Add vectors under new ids, which ascend and are larger than all before."""

    @abstractmethod
    def delete(self, ids: Ids) -> None:
        """Take vectors out; ids that are not there do not matter."""

    @abstractmethod
    def search(
        self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None
    ) -> tuple[Ids, Float[Tensor, "Q k"]]:
        """The k largest inner products of each query: ids ``(Q, k)`` and scores ``(Q, k)``, best first.

        Where fewer are found, the rest of a row is ``NONE`` with -inf. From several threads at once, as long as
        nothing is added or deleted meanwhile.

        Args:
            queries: float32.
            k: at least 1.
            allowed: ascending ids that may be found; None: all.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what ``load`` needs into an existing folder."""


def check_options(kind: str, options: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse options that a backend does not have, or of the wrong type.

    Raises:
        ConfigError: naming the first one.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"the backend {kind} has no option {name!r}. Known: {', '.join(known) or 'none'}.")
        if value is not None and not isinstance(value, known[name]):
            raise ConfigError(f"the option {name!r} of the backend {kind} is {value!r}, of the wrong type.")
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"the option {name!r} of the backend {kind} is {value!r}. Expected a number above 0.")
