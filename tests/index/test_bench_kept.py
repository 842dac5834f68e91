"""An index that ``bench search`` keeps is measured again only as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import refused, write_precomp
from store_toys import save_region_model

from patchword.bench import search
from patchword.bench.kept import is_kept, wanted_index
from patchword.bench.search import bench_search
from patchword.errors import ConfigError, DataError
from patchword.index import remove
from patchword.loading import load
from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index that was made."""
    place = tmp_path_factory.mktemp("bench") / "bench.index"
    assert next(bench_search(images=300, folder=place))["what"] == "build"
    return place


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "500"], "holds an index with images 300. Expected 500, as asked for."),
        (["--images", "300", "--backend", "faiss"], "holds an index with backend 'exact'. Expected 'faiss'"),
    ],
)
def test_other_sizes_and_backends_are_refused_in_one_line(
    kept: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["bench", "search", "--folder", kept, *words], capsys, kind="ConfigError")
    assert message in said
    assert "choose another --folder" in said


def test_other_models_and_data_are_refused(kept: Path, tmp_path: Path) -> None:
    first, second = (save_region_model(tmp_path / f"model_{seed}", seed=seed) for seed in (0, 1))
    data, other = (write_precomp(tmp_path / name, {"test": 20}) for name in ("data", "other"))
    place = tmp_path / "runs" / "b.index"
    with pytest.raises(ConfigError, match=r"holds an index with model 'random'. Expected '[0-9a-f]+'"):
        next(bench_search(images=300, run=first, data=data, folder=kept))
    assert not place.exists()
    assert next(bench_search(images=100, run=first, data=data, folder=place))["what"] == "build"
    with pytest.raises(ConfigError, match=r"holds an index with model '[0-9a-f]+'"):
        next(bench_search(images=100, run=second, data=data, folder=place))
    with pytest.raises(ConfigError, match=r"holds an index with data '.*data'. Expected '.*other'"):
        next(bench_search(images=100, run=first, data=other, folder=place))
    assert is_kept(IndexFolder(place), wanted_index(100, "exact", load(first), data, None))


def test_a_build_that_was_stopped_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "b.index"

    def stop(place: IndexFolder) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "update_shortlist", stop)
    with pytest.raises(KeyboardInterrupt):
        list(bench_search(images=100, folder=place))
    assert (place / "manifest.json").is_file()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="holds no finished index of `bench search`"):
        next(bench_search(images=100, folder=place))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no finished index of `bench search`, but something else"):
        next(bench_search(images=100, folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_is_filled_and_an_index_that_was_changed_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "b.index"
    place.mkdir()
    assert next(bench_search(images=100, folder=place))["what"] == "build"
    with Catalog(IndexFolder(place)) as catalog:
        path = catalog.find([1])[1].path
    assert remove(place, [path]).removed == (1,)
    with pytest.raises(DataError, match=r"holds 99 images. Expected the 100 it was made with"):
        next(bench_search(images=100, folder=place))
    assert json.loads((place / "bench.json").read_text(encoding="utf-8"))["images"] == 100
