"""The protocol of a shortlist's backend: vectors under ids, and the largest inner products."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchword.errors import ConfigError

Ids = NDArray[np.int64]
KINDS = ("exact", "faiss", "milvus")
NONE = -1  # stands in a result where there is no further item


@runtime_checkable
class GlobalIndex(Protocol):
    """Vectors under integer ids.

    Attributes:
        kind: name of the backend.
    """

    kind: str

    def __len__(self) -> int:
        """Number of vectors."""
        ...

    def add(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        """Add vectors under new ids, which ascend and are larger than all before."""
        ...

    def delete(self, ids: Ids) -> None:
        """Take vectors out; ids that are not there do not matter."""
        ...

    def search(self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None) -> tuple[Ids, Any]:
        """The k largest inner products of each query: ids ``(Q, k)`` and scores ``(Q, k)``, best first.

        Where fewer are found, the rest of a row is ``NONE`` with -inf. From several threads at once, as long as
        nothing is added or deleted meanwhile.

        Args:
            queries: float32.
            k: at least 1.
            allowed: ascending ids that may be found; None: all.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what ``open_backend`` needs into an existing folder."""
        ...


def make_backend(kind: str, width: int, expected: int, options: Mapping[str, Any]) -> GlobalIndex:
    """An empty backend.

    Args:
        kind: ``exact``, ``faiss`` or ``milvus``.
        width: d.
        expected: number of vectors that it is made for.
        options: of the backend.

    Raises:
        ConfigError: there is no such backend, it is not installed, or an option is wrong.
    """
    if kind == "exact":
        from patchword.index.shortlist.exact import ExactIndex

        return ExactIndex.empty(width)
    if kind == "faiss":
        from patchword.index.shortlist.faiss import FaissIndex

        return FaissIndex.empty(width, expected, options)
    if kind == "milvus":
        from patchword.index.shortlist.milvus import MilvusIndex

        return MilvusIndex.empty(width, options)
    raise unknown(kind)


def open_backend(kind: str, folder: Path, options: Mapping[str, Any]) -> GlobalIndex:
    """A backend as it was saved.

    Raises:
        ConfigError: as for ``make_backend``.
        DataError: its files are missing or damaged, or its server does not answer.
    """
    if kind == "exact":
        from patchword.index.shortlist.exact import ExactIndex

        return ExactIndex.load(folder)
    if kind == "faiss":
        from patchword.index.shortlist.faiss import FaissIndex

        return FaissIndex.load(folder, options)
    if kind == "milvus":
        from patchword.index.shortlist.milvus import MilvusIndex

        return MilvusIndex.load(folder, options)
    raise unknown(kind)


def unknown(kind: str) -> ConfigError:
    """There is no such backend."""
    return ConfigError(f"the backend {kind!r} is unknown. Known: {', '.join(KINDS)}.")


def check_options(kind: str, options: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse options that a backend does not have, or of the wrong type.

    Raises:
        ConfigError: naming the first one.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"the backend {kind} has no option {name!r}. Known: {', '.join(known)}.")
        if value is not None and not isinstance(value, known[name]):
            raise ConfigError(f"the option {name!r} of the backend {kind} is {value!r}, of the wrong type.")
