"""Milvus through its own client, with Milvus Lite: a whole index, its changes, filters, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_toys import region_index
from small import command, write_precomp
from store_toys import save_region_model

from patchword.errors import ConfigError, DataError
from patchword.index import build, change_backend, remove, sync
from patchword.loading import load
from patchword.retrieve.engine import Index
from patchword.shortlist import backend_class
from patchword.shortlist.base import NONE
from patchword.shortlist.build import update_shortlist
from patchword.shortlist.milvus import MilvusIndex, connect
from patchword.shortlist.saved import read_saved
from patchword.shortlist.served import ServedIndex
from patchword.store.layout import IndexFolder

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
    monkeypatch.setattr("patchword.shortlist.milvus._LISTED", 5)
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


def test_one_process_has_the_file_and_the_others_make_do(tmp_path: Path) -> None:
    folder, _ = region_index(tmp_path, images=120)  # this process must not open the file
    chosen = subprocess.run(command("index", "backend", folder, "milvus"), capture_output=True, text=True, check=False)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    script = tmp_path / "hold.py"
    script.write_text(
        "import sys\n"
        "from patchword.retrieve.engine import Index\n"
        "with Index.open(sys.argv[1]) as index:\n"
        "    print([hit.id for hit in index.search('a dog', 3, mode='fast', candidates=60).hits], flush=True)\n"
        "    sys.stdin.read()\n",
        encoding="utf-8",
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as holder:
        assert holder.stdout is not None
        expected = json.loads(holder.stdout.readline())
        words = command("search", folder, "a dog", "-k", "3", "--mode", "fast", "--candidates", "60", "--json")
        searched = subprocess.run(words, capture_output=True, text=True, check=False)
        remove(folder, expected[:1])
        synced = subprocess.run(command("index", "sync", folder), capture_output=True, text=True, check=False)
        holder.communicate("")
    assert (searched.returncode, synced.returncode) == (0, 0), (searched, synced)
    assert [hit["id"] for hit in json.loads(searched.stdout)["hits"]] == expected
    assert synced.stdout.startswith("found 120 = 0 indexed + 0 moved + 119 unchanged + 1 skipped.")
    for done, part in (
        (searched, "warning: the shortlist is searched in memory instead: another process has"),
        (synced, f"It is renewed by the next: patchword index sync {folder}"),
    ):
        lines = [line for line in done.stderr.splitlines() if not line.startswith("why files were skipped")]
        assert len(lines) == 1, done.stderr
        assert part in lines[0]
        assert "Milvus Lite serves one process at a time" in done.stderr
    saved = read_saved(IndexFolder(folder), "image")
    assert (saved.count if saved else None) == 120
    sync(folder)
    saved = read_saved(IndexFolder(folder), "image")
    assert (saved.count if saved else None) == 119


def test_a_server_that_fails_is_replaced_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, model = region_index(tmp_path, images=120, backend="milvus")
    with Index.open(folder, model=model) as index:
        served = index.images.shortlist.base
        assert isinstance(served, ServedIndex)
        backend = served.backend
        assert isinstance(backend, MilvusIndex)

        def found() -> list[int]:
            return [hit.id for hit in index.search("a dog", 5, mode="fast", candidates=60).hits]

        expected = found()
        backend.client.drop_collection(backend.collection)
        assert (found(), found()) == (expected, expected)
    assert sum("searched in memory instead" in record.getMessage() for record in caplog.records) == 1


def test_a_changed_index_leaves_no_collection_behind(tmp_path: Path) -> None:
    folder, _ = region_index(tmp_path, images=120, backend="milvus")
    options = MilvusIndex.with_defaults({}, IndexFolder(folder), "image")
    client = connect(options)
    (first,) = client.list_collections()
    assert options["collection"] == f"{first}_2"  # the one in use stays until the other is whole
    change_backend(folder, "milvus", {"index_type": "FLAT"})
    assert client.list_collections() == [f"{first}_2"]
    with pytest.raises(DataError, match="refuses"):
        change_backend(folder, "milvus", {"uri": "http://127.0.0.1:9", "timeout_s": 1})
    saved = read_saved(IndexFolder(folder), "image")
    assert saved is not None
    assert saved.options == {"index_type": "FLAT"}
    assert f"{first}_2" in client.list_collections()
    change_backend(folder, "exact")
    assert f"{first}_2" not in client.list_collections()


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
