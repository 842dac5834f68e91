"""Region features that change beside an index of pictures: extracted again, extended, and asked with."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_toys import WIDTH, noise, write_detector
from fastapi.testclient import TestClient
from small import refused
from store_toys import age, save_model

from patchword.cli import main
from patchword.data.extract_regions import extract_regions
from patchword.index import Catalog, Item, add_captions, build, open_snapshot, sync, verify
from patchword.index.feature_changes import find_feature_changes
from patchword.index.writer import open_writer
from patchword.loading import load
from patchword.model import Model
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Part, Query
from patchword.web.app import create_app

PHOTOS = ("a.png", "b.png", "deep/c.png", "deep/d.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_model(tmp_path_factory.mktemp("model") / "m", "chan", {"kind": "regions", "width": WIDTH}))


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("detectors")
    return [write_detector(home / str(seed), "detr", seed) for seed in range(2)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for k, name in enumerate(PHOTOS):
        age(noise(tmp_path / "photos" / name, 40, 50 + k, k))
    return tmp_path / "photos"


@pytest.fixture
def index(model: Model, detectors: list[Path], photos: Path, tmp_path: Path) -> Path:
    """Of photos with the first detector's features, which look old."""
    extract(photos, detectors[0])
    build(photos, tmp_path / "i", model=model, features=tmp_path / "features")
    sync(tmp_path / "i")
    return tmp_path / "i"


def extract(photos: Path, detector: Path, *, again: bool = False) -> int:
    """Extract regions beside the photos; returns the number of photos that were computed."""
    out = photos.parent / "features"
    (one,) = extract_regions(photos, out, detector, regions=4, again=again)
    for path in out.iterdir():
        age(path)
    return one.computed


def items(index: Path) -> dict[str, Item]:
    with Catalog(index) as catalog:
        return {item.path: item for item in catalog.items(catalog.where("id > 0"))}


def is_fresh(index: Path, model: Model) -> bool:
    """Whether an index holds the vectors that one built now would hold."""
    fresh = index.with_name("fresh")
    build(index.parent / "photos", fresh, model=model, features=index.parent / "features")
    mine, theirs = items(index), items(fresh)
    assert mine.keys() == theirs.keys()
    found = []
    for folder, known in ((index, mine), (fresh, theirs)):
        snapshot = open_snapshot(folder)
        found.append(snapshot.sets(snapshot.positions([known[path].id for path in sorted(known)])).vectors)
    return torch.allclose(*found, atol=2e-3)


def test_features_of_another_detector_are_encoded_again(
    index: Path, model: Model, detectors: list[Path], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"caption": "a dog .", "image": "b.png"}), encoding="utf-8")
    add_captions(index, tmp_path / "c.jsonl", model=model)
    assert sync(index, model="/no/such/model").unchanged == 4
    assert extract(photos, detectors[1], again=True) == 4
    age(noise(photos / "e.png", 40, 50, 9))
    extract(photos, detectors[1])
    done = sync(index, photos / "deep", model=model)  # a part of the folder
    assert (done.indexed, done.replaced) == (2, 2)
    done = sync(index, model=model)
    assert (done.indexed, done.replaced, done.unchanged) == (3, 2, 2)
    assert verify(index).is_clean
    assert is_fresh(index, model)
    (caption,) = open_snapshot(index, "caption").ids.tolist()
    with Catalog(index) as catalog:
        assert catalog.captions([caption])[0].image_id == items(index)["b.png"].id
    assert sync(index, model="/no/such/model").unchanged == 5


def test_a_photo_that_went_needs_no_detector_and_is_told_so(
    index: Path, detectors: list[Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a.png").unlink()
    out = photos.parent / "features"
    named = ["-o", str(out), "--detector", str(detectors[0]), "--regions", "4"]
    assert main(["extract", "regions", str(photos), *named]) == 0
    said = capsys.readouterr().out
    assert f"all: 3 images x 4 regions x {WIDTH}, none had to be computed" in said
    assert sync(index, model="/no/such/model").removed == 1


def test_the_same_features_written_again_are_no_change(index: Path, detectors: list[Path], photos: Path) -> None:
    ims = photos.parent / "features" / "all_ims.npy"
    values = np.load(ims)
    np.save(ims, values)
    age(ims, by_s=100)
    assert sync(index, model="/no/such/model").unchanged == 4
    with open_writer(index, "test") as writer:  # and from now on they need not be read
        assert find_feature_changes(writer).features is None
    values[2] += 0.5
    np.save(ims, values)
    with open_writer(index, "test") as writer:
        found = find_feature_changes(writer)
    assert found.outdated == {items(index)["deep/c.png"].id}


def test_boxes_that_changed_alone_are_taken_over(index: Path, photos: Path, model: Model) -> None:
    file = photos.parent / "features" / "all_boxes.npy"
    boxes = np.load(file)
    boxes[2] *= 0.5
    np.save(file, boxes)
    age(file, by_s=100)
    done = sync(index, model=model)
    assert (done.indexed, done.replaced, done.unchanged) == (1, 1, 3)
    snapshot = open_snapshot(index)
    found = snapshot.boxes(int(snapshot.positions([items(index)["deep/c.png"].id])[0]))
    assert np.allclose(found, boxes[2], atol=1e-3)
    assert sync(index, model="/no/such/model").unchanged == 4


def test_an_index_of_an_older_version_learns_its_features(
    index: Path, model: Model, detectors: list[Path], photos: Path
) -> None:
    def forget() -> None:
        with closing(sqlite3.connect(index / "catalog.sqlite")) as connection, connection:
            connection.execute("ALTER TABLE items DROP COLUMN feature_hash")
            connection.execute("DROP TABLE feature_files")

    forget()
    assert len(items(index)) == 4  # it is read as it is
    assert sync(index, model="/no/such/model").unchanged == 4  # the features are older than the index
    extract(photos, detectors[1], again=True)
    assert sync(index, model=model).replaced == 4
    forget()
    for path in (photos.parent / "features").iterdir():
        os.utime(path)  # changed after the index was made: what it holds can not be known
    assert sync(index, model=model).replaced == 4
    assert is_fresh(index, model)


def test_features_that_are_not_there_change_nothing(index: Path, photos: Path) -> None:
    (photos.parent / "features").rename(photos.parent / "elsewhere")
    assert sync(index, model="/no/such/model").unchanged == 4
    (photos.parent / "elsewhere").rename(photos.parent / "features")
    assert sync(index, model="/no/such/model").unchanged == 4


def test_new_photos_are_extracted_indexed_and_found(
    model: Model, detectors: list[Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", "regions", photos, "-o", tmp_path / "features", "--detector", detectors[0], "--regions", "4"]

    def said(*words: str | Path) -> str:
        capsys.readouterr()
        assert main(list(map(str, words))) == 0
        return capsys.readouterr().out

    assert "4 computed now" in said(*words)
    build(photos, tmp_path / "i", model=model, features=tmp_path / "features")
    for k in range(3):
        noise(photos / f"new_{k}.png", 45, 60, 20 + k)
    assert "7 images x 4 regions x 32, 3 computed now" in said(*words)
    done = sync(tmp_path / "i", model=model)
    assert (done.indexed, done.unchanged, done.replaced) == (3, 4, 0)
    assert is_fresh(tmp_path / "i", model)
    known = items(tmp_path / "i")
    one = known["new_1.png"].id
    search = ["search", tmp_path / "i", "-k", "7", "--json"]
    expected = json.loads(said(*search, "--image", str(one)))["hits"]
    assert len(expected) == 6
    assert one not in [hit["id"] for hit in expected]
    for name in ("new_1.png", photos / "new_1.png", "all/new_1.png"):
        assert json.loads(said(*search, "--image", name))["hits"] == expected
    (photos / "new_2.png").unlink()
    assert "6 images x 4 regions x 32" in said(*words)
    done = sync(tmp_path / "i", model="/no/such/model")
    assert (done.removed, done.unchanged) == (1, 6)


def test_a_new_picture_is_asked_with_by_a_detector(
    index: Path, detectors: list[Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes((photos / "deep" / "d.png").read_bytes())
    with Index.open(index) as opened:
        assert not opened.accepts_pictures
    with Index.open(index, detector=detectors[0]) as opened:
        assert opened.accepts_pictures
        hits = opened.search(Query((Part(image=copy),)), 3).hits
        alike = opened.similar(items(index)["deep/d.png"].id, 2).hits
        with TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
            typed = {"Content-Type": "image/png"}
            sent = client.post("/similar", params={"k": 3}, content=copy.read_bytes(), headers=typed)
    assert sent.status_code == 200, sent.text
    assert [hit["id"] for hit in sent.json()["hits"]] == [hit.id for hit in hits]
    assert hits[0].item.path == "deep/d.png"  # the same picture, by other bytes' name
    assert [hit.id for hit in hits[1:]] == [hit.id for hit in alike]
    np.testing.assert_allclose([hit.score for hit in hits[1:]], [hit.score for hit in alike], atol=2e-3)
    words = ["search", index, "--image", copy]
    assert "or name the detector" in refused(words, capsys, kind="DataError")
    telling = "is another detector. Name that one with --detector"
    assert telling in refused([*words, "--detector", detectors[1]], capsys, kind="ConfigError")
    assert main([*map(str, words), "--detector", str(detectors[0])]) == 0
    assert "deep/d.png" in capsys.readouterr().out


def test_a_file_is_no_folder_to_build(
    model: Model, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", "build", photos / "a.png", "-o", tmp_path / "i", "--model", tmp_path / "no"]
    assert "is a file. Expected a folder of pictures" in refused(words, capsys, kind="DataError")
