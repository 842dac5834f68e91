"""What goes into an index beside pictures: EXIF, the user's columns, captions, region features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from store_toys import REGIONS, SIZES, save_picture, save_pictures, save_pixel_model, save_region_model, write_precomp

from patchword.data.open import open_split
from patchword.errors import ConfigError, DataError
from patchword.index import Catalog, Item, add, add_captions, build, compact, open_snapshot, remove, sync, verify
from patchword.index.features import FeatureFolder
from patchword.loading import load
from patchword.model import Model
from patchword.store.manifest import read_manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_pixel_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_region_model(tmp_path_factory.mktemp("model") / "r"))


@pytest.fixture
def index(model: Model, tmp_path: Path) -> Path:
    build(save_pictures(tmp_path / "p", 6), tmp_path / "i", model=model)
    return tmp_path / "i"


def items(index: Path, where: str = "id > 0") -> list[Item]:
    with Catalog(index) as catalog:
        return catalog.items(catalog.where(where))


# ------------------------------------------------------------------ EXIF


def save_photograph(path: Path, *, latitude: tuple[float, float, float] = (48.0, 30.0, 0.0)) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model], exif[ExifTags.Base.Orientation] = "Acme", "Acme One\0", 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:11:12"
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitude], place[ExifTags.GPS.GPSLatitudeRef] = latitude, "S"
    place[ExifTags.GPS.GPSLongitude], place[ExifTags.GPS.GPSLongitudeRef] = (2.0, 15.0, 36.0), "E"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", exif=exif)
    return path


def test_a_photograph_says_when_where_and_with_what(model: Model, tmp_path: Path) -> None:
    save_photograph(tmp_path / "p" / "one.jpg")
    save_photograph(tmp_path / "p" / "odd.jpg", latitude=(148.0, 0.0, 0.0))
    save_picture(tmp_path / "p" / "plain.png", 1)
    build(tmp_path / "p", tmp_path / "i", model=model)
    odd, one, plain = items(tmp_path / "i")
    assert (one.width, one.height, one.orientation) == (20, 30, 6)  # upright
    assert (one.taken, one.camera) == ("2024-05-01T10:11:12", "Acme One")
    assert (one.latitude, one.longitude) == pytest.approx((-48.5, 2.26))
    assert (odd.latitude, odd.longitude) == (None, None)
    assert (plain.taken, plain.camera, plain.orientation) == (None, None, None)
    assert [i.path for i in items(tmp_path / "i", "taken >= '2024-05-01' and latitude < 0")] == ["one.jpg"]


# ------------------------------------------------------------------ columns


def test_columns_come_from_csv_and_json_lines(index: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "path;stars;price;code;tag\n"
        "a/p001.png;5;2.5;007;sea, sand\n"
        f'{tmp_path}/p/a/p003.png;;3;008;"say ""hi"""\n'
        "a/absent.png;1;1;1;x\n",
        encoding="utf-8",
    )
    changes = add(index, columns=tmp_path / "a.csv")
    assert changes.unknown_columns == ("a/absent.png",)
    first, second = items(index, "code like '00%'")
    assert first.columns == {"stars": 5, "price": 2.5, "code": "007", "tag": "sea, sand"}
    assert second.columns == {"stars": None, "price": 3.0, "code": "008", "tag": 'say "hi"'}
    with Catalog(index) as catalog:
        own = {name: kind for name, kind in catalog.columns().items() if name in first.columns}
    assert own == {"stars": "integer", "price": "real", "code": "text", "tag": "text"}
    (tmp_path / "b.jsonl").write_text(
        '{"path": "a/p001.png", "stars": 4.5, "seen": true, "code": "9"}\n\n{"path": "a/p005.png", "stars": null}\n',
        encoding="utf-8",
    )
    sync(index, columns=tmp_path / "b.jsonl")
    assert [item.columns["stars"] for item in items(index, "stars > 4")] == [4.5]
    assert items(index, "seen = 1")[0].columns["code"] == "9"
    assert verify(index).is_clean


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "tag\nsea\n", "Expected one named 'path'"),
        ("a.csv", "path,width\na,3\n", "every index has a column `width` already"),
        ("a.csv", "path,tag\na\n", "line 2 has 1 fields. Expected 2"),
        ("a.csv", "path,tag\na,1\na,2\n", "line 3: 'a' occurs twice"),
        ("a.csv", "path,tag,tag\na,1,2\n", "names a column twice"),
        ("a.csv", 'path,tag\na,"1\n', "is not valid CSV"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "path,\na,1\n", "can not be the name of a column"),
        ("a.jsonl", "{", "line 1 is not valid JSON"),
        ("a.jsonl", "[1]", "line 1 is no object"),
        ("a.jsonl", '{"path": "a", "tag": ["x"]}', "`tag` is a list"),
        ("a.jsonl", '{"path": 3, "tag": "x"}', "`path` is 3"),
    ],
)
def test_bad_columns_are_refused(name: str, text: str, says: str, index: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        add(index, columns=tmp_path / name)
    assert says in str(error.value)
    assert all(not item.columns for item in items(index))


# ------------------------------------------------------------------ captions


def test_captions_are_encoded_like_images_and_linked(model: Model, index: Path, tmp_path: Path) -> None:
    lines = [
        {"caption": "a dog and a ball .", "image": "a/p001.png"},
        {"caption": "a cat .", "image": "p002"},
        {"caption": "a cat .", "image": "p003.png"},
        {"captions": ["a tree", "a boat"], "image": "nowhere.png"},
        {"caption": "a hat"},
    ]
    (tmp_path / "c.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    done = add_captions(index, tmp_path / "c.jsonl", model=model)
    assert (done.found, done.indexed, done.linked, done.captions) == (6, 6, 3, 6)
    again = add_captions(index, tmp_path / "c.jsonl", model="/no/such/model")
    assert (again.indexed, again.unchanged) == (0, 6)
    snapshot = open_snapshot(index, "caption")
    with Catalog(index) as catalog:
        found = catalog.captions(snapshot.ids)
        ids = {item.path: item.id for item in items(index)}
        assert catalog.count("caption") == 6
    assert [caption.image_id for caption in found[:3]] == [ids["a/p001.png"], ids["b/c/p002.png"], ids["a/p003.png"]]
    expected = model.encode_captions([caption.text for caption in found])
    sets = snapshot.sets(np.arange(6))
    assert torch.equal(sets.lengths, expected.lengths)
    assert torch.allclose(sets.vectors, expected.vectors, atol=1e-3)
    assert set(snapshot.ids.tolist()).isdisjoint(ids.values())
    remove(index, ["a/p001.png"])
    with Catalog(index) as catalog:
        assert catalog.captions(snapshot.ids[:1])[0].image_id is None
    assert verify(index).is_clean
    (tmp_path / "c.txt").write_text("a shoe\n", encoding="utf-8")
    assert add_captions(index, tmp_path / "c.txt", clear=True, model=model).captions == 1
    compact(index)
    assert len(open_snapshot(index, "caption")) == 1


def test_a_table_of_captions_is_no_list_of_lines(model: Model, index: Path, tmp_path: Path) -> None:
    name = items(index)[0].path
    (tmp_path / "c.csv").write_text(
        f"image;caption;split\r\n{name};a tree;dev\r\n{name};a boat;dev\r\n", encoding="utf-8"
    )
    done = add_captions(index, tmp_path / "c.csv", model=model)
    assert (done.found, done.indexed, done.linked) == (2, 2, 2)
    with Catalog(index) as catalog:
        found = catalog.captions(open_snapshot(index, kind="caption").ids)
    assert [caption.text for caption in found] == ["a tree", "a boat"]


def test_captions_that_can_not_be_read_are_refused(index: Path, tmp_path: Path) -> None:
    for name, text, says in (
        ("a.txt", "a dog\n\na cat\n", "line 2 is empty"),
        ("b.jsonl", '{"text": "a dog"}', "line 1: expected"),
        ("c.jsonl", "{", "line 1 is not valid JSON"),
        ("d.txt", "", "has no captions"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as error:
            add_captions(index, tmp_path / name)
        assert says in str(error.value)


# ------------------------------------------------------------------ features


def write_features(folder: Path) -> Path:
    write_precomp(folder)
    draw = np.random.default_rng(1)
    for split, count in SIZES.items():
        corners = np.sort(draw.random((count, REGIONS, 2, 2)), axis=2).reshape(count, REGIONS, 4)
        np.save(folder / f"{split}_boxes.npy", corners.astype(np.float32))
    return folder


def test_features_alone_can_be_indexed(regions: Model, tmp_path: Path) -> None:
    data, index = write_features(tmp_path / "data"), tmp_path / "i"
    changes = build(None, index, model=regions, features=data, splits=["dev", "test"])
    assert (changes.indexed, changes.skipped) == (SIZES["dev"] + SIZES["test"], 0)
    split = open_split(data, "test")
    found = items(index, "path like 'test%'")
    rows = [split.image_ids.index(item.path) for item in found]
    snapshot = open_snapshot(index)
    positions = snapshot.positions([item.id for item in found])
    expected = regions.encode_images(split.require_images()).select(torch.tensor(rows))
    assert torch.allclose(snapshot.sets(positions).vectors, expected.vectors, atol=1e-3)
    assert all(item.file is None and item.feature == f"test/{item.path}" for item in found)
    assert split.boxes is not None
    assert np.allclose(snapshot.boxes(int(positions[2])), split.boxes[rows[2]], atol=1e-3)
    assert sync(index, model="/no/such/model").unchanged == changes.found
    values = np.load(data / "test_ims.npy")
    values[3] += 1
    np.save(data / "test_ims.npy", values)
    again = sync(index, model=regions)
    assert (again.indexed, again.unchanged) == (1, changes.found - 1)
    assert verify(index).is_clean
    with pytest.raises(ConfigError, match="features without pictures"):
        add(index, [save_picture(tmp_path / "one.png", 1)], model=regions)


def test_pictures_get_the_features_of_their_names(regions: Model, tmp_path: Path) -> None:
    data, pictures = write_features(tmp_path / "data"), tmp_path / "p"
    for name in ("dev_3.png", "sub/test_5.png", "stranger.png"):
        save_picture(pictures / name, 1)
    (pictures / "dev_4.png").write_bytes(b"broken")
    changes = build(pictures, tmp_path / "i", model=regions, features=data)
    assert (changes.indexed, changes.skipped) == (2, 2)
    assert "has no features of a picture of this name" in (tmp_path / "i" / "skipped.jsonl").read_text(encoding="utf-8")
    found = {item.path: item for item in items(tmp_path / "i")}
    assert found["sub/test_5.png"].feature == "test/test_5"
    assert (found["dev_3.png"].width, found["dev_3.png"].has_picture) == (25, True)
    source = read_manifest(tmp_path / "i").features
    assert source is not None
    folder = FeatureFolder(source)
    images = folder.read([folder.labelled("test/test_5")], ())
    expected = regions.method.encode_images(images)
    snapshot = open_snapshot(tmp_path / "i")
    row = snapshot.positions([found["sub/test_5.png"].id])
    assert torch.allclose(snapshot.sets(row).vectors, expected.vectors, atol=1e-3)
    (pictures / "dev_3.png").rename(pictures / "dev_7.png")  # another name: other features
    assert sync(tmp_path / "i", model=regions).indexed == 1
    assert {item.feature for item in items(tmp_path / "i")} == {"test/test_5", "dev/dev_7"}


def test_a_file_says_which_features_belong_to_pictures_of_other_names(regions: Model, tmp_path: Path) -> None:
    data, pictures = write_features(tmp_path / "data"), tmp_path / "p"
    for name in ("a.png", "sub/b.png", "dev_3.png", "c.png"):
        save_picture(pictures / name, 1)
    listing = tmp_path / "names.jsonl"
    rows = [
        {"image": "a.png", "id": "toys:dev_1", "captions": ["not a column"]},
        {"image": "sub/b.png", "id": "test_2"},
        {"image": "c.png", "id": "toys:nobody"},
    ]
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = build(pictures, tmp_path / "i", model=regions, features=data, feature_names=listing)
    assert (changes.indexed, changes.skipped) == (3, 1)
    expected = {"a.png": "dev/dev_1", "sub/b.png": "test/test_2", "dev_3.png": "dev/dev_3"}
    assert {item.path: item.feature for item in items(tmp_path / "i")} == expected
    rows += [{"image": "images/d.png", "id": "test_4"}, {"image": "images/a.png", "id": "test_4"}]
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    save_picture(pictures / "d.png", 1)  # of another folder in the file of names, but of a name that occurs once there
    assert sync(tmp_path / "i", model=regions).indexed == 1
    assert {item.path: item.feature for item in items(tmp_path / "i")} == {**expected, "d.png": "test/test_4"}
    listing.write_text("path,id\na.png,dev_1\nd.png,dev_2\n", encoding="utf-8")
    listing = listing.rename(tmp_path / "names.csv")
    with pytest.raises(DataError, match=r"names\.jsonl"):  # a sync reads the names again
        sync(tmp_path / "i", model=regions)
    changes = build(pictures, tmp_path / "j", model=regions, features=data, feature_names=listing)
    assert {item.path for item in items(tmp_path / "j")} == {"a.png", "d.png", "dev_3.png"}
    listing.write_text("path,id\na.png,\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"names.csv' line 2: `id` is None. Expected the image's id in the features."):
        build(pictures, tmp_path / "k", model=regions, features=data, feature_names=listing)
    with pytest.raises(ConfigError, match="--feature-names without --features"):
        build(pictures, tmp_path / "k", model=regions, feature_names=listing)


def test_a_row_is_about_the_picture_whose_path_it_names(regions: Model, tmp_path: Path) -> None:
    data, pictures = write_features(tmp_path / "data"), tmp_path / "p"
    for name in ("a/x.png", "b/x.png", "c/y.png"):
        save_picture(pictures / name, 1)
    listing = tmp_path / "names.csv"
    listing.write_text(f"path,id\na/x.png,dev_3\n{pictures}//c/y.png,dev_4\n", encoding="utf-8")
    changes = build(pictures, tmp_path / "i", model=regions, features=data, feature_names=listing)
    assert (changes.indexed, changes.skipped) == (2, 1)  # b/x.png is another picture
    assert {item.path: item.feature for item in items(tmp_path / "i")} == {
        "a/x.png": "dev/dev_3",
        "c/y.png": "dev/dev_4",
    }


def test_model_and_input_must_fit(model: Model, regions: Model, tmp_path: Path) -> None:
    data, pictures = write_features(tmp_path / "data"), save_pictures(tmp_path / "p", 1)
    with pytest.raises(ConfigError, match=r"reads region features, which picture files do not have\. .*--features DIR"):
        build(pictures, tmp_path / "i", model=regions)
    with pytest.raises(ConfigError, match=r"reads pictures, not region features"):
        build(pictures, tmp_path / "i", model=model, features=data)
    with pytest.raises(ConfigError, match=r"nothing to index"):
        build(None, tmp_path / "i", model=model)
    np.save(data / "train_ims.npy", np.zeros((40, 6, 3), np.float32))
    with pytest.raises(DataError, match="features of width 3"):
        build(None, tmp_path / "i", model=regions, features=data)
    assert not (tmp_path / "i").exists()


def test_a_model_without_finite_numbers_is_no_reason_to_stop(tmp_path: Path) -> None:
    broken = load(save_pixel_model(tmp_path / "m", "vse_inf"))
    with torch.no_grad():
        for name, weight in broken.method.named_parameters():
            if name.startswith("image") and weight.ndim == 1:
                weight.fill_(float("nan"))
    broken.save(tmp_path / "nan")
    changes = build(save_pictures(tmp_path / "p", 2), tmp_path / "i", model=tmp_path / "nan")
    assert (changes.indexed, changes.skipped) == (0, 2)
    assert "no finite numbers" in (tmp_path / "i" / "skipped.jsonl").read_text(encoding="utf-8")
    assert verify(tmp_path / "i").is_clean
