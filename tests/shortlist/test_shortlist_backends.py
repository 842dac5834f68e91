"""The backends of the shortlist against a plain ranking: adding, deleting, filters, files, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchword.errors import ConfigError, DataError
from patchword.shortlist import BACKENDS, backend_class
from patchword.shortlist.base import NONE, GlobalIndex

WIDTH, COUNT = 16, 2600
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "faiss of few": ("faiss", {"factory": "Flat"}),
    "faiss": ("faiss", {}),
    "faiss screened": ("faiss", {"factory": "PQ8x4fs,Refine(SQ8)"}),
    "faiss graph": ("faiss", {"factory": "HNSW32,SQ8", "ef_search": 300}),
    "faiss lists": ("faiss", {"factory": "IVF16,SQ8", "nprobe": 16}),
}


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    """With strong and weak directions, as coordinates have them."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(COUNT, WIDTH, generator=draw) * torch.linspace(0.2, 2, WIDTH)


IDS = np.arange(COUNT, dtype=np.int64) * 3 + 7
QUERIES = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))


def filled(case: str, vectors: torch.Tensor) -> GlobalIndex:
    kind, options = CASES[case]
    made = backend_class(kind).empty(WIDTH, COUNT, options)
    made.add(IDS[:2200], vectors[:2200])
    made.add(IDS[2200:], vectors[2200:])
    return made


def recall(found: np.ndarray, vectors: torch.Tensor, alive: np.ndarray) -> float:
    """Share of the true best ten among the ids found; nothing else than live ids may be there."""
    scores = (QUERIES @ vectors.T).masked_fill(~torch.from_numpy(alive), -torch.inf)
    truth = IDS[scores.topk(min(10, int(alive.sum())), dim=1).indices.numpy()]
    assert set(found[found != NONE].tolist()) <= set(IDS[alive].tolist())
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)]))


@pytest.mark.parametrize("case", CASES)
def test_the_best_are_found(case: str, vectors: torch.Tensor, tmp_path: Path) -> None:
    index = filled(case, vectors)
    everything = np.ones(COUNT, dtype=bool)
    found, scores = index.search(QUERIES, 40)
    assert found.shape == (6, 40)
    assert len(index) == COUNT
    assert recall(found, vectors, everything) >= 0.98
    assert (np.diff(scores.numpy(), axis=1) <= 0).all()
    index.save(tmp_path)
    kind, options = CASES[case]
    again, _ = backend_class(kind).load(tmp_path, options).search(QUERIES, 40)
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("case", CASES)
def test_what_is_deleted_or_not_allowed_is_never_found(case: str, vectors: torch.Tensor, tmp_path: Path) -> None:
    index = filled(case, vectors)
    first, _ = index.search(QUERIES, 5)
    gone = np.unique(np.concatenate([first.ravel(), IDS[::25], [10**9]]))
    index.delete(gone)
    index.delete(gone)  # again does not matter
    alive = ~np.isin(IDS, gone)
    assert len(index) == alive.sum()
    assert recall(index.search(QUERIES, 40)[0], vectors, alive) >= 0.97
    index.save(tmp_path)
    kind, options = CASES[case]
    index = backend_class(kind).load(tmp_path, options)
    for share in (2, 40, 300):
        allowed = alive & (np.arange(COUNT) % share == 1)
        found, _ = index.search(QUERIES, 40, IDS[allowed])
        assert recall(found, vectors, allowed) >= 0.97
        assert ((found != NONE).sum(1) == min(40, allowed.sum())).all()
    assert (index.search(QUERIES, 3, np.zeros(0, np.int64))[0] == NONE).all()


@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_an_empty_one_answers(kind: str, tmp_path: Path) -> None:
    empty = backend_class(kind).empty(WIDTH, 0, {})
    empty.delete(IDS)
    assert (empty.search(QUERIES, 2)[0] == NONE).all()
    empty.save(tmp_path)
    assert (backend_class(kind).load(tmp_path, {}).search(QUERIES, 2)[0] == NONE).all()


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_name_leads_to_a_backend(kind: str) -> None:
    found = backend_class(kind)
    assert issubclass(found, GlobalIndex)
    assert not found.__abstractmethods__
    assert (found.is_on_server, found.learns_from_first) == (kind == "milvus", kind == "faiss")


def test_nonsense_is_refused(vectors: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        backend_class("oracle").empty(4, 0, {})
    with pytest.raises(ConfigError, match="no option 'probes'"):
        backend_class("faiss").empty(4, 0, {"probes": 3})
    with pytest.raises(ConfigError, match="wrong type"):
        backend_class("faiss").empty(4, 0, {"nprobe": "many"})
    with pytest.raises(ConfigError, match="refuses the factory"):
        backend_class("faiss").empty(WIDTH, 9, {"factory": "IVF,what"}).add(IDS[:9], vectors[:9])
    for kind in ("exact", "faiss"):
        with pytest.raises(DataError, match="can not be read"):
            backend_class(kind).load(tmp_path, {})


def test_a_damaged_file_is_refused(vectors: torch.Tensor, tmp_path: Path) -> None:
    filled("faiss", vectors).save(tmp_path)
    whole = (tmp_path / "vectors.faiss").read_bytes()
    (tmp_path / "vectors.faiss").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="can not be read"):
        backend_class("faiss").load(tmp_path, {})
    backend_class("exact").empty(4, 0, {}).save(tmp_path)
    np.save(tmp_path / "ids.npy", IDS[:5])
    (tmp_path / "vectors.faiss").write_bytes(whole)
    with pytest.raises(DataError, match="Expected 5"):
        backend_class("faiss").load(tmp_path, {})


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[index\]'"):
        backend_class("faiss").empty(4, 0, {})
