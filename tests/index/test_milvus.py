"""Milvus through its own client, with Milvus Lite: a whole index, its changes, filters, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import write_precomp
from store_toys import save_region_model

from patchword.errors import ConfigError, DataError
from patchword.index import build, remove
from patchword.index.engine import Index
from patchword.index.layout import IndexFolder
from patchword.index.shortlist import backend_class
from patchword.index.shortlist.base import NONE
from patchword.index.shortlist.build import update_shortlist
from patchword.index.shortlist.milvus import MilvusIndex
from patchword.loading import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
IDS = np.arange(400, dtype=np.int64) * 2 + 1
VECTORS = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
QUERIES = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    return {"uri": str(tmp_path_factory.mktemp("milvus") / "lite.db"), "collection": "things"}


def truth(alive: np.ndarray) -> np.ndarray:
    scores = (QUERIES @ VECTORS.T).masked_fill(~torch.from_numpy(alive), -torch.inf)
    return IDS[scores.topk(10, dim=1).indices.numpy()]


def test_a_collection_is_searched_and_changed(options: dict[str, Any], tmp_path: Path) -> None:
    index = backend_class("milvus").empty(8, 400, options)
    index.add(IDS[:300], VECTORS[:300])
    index.add(IDS[300:], VECTORS[300:])
    index.add(IDS[300:], VECTORS[300:])  # as after a broken-off addition
    assert len(index) == 400
    alive = np.ones(400, dtype=bool)
    found, scores = index.search(QUERIES, 10)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(truth(alive), axis=1))
    assert (np.diff(scores.numpy(), axis=1) <= 1e-6).all()
    index.delete(found[0])
    alive[np.isin(IDS, found[0])] = False
    index.save(tmp_path)
    again = backend_class("milvus").load(tmp_path, options)
    np.testing.assert_array_equal(np.sort(again.search(QUERIES, 10)[0], axis=1), np.sort(truth(alive), axis=1))
    few = alive & (np.arange(400) % 50 == 3)
    listed, _ = again.search(QUERIES, 10, IDS[few])
    assert set(listed[0].tolist()) - {NONE} == set(IDS[few].tolist())


def test_many_allowed_ids_are_filtered_here(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchword.index.shortlist.milvus._LISTED", 5)
    index = backend_class("milvus").empty(8, 400, {**options, "collection": "others"})
    index.add(IDS, VECTORS)
    alive = np.arange(400) % 8 == 0
    found, _ = index.search(QUERIES, 10, IDS[alive])
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(truth(alive), axis=1))


def test_an_index_with_milvus_answers_as_one_without(tmp_path: Path) -> None:
    model = load(save_region_model(tmp_path / "model"))
    data = write_precomp(tmp_path / "data", {"train": 100, "dev": 20, "test": 20})
    folders = {kind: tmp_path / f"{kind}.index" for kind in ("exact", "milvus")}
    for kind, folder in folders.items():
        build(None, folder, model=model, features=data, backend=kind)
        update_shortlist(folder)

    def found(folder: Path) -> list[int]:
        with Index.open(folder, model=model) as index:
            return [hit.id for hit in index.search("a dog and a cup", 8, mode="fast", candidates=40).hits]

    assert found(folders["milvus"]) == found(folders["exact"])
    gone = found(folders["milvus"])[:3]
    for folder in folders.values():
        remove(folder, gone)
        update_shortlist(folder)
    after = found(folders["milvus"])
    assert after == found(folders["exact"])
    assert not set(after) & set(gone)


def test_what_can_not_work_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs `uri`"):
        backend_class("milvus").empty(8, 0, {})
    with pytest.raises(ConfigError, match="no option 'url'"):
        backend_class("milvus").empty(8, 0, {"url": "x"})
    with pytest.raises(ConfigError, match="token file"):
        backend_class("milvus").empty(8, 0, {"uri": "x.db", "collection": "c", "token_file": str(tmp_path / "no")})
    with pytest.raises(DataError, match="refuses"):
        backend_class("milvus").empty(8, 0, {"uri": "http://127.0.0.1:9", "collection": "c", "timeout_s": 1})


def test_names_come_from_the_place_of_the_index(tmp_path: Path) -> None:
    place = IndexFolder(tmp_path)
    lite = MilvusIndex.with_defaults({}, place, "image")
    assert lite["uri"] == str(tmp_path / "milvus.db")
    assert lite["collection"].endswith("_image")
    cluster = MilvusIndex.with_defaults({"uri": "http://host:19530", "collection": "photos"}, place, "caption")
    assert (cluster["uri"], cluster["collection"]) == ("http://host:19530", "photos_caption")
