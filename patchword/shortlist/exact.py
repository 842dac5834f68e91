"""The backend without an index: all inner products, computed at every search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from patchword.errors import DataError
from patchword.files import save_tensors
from patchword.shortlist.base import NONE, GlobalIndex, Ids, check_options

FILE = "vectors.safetensors"


class ExactIndex(GlobalIndex):
    """Vectors in memory, float32.

    Args:
        ids: ascending.
        vectors: of each.
    """

    def __init__(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        self.ids, self.vectors = ids, vectors

    @classmethod
    def empty(cls, width: int, expected: int = 0, options: Mapping[str, Any] | None = None) -> ExactIndex:
        """A backend without vectors; there is nothing to prepare or to choose."""
        return cls(np.zeros(0, np.int64), torch.zeros(0, width))

    @classmethod
    def check(cls, width: int, options: Mapping[str, Any]) -> None:
        """Refuse options: it has none."""
        check_options("exact", options, {})

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        """Add vectors under new, larger ids."""
        self.ids, self.vectors = np.concatenate([self.ids, ids]), torch.cat([self.vectors, vectors.float()])

    def delete(self, ids: Ids) -> None:
        """Take vectors out."""
        kept = ~np.isin(self.ids, ids)
        if not kept.all():
            self.ids, self.vectors = self.ids[kept], self.vectors[torch.from_numpy(kept)]

    def search(
        self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None
    ) -> tuple[Ids, Float[Tensor, "Q k"]]:
        """The k largest inner products of each query."""
        ids, vectors = self.ids, self.vectors
        if allowed is not None:
            chosen = np.flatnonzero(np.isin(ids, allowed, assume_unique=True))
            if len(chosen) < len(ids):
                ids, vectors = ids[chosen], vectors[torch.from_numpy(chosen)]
        found = np.full((len(queries), k), NONE, dtype=np.int64)
        scores = torch.full((len(queries), k), -torch.inf)
        count = min(k, len(ids))
        if count:
            best = (queries @ vectors.T).topk(count, dim=1)
            scores[:, :count], found[:, :count] = best.values, ids[best.indices.numpy()]
        return found, scores

    def save(self, folder: Path) -> None:
        """Write ids and vectors."""
        save_tensors({"ids": torch.from_numpy(self.ids), "vectors": self.vectors.contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any] | None = None) -> ExactIndex:
        """Read ids and vectors.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            state = load_file(folder / FILE)
            return cls(state["ids"].numpy(), state["vectors"])
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"'{folder / FILE}' can not be read: {error}.") from None
