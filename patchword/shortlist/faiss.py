"""faiss: all vectors at a byte per number, for more of them screened at a quarter of that.

A look at every vector misses none. Two bits per number (product quantisation, 16 of them at a time in the processor's
registers) make it cheap: a million vectors of 128 take 3 ms of one core, and what they find is ranked again at a byte
per number. Beyond some millions inverted lists (IVF) limit the look. A graph (HNSW) or anything else that faiss knows
can be asked for by ``factory``. What is found is scored again exactly in any case. Measured: docs/performance.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchword.errors import ConfigError, DataError
from patchword.shortlist.base import NONE, GlobalIndex, Ids, check_options

FILE, ABOUT = "vectors.faiss", "faiss.json"
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "factory": str,
    "nprobe": int,
    "ef_search": int,
    "ef_construction": int,
    "train": int,
}
SCREEN_FROM, LISTS_FROM = 100_000, 5_000_000  # vectors
_LEAST_TRAINED = 2_000  # vectors below which nothing is worth training
_MIN_SHARE = 0.02  # share of allowed items below which a graph or lists look at all of them
_AGAIN = 4.0  # times as many screened vectors as wanted are ranked again


class FaissIndex(GlobalIndex):
    """A faiss index over rows 0..n-1 with the id of each row beside it.

    Args:
        index: of faiss.
        ids: ``(n,)`` ascending; rows of deleted vectors are kept where faiss can not delete.
        options: ``factory`` (faiss's own description, instead of ours), ``nprobe`` (lists that a search reads),
            ``ef_search``, ``ef_construction`` (width of the search in a graph), ``train`` (vectors it is trained on).
        width: d.
        expected: number of vectors that it is made for.
    """

    learns_from_first: ClassVar[bool] = True

    def __init__(self, index: Any, ids: Ids, options: Mapping[str, Any], width: int, expected: int) -> None:
        check_options("faiss", options, OPTIONS)
        self.index, self.ids, self.options = index, ids, dict(options)
        self.width, self.expected = width, expected
        self._dead = np.zeros(0, np.int64)  # rows of a graph whose items are deleted

    @classmethod
    def empty(cls, width: int, expected: int, options: Mapping[str, Any]) -> FaissIndex:
        """A backend without vectors; faiss's index is made when the first ones come, because it is trained on them.

        Raises:
            ConfigError: faiss is not installed, or an option is wrong.
        """
        faiss_module()
        return cls(None, np.zeros(0, np.int64), options, width, expected)

    @classmethod
    def check(cls, width: int, options: Mapping[str, Any]) -> None:
        """Refuse options that can not work; whether there are enough vectors to train a factory shows only with them.

        Raises:
            ConfigError: faiss is not installed, does not know the factory, or an option is wrong.
        """
        faiss = faiss_module()
        check_options("faiss", options, OPTIONS)
        factory = options.get("factory")
        try:
            if factory is not None:
                faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise refusal(factory, error) from None

    def __len__(self) -> int:
        return len(self.ids) - len(self._dead)

    def add(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        """Add vectors under new, larger ids; the first ones also train the index."""
        if not len(ids):
            return
        rows = np.ascontiguousarray(vectors.float().numpy())
        if self.index is None:
            self.index = self._made(rows)
        self.index.add(rows)
        self.ids = np.concatenate([self.ids, ids])

    def _made(self, rows: NDArray[np.float32]) -> Any:
        faiss = faiss_module()
        expected = max(self.expected, len(rows))
        factory = self.options.get("factory") or default_factory(expected, len(rows), self.width)
        try:
            index = faiss.index_factory(self.width, factory, faiss.METRIC_INNER_PRODUCT)
            lists = ivf_of(index)
            graph = graph_of(index)
            if is_screened(index):
                index.k_factor = _AGAIN
            if graph is not None:
                graph.hnsw.efConstruction = self.options.get("ef_construction") or 200
            most = self.options.get("train") or 40 * (lists.nlist if lists is not None else 1000)
            chosen = rows
            if len(rows) > most:
                chosen = rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]
            if lists is not None:
                lists.cp.min_points_per_centroid = 1  # no message on the console
            index.train(chosen)
        except RuntimeError as error:
            raise refusal(factory, error) from None
        return index

    def delete(self, ids: Ids) -> None:
        """Take vectors out; where faiss can not, their rows stay and are not found."""
        if self.index is None:
            return
        faiss = faiss_module()
        rows = np.flatnonzero(np.isin(self.ids, ids)).astype(np.int64)
        rows = np.setdiff1d(rows, self._dead)
        if not len(rows):
            return
        if isinstance(self.index, faiss.IndexFlatCodes) and not isinstance(self.index, faiss.IndexPQ):
            self.index.remove_ids(faiss.IDSelectorBatch(rows))  # the rows after them move up
            self.ids = np.delete(self.ids, rows)
        else:
            self._dead = np.union1d(self._dead, rows)

    @property
    def dead_share(self) -> float:
        """Share of rows whose items are deleted."""
        return len(self._dead) / max(1, len(self.ids))

    def search(
        self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None
    ) -> tuple[Ids, Float[Tensor, "Q k"]]:
        """About the k largest inner products of each query."""
        found = np.full((len(queries), k), NONE, dtype=np.int64)
        scores = torch.full((len(queries), k), -torch.inf)
        count = min(k, len(self))
        if self.index is None or not count:
            return found, scores
        chosen = None if allowed is None else np.isin(self.ids, allowed, assume_unique=True)
        if len(self._dead) and chosen is not None:
            chosen[self._dead] = False
        values, rows = self._look(np.ascontiguousarray(queries.float().numpy()), count, chosen)
        hit = rows >= 0
        found[:, :count] = np.where(hit, self.ids[np.maximum(rows, 0)], NONE)
        scores[:, :count] = torch.from_numpy(np.where(hit, values, -np.inf).astype(np.float32))
        return found, scores

    def _look(self, queries: Any, k: int, chosen: Any) -> tuple[Any, Any]:
        """Inner products and rows, best first, among the rows that are chosen and not dead."""
        faiss = faiss_module()
        if chosen is None and is_screened(self.index):
            if ivf_of(self.index) is not None:
                ivf_of(self.index).nprobe = self.options.get("nprobe") or default_probes(ivf_of(self.index).nlist)
            more = min(len(self.ids), k + len(self._dead))
            values, rows = self.index.search(queries, min(more, 2 * k + 100))
            return _without(values, rows, self._dead, k)
        if chosen is None and len(self._dead):
            chosen = np.ones(len(self.ids), dtype=bool)
            chosen[self._dead] = False
        share = 1.0 if chosen is None else float(chosen.mean())
        index = faiss.downcast_index(self.index.refine_index) if is_screened(self.index) else self.index
        return index.search(queries, k, params=self._parameters(index, chosen, max(share, 1e-9), k))  # type: ignore[no-any-return]

    def _parameters(self, index: Any, chosen: Any, share: float, k: int) -> Any:
        """How wide to look: wider for many results, and where a filter leaves few items."""
        faiss = faiss_module()
        selector = None
        if chosen is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
        lists, rows = ivf_of(index), len(self.ids)
        if lists is not None:
            wide = self.options.get("nprobe") or default_probes(lists.nlist)
            wide = lists.nlist if share < _MIN_SHARE else min(lists.nlist, math.ceil(wide / share))
            return faiss.SearchParametersIVF(sel=selector, nprobe=wide)
        if graph_of(index) is not None:
            wide = max(self.options.get("ef_search") or 0, 2 * k)
            wide = rows if share < _MIN_SHARE else min(rows, math.ceil(wide / share))
            return faiss.SearchParametersHNSW(sel=selector, efSearch=wide)
        return faiss.SearchParameters(sel=selector) if selector is not None else None

    def save(self, folder: Path) -> None:
        """Write the index, and ids and options beside it."""
        faiss = faiss_module()
        if self.index is not None:
            faiss.write_index(self.index, str(folder / FILE))
        np.save(folder / "ids.npy", self.ids)
        np.save(folder / "dead.npy", self._dead)
        about = {"width": self.width, "expected": self.expected, "has_index": self.index is not None}
        (folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> FaissIndex:
        """Read the index, its ids and its options.

        Raises:
            ConfigError: faiss is not installed.
            DataError: a file is missing or damaged.
        """
        faiss = faiss_module()
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            index = faiss.read_index(str(folder / FILE)) if about["has_index"] else None
            made = cls(index, np.load(folder / "ids.npy"), options, about["width"], about["expected"])
            made._dead = np.load(folder / "dead.npy")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(f"'{folder}' can not be read: {str(error).splitlines()[0]}.") from None
        if index is not None and index.ntotal != len(made.ids):
            raise DataError(f"'{folder / FILE}' holds {index.ntotal:,} vectors. Expected {len(made.ids):,}.")
        return made


def refusal(factory: object, error: RuntimeError) -> ConfigError:
    """faiss's error about a factory, without its place in faiss's source."""
    reason = re.sub(r"^Error in .* at \S+:\d+: (Error: '.*' failed: )?", "", " ".join(str(error).split()))
    return ConfigError(f"faiss refuses the factory {factory!r}: {reason}.")


def default_factory(expected: int, trained: int, width: int) -> str:
    """faiss's description of the index for so many vectors.

    Example:
        >>> default_factory(500, 500, 128), default_factory(20_000, 20_000, 128), default_factory(10**6, 10**6, 128)
        ('Flat', 'SQ8', 'PQ64x4fs,Refine(SQ8)')
    """
    if min(expected, trained) < _LEAST_TRAINED:
        return "Flat"
    if expected <= SCREEN_FROM or width % 2:
        return "SQ8"
    codes = f"PQ{width // 2}x4fs"
    if expected <= LISTS_FROM:
        return f"{codes},Refine(SQ8)"
    return f"IVF{max(1, min(round(2 * math.sqrt(expected)), trained // 40))},{codes},Refine(SQ8)"


def is_screened(index: Any) -> bool:
    """Whether an index ranks what it finds again with finer vectors."""
    return hasattr(index, "refine_index")


def _without(values: Any, rows: Any, dead: Ids, k: int) -> tuple[Any, Any]:
    """The first k results of each query that are not dead; -1 where there are no more."""
    if not len(dead):
        return values[:, :k], rows[:, :k]
    gone = np.isin(rows, dead)
    order = np.argsort(gone, axis=1, kind="stable")[:, :k]
    kept = np.where(np.take_along_axis(gone, order, axis=1), -1, np.take_along_axis(rows, order, axis=1))
    return np.take_along_axis(values, order, axis=1), kept


def default_probes(lists: int) -> int:
    """Lists that a search reads: a fifth, and at least 16."""
    return min(lists, max(16, lists // 5))


def ivf_of(index: Any) -> Any:
    """The inverted lists of an index; None when it has none."""
    inner = faiss_module().downcast_index(index.base_index) if is_screened(index) else index
    return inner if hasattr(inner, "nlist") and hasattr(inner, "nprobe") else None


def graph_of(index: Any) -> Any:
    """The graph of an index; None when it is none."""
    return index if hasattr(index, "hnsw") else None


def faiss_module() -> Any:
    """Import faiss.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "faiss is not installed. In a clone of patchword: pip install '.[index]', or use the backend exact."
        ) from None
    return faiss
