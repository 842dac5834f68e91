"""The saved shortlist: brought up to the catalog, read by a reader that knows more, and made again when it is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_toys import region_index
from small import write_precomp
from store_toys import save_region_model

from patchword.index import build, open_snapshot, remove
from patchword.loading import load
from patchword.retrieve.engine import Index
from patchword.shortlist.build import update_shortlist
from patchword.shortlist.saved import read_saved
from patchword.store.layout import IndexFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return region_index(tmp_path, images=240)[0]


def found(folder: Path, candidates: int = 80) -> list[int]:
    with Index.open(folder) as index:
        return [hit.id for hit in index.search("a dog and a cup", 10, mode="fast", candidates=candidates).hits]


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "shortlist").glob("image-*"))


def test_it_follows_the_catalog(folder: Path) -> None:
    update_shortlist(folder)
    assert not update_shortlist(folder)  # nothing has changed
    first, kept = states(folder), found(folder)
    remove(folder, kept[:4])
    expected = found(folder)
    assert not set(expected) & set(kept[:4])
    update_shortlist(folder)
    saved = read_saved(IndexFolder(folder), "image")
    assert saved is not None
    assert saved.count == 236
    assert saved.generation == open_snapshot(folder).generation
    assert len(states(folder)) == 1
    assert states(folder) != first
    assert found(folder) == expected


def test_an_open_index_takes_the_new_one(folder: Path) -> None:
    update_shortlist(folder)
    with Index.open(folder) as index:
        before = index.images.shortlist
        remove(folder, found(folder)[:3])
        assert index.refresh()
        after = index.images.shortlist
        if read_saved(index.place, "image") == before.saved:
            assert after.base is before.base
            assert after.gone
        update_shortlist(folder, again=True)
        index.catalog.generation()
        assert [hit.id for hit in index.search("a dog and a cup", 10, mode="fast", candidates=80).hits] == found(folder)


@pytest.mark.parametrize("harm", ["no folder", "no file", "garbage", "half a file"])
def test_a_lost_one_is_made_again(folder: Path, harm: str) -> None:
    update_shortlist(folder)
    expected = found(folder)
    (state,) = (folder / "shortlist").glob("image-*")
    if harm == "no folder":
        shutil.rmtree(folder / "shortlist")
    elif harm == "no file":
        (state / "vectors.safetensors").unlink()
    elif harm == "garbage":
        (folder / "shortlist" / "image.json").write_text("not json", encoding="utf-8")
    else:
        whole = (state / "fit.safetensors").read_bytes()
        (state / "fit.safetensors").write_bytes(whole[: len(whole) // 2])
    assert found(folder) == expected
    update_shortlist(folder, again=harm in ("no file", "half a file"))
    assert found(folder) == expected
    assert read_saved(IndexFolder(folder), "image") is not None


def test_what_a_killed_writer_left_is_cleared(folder: Path) -> None:
    update_shortlist(folder)
    left = folder / "shortlist" / "image-000000000099-killed"
    left.mkdir()
    (left / "fit.safetensors").write_bytes(b"half")
    assert found(folder)
    update_shortlist(folder, again=True)
    assert not left.exists()


@pytest.mark.parametrize("options", [{}, {"factory": "HNSW16,SQ8"}, {"factory": "IVF4,SQ8", "nprobe": 4}])
def test_faiss_serves_the_same_answers(tmp_path: Path, options: dict[str, object]) -> None:
    model = load(save_region_model(tmp_path / "model"))
    data = write_precomp(tmp_path / "data", {"train": 200, "dev": 20, "test": 20})
    plain, other = tmp_path / "plain.index", tmp_path / "faiss.index"
    build(None, plain, model=model, features=data)
    build(None, other, model=model, features=data, backend="faiss", backend_options=options)
    update_shortlist(other)
    about = json.loads((other / "shortlist" / "image.json").read_text(encoding="utf-8"))
    assert about["backend"] == "faiss"
    assert about["options"] == options
    assert len(set(found(plain)) & set(found(other))) >= 9
    gone = found(other)[:5]
    remove(other, gone)
    update_shortlist(other)
    with Index.open(other) as index:
        assert len(index.images.shortlist.base) == 235
        assert not np.isin(gone, index.images.shortlist.base_ids).any()
