"""Choosing and changing the backend of an index: refused before anything is made, changed without encoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_toys import picture_index, region_index
from small import refused
from store_toys import save_region_model, write_precomp

from patchword.cli import main
from patchword.errors import ConfigError, DataError
from patchword.index import build, change_backend, open_snapshot, remove, sync, verify
from patchword.loading import load
from patchword.retrieve.engine import Index
from patchword.shortlist.saved import read_saved
from patchword.store import unfinished
from patchword.store.layout import IndexFolder
from patchword.store.manifest import BackendChoice, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return region_index(tmp_path, images=240)[0]


def found(folder: Path, candidates: int = 200) -> list[int]:
    with Index.open(folder) as index:
        return [hit.id for hit in index.search("a dog and a cup", 10, mode="fast", candidates=candidates).hits]


def kinds(folder: Path) -> tuple[str, str]:
    """The backend of the manifest, and that of the saved shortlist."""
    saved = read_saved(IndexFolder(folder), "image")
    assert saved is not None
    assert [path.name for path in (folder / "shortlist").glob("image-*")] == [saved.folder]
    return read_manifest(folder).backend.kind, saved.backend


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--backend", "lucene"], "the backend 'lucene' is unknown. Known: exact, faiss, milvus."),
        (["--backend-options", "foo=3"], "the backend exact has no option 'foo'. Known: none."),
        (["--backend", "faiss", "--backend-options", "foo=3"], "has no option 'foo'"),
        (["--backend", "faiss", "--backend-options", "nprobe=0"], "Expected a number above 0."),
        (["--backend", "faiss", "--backend-options", "factory=NONSENSE9"], "could not parse index string NONSENSE9."),
        (["--pooled", "median"], "--pooled is 'median'. Expected one of: own, anchors, fde, mean."),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_made(
    words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_region_model(tmp_path / "model")
    data = write_precomp(tmp_path / "data", {"train": 4})
    out = tmp_path / "few.index"
    said = refused(
        ["index", "build", "-o", out, "--model", model, "--features", data, *words], capsys, kind="ConfigError"
    )
    assert part in said
    assert "None" not in said
    assert not [path for path in tmp_path.iterdir() if "few.index" in path.name]


def test_building_on_says_what_changes_the_shortlist(tmp_path: Path) -> None:
    folder, model = region_index(tmp_path)
    again = {"model": model, "features": tmp_path / "data"}
    build(None, folder, backend="exact", pooled="anchors", **again)  # as it is
    with pytest.raises(ConfigError, match=f"has the backend exact .*: patchword index backend {folder} faiss$"):
        build(None, folder, backend="faiss", **again)
    with pytest.raises(ConfigError, match=f"kind anchors.*: patchword index backend {folder} exact --pooled mean$"):
        build(None, folder, pooled="mean", **again)
    change_backend(folder, "faiss", {"nprobe": 4})
    build(None, folder, backend="faiss", **again)
    with pytest.raises(ConfigError, match="the backend faiss with nprobe=4"):
        build(None, folder, backend="faiss", backend_options={"nprobe": 8}, **again)


def test_a_backend_is_changed_without_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = found(folder)
    (folder.parent / "model_regions").rename(folder.parent / "away")  # so nothing can be encoded
    assert main(["index", "backend", str(folder), "faiss", "--options", "factory=HNSW16,SQ8", "ef_search=300"]) == 0
    assert "shortlist of its 240 images with faiss over anchors vectors now" in capsys.readouterr().out
    (folder.parent / "away").rename(folder.parent / "model_regions")
    assert kinds(folder) == ("faiss", "faiss")
    assert found(folder) == expected
    remove(folder, expected[:2])
    assert kinds(folder) == ("faiss", "faiss")
    change_backend(folder, "exact")
    assert kinds(folder) == ("exact", "exact")
    assert read_manifest(folder).backend.options == {}
    assert found(folder)[:8] == expected[2:]


def test_the_old_one_is_kept_when_the_new_one_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected, before = found(folder), read_saved(IndexFolder(folder), "image")
    refused(["index", "backend", folder, "lucene"], capsys, kind="ConfigError")
    said = refused(["index", "backend", folder, "faiss", "--options", "factory=IVF999,SQ8"], capsys, kind="ConfigError")
    assert "should be at least as large as number of clusters" in said  # which only the vectors tell
    assert kinds(folder) == ("exact", "exact")
    assert read_saved(IndexFolder(folder), "image") == before
    with pytest.raises(ConfigError):
        change_backend(folder, "faiss", {"factory": "IVF999,SQ8"}, pooled="mean")
    assert (read_manifest(folder).pooled.kind, *kinds(folder)) == ("mean", "exact", "exact")
    assert found(folder, 240) == expected


def test_an_index_with_an_unknown_backend_is_synced_and_put_right(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As older versions left it."""
    place = IndexFolder(folder)
    write_manifest(place, read_manifest(place).model_copy(update={"backend": BackendChoice(kind="lucene")}))
    expected = found(folder)
    assert sync(folder).unchanged == 240
    (message,) = {record.getMessage() for record in caplog.records}
    assert "the shortlist was not renewed" in message
    assert "'lucene' is unknown" in message
    assert found(folder) == expected
    change_backend(folder, "exact")
    assert kinds(folder) == ("exact", "exact")


@pytest.mark.parametrize("method", ["chan", "vse_inf"])
def test_other_vectors_are_those_of_an_index_made_with_them(method: str, tmp_path: Path) -> None:
    folder, model = picture_index(tmp_path, method=method, captions=True)
    pictures, other = tmp_path / "pictures", tmp_path / "other.index"
    build(pictures, other, model=model, pooled="mean")
    remove(folder, [2])
    remove(other, [2])
    with Index.open(folder) as index:
        before = [hit.id for hit in index.search("a dog", 5).hits]
        change_backend(folder, "exact", pooled="mean")
        assert read_manifest(folder).pooled == read_manifest(other).pooled
        np.testing.assert_array_equal(open_snapshot(folder).pooled(), open_snapshot(other).pooled())
        assert index.refresh()  # takes the new manifest
        assert index.info().shortlist == "mean"
        fast = index.search("a dog", 5, mode="fast", candidates=10)
        assert fast.mode == "fast"
        assert len({hit.id for hit in fast.hits} & set(before)) >= 3  # of random weights the mean says little
    assert verify(folder).is_clean
    own = "own" if method == "vse_inf" else "anchors"
    change_backend(folder, "exact", pooled=own)
    assert verify(folder).is_clean
    assert not (folder / unfinished.FILE).exists()


@pytest.mark.parametrize("is_done", [False, True])
def test_a_killed_change_of_vectors_is_ended_by_the_next_writer(
    is_done: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    expected = found(folder, 240)
    monkeypatch.setattr(f"patchword.index.changing_backend.{'finish' if is_done else 'register_shard'}", die)
    with pytest.raises(KilledError):
        change_backend(folder, "exact", pooled="mean")
    monkeypatch.undo()
    assert (folder / unfinished.FILE).exists()
    assert found(folder, 240) == expected  # a reader does not wait for it
    sync(folder)
    assert read_manifest(folder).pooled.kind == ("mean" if is_done else "anchors")
    assert verify(folder).is_clean
    assert found(folder, 240) == expected
    assert not (folder / unfinished.FILE).exists()


def test_lost_vectors_are_encoded_first(folder: Path) -> None:
    next((folder / "shards").iterdir()).unlink()
    with pytest.raises(DataError, match="is missing"):
        change_backend(folder, "exact", pooled="mean")
    assert read_manifest(folder).pooled.kind == "anchors"


def test_a_token_is_not_written_into_an_index(tmp_path: Path) -> None:
    model, data = load(save_region_model(tmp_path / "model")), write_precomp(tmp_path / "data", {"train": 4})
    options = {"uri": "http://127.0.0.1:9", "token": "secret"}
    with pytest.raises(ConfigError, match="token_file=FILE"):
        build(None, tmp_path / "i", model=model, features=data, backend="milvus", backend_options=options)
