"""Region features from pictures: the detector's numbers, SCAN's layout, broken pictures, kills."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from detector_toys import WIDTH, noise, write_detector
from PIL import Image
from safetensors.torch import load_file, save_file
from small import recipe, refused, start, wait_for, write_bert, write_pictures

from patchword.cli import main
from patchword.data.clip_files import quiet
from patchword.data.detector import DETECTORS, Detector
from patchword.data.extract_regions import extract_regions
from patchword.data.features import RegionFeatures
from patchword.data.growing_arrays import GrowingArrays
from patchword.data.open import open_split
from patchword.data.pictures import decode
from patchword.errors import CheckpointError, ConfigError, DataError
from patchword.train.run import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("detectors")
    return {family: write_detector(home / family, family) for family in DETECTORS}


@pytest.fixture(scope="module")
def detector(folders: dict[str, Path]) -> Detector:
    return Detector(folders["detr"], regions=4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of several sizes without captions, in a folder and below it."""
    home = tmp_path / "photos"
    (home / "deep" / "er").mkdir(parents=True)
    for k, name in enumerate(("a_red dog.png", "b.jpg", "deep/c.png", "deep/er/d.png", "é ß.png")):
        noise(home / name, 30 + 10 * k, 60 - 5 * k, k)
    return home


@pytest.mark.parametrize("family", DETECTORS)
@torch.no_grad()
def test_regions_are_the_detectors_best_queries(family: str, folders: dict[str, Path], photos: Path) -> None:
    detector = Detector(folders[family], regions=4)
    pictures = [decode(path) for path in sorted(photos.glob("*.*"))]
    features, boxes = detector.regions_of(pictures)
    assert (features.shape, boxes.shape) == ((3, 4, WIDTH), (3, 4, 4))
    names = DETECTORS[family]
    with quiet():
        model = getattr(transformers, names[0]).from_pretrained(folders[family]).eval()
        transform = getattr(transformers, names[1]).from_pretrained(folders[family])
    for k, picture in enumerate(pictures):
        given = transform(Image.fromarray(picture), return_tensors="pt")
        found = model(**{name: given[name] for name in ("pixel_values", "pixel_mask") if name in given})
        theirs = transform.post_process_object_detection(found, threshold=0.0)[0]
        distance = torch.cdist(features[k], found.last_hidden_state[0])
        assert distance.amin(1).max() < 1e-4
        chosen = distance.argmin(1)
        assert len(set(chosen.tolist())) == 4
        probability = detector.probabilities(found.logits)[0]
        assert torch.equal(chosen, probability.argsort(descending=True)[:4])
        assert float(probability.max()) == pytest.approx(float(theirs["scores"].max()), abs=1e-5)
        top = theirs["boxes"][theirs["scores"].argmax()].clamp(0, 1)
        torch.testing.assert_close(boxes[k, 0], top, atol=1e-4, rtol=0)
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert (features[0] - features[1]).abs().max() > 1e-3  # pictures are told apart


def test_no_picture_depends_on_its_company(detector: Detector, photos: Path) -> None:
    pictures = [decode(path) for path in sorted(photos.rglob("*.png"))]
    together = detector.regions_of([*pictures, pictures[0]])
    for k, picture in enumerate(pictures):
        for alone, all_of_them in zip(detector.regions_of([picture]), together, strict=True):
            torch.testing.assert_close(alone[0], all_of_them[k], atol=1e-5, rtol=1e-5)


def test_a_data_folder_becomes_features_that_train(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_pictures(tmp_path / "colours", {"train": 8, "dev": 4}), tmp_path / "out" / "colours"
    words = ["extract", "regions", str(data), "-o", str(out), "--detector", str(folders["rt_detr"]), "--regions", "6"]
    assert main(words) == 0
    assert f"'{out}' train: 8 images x 6 regions x 32, 8 computed now" in capsys.readouterr().out
    for name, count in (("train", 8), ("dev", 4)):
        before, split = open_split(data, name), open_split(out, name)
        assert isinstance(split.images, RegionFeatures)
        assert split.images.read([0]).values.shape == (1, 6, 32)
        assert split.n_images == count
        assert (split.image_ids, split.captions) == (before.image_ids, before.captions)
        assert split.owner.tolist() == before.owner.tolist()
        assert split.boxes is not None
        assert split.boxes.shape == (count, 6, 4)
    made = recipe("vse_inf", out, {"model": {"image": {"width": 32}}, "train": {"epochs": 1, "batch_size": 8}})
    train(made, tmp_path / "run")
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr().out
    assert [one["computed"] for one in json.loads(said[said.index("[") :])] == [0, 0]


def test_the_named_data_set_is_read_and_no_other(
    folders: dict[str, Path], detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "both"
    for name, count in (("colours", 3), ("shades", 5)):
        write_pictures(home / f"{name}_precomp", {"train": count})
    words: list[str | Path] = ["extract", "regions", home, "-o", tmp_path / "out", "--detector", folders["detr"]]
    words += ["--regions", "4", "--name"]
    assert main([str(word) for word in [*words, "shades"]]) == 0
    assert "train: 5 images x 4 regions" in capsys.readouterr().out
    assert open_split(tmp_path / "out", "train").image_ids == [f"train_{k}.png" for k in range(5)]
    assert "no known data set called 'greys'" in refused([*words, "greys"], capsys, kind="DataError")
    shutil.rmtree(home / "colours_precomp" / "images")
    with pytest.raises(DataError, match=r"^colours/train: a detector needs pictures"):
        extract_regions(home, tmp_path / "more", detector, name="colours")
    with pytest.raises(ConfigError, match="is where the captions are read"):  # and would be written over
        extract_regions(home, home / "shades_precomp", detector, name="shades")


def test_pictures_alone_have_no_name(detector: Detector, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known data set called 'f30k'"):
        extract_regions(photos, tmp_path / "out", detector, name="f30k")
    assert not (tmp_path / "out").exists()


def test_captions_may_differ_in_number(folders: dict[str, Path], detector: Detector, tmp_path: Path) -> None:
    home = tmp_path / "mine"
    home.mkdir()
    rows = [("a.png", ["one", "two words", "three"]), ("b.png", ["four"]), ("c.png", ["five", "six"])]
    for k, (name, _) in enumerate(rows):
        noise(home / name, 40, 50, k)
    lines = [json.dumps({"image": name, "split": "train", "captions": told}) for name, told in rows]
    (home / "captions.jsonl").write_text("\n".join(lines))
    extract_regions(home, tmp_path / "out", detector)
    split = open_split(tmp_path / "out", "train")
    assert split.captions == [caption for _, told in rows for caption in told]
    assert split.owner.tolist() == [0, 0, 0, 1, 2, 2]


def test_pictures_alone_and_broken_ones(detector: Detector, photos: Path, tmp_path: Path) -> None:
    (photos / "b.jpg").write_bytes(b"no picture")
    (photos / "deep" / "z.png").write_bytes((photos / "deep" / "c.png").read_bytes()[:90])
    (one,) = extract_regions(photos, tmp_path / "out", detector, batch=2)
    assert (one.split, one.images, one.skipped, one.computed) == ("all", 4, 2, 4)
    listed = [json.loads(line) for line in (tmp_path / "out" / "all_skipped.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in listed] == ["b.jpg", "z.png"]
    assert "not a decodable picture" in listed[0]["reason"]
    split = open_split(tmp_path / "out", "all")
    assert split.image_ids == ["a_red dog.png", "deep/c.png", "deep/er/d.png", "é ß.png"]
    assert split.captions == ["a red dog", "c", "d", "é ß"]
    expected = detector.regions_of([decode(photos / name) for name in split.image_ids])
    values = split.require_images().read(range(4)).values
    torch.testing.assert_close(values, expected[0], atol=1e-5, rtol=1e-5)
    assert split.boxes is not None
    torch.testing.assert_close(torch.from_numpy(np.array(split.boxes)), expected[1], atol=1e-5, rtol=0)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_killed_run_goes_on(folders: dict[str, Path], tmp_path: Path) -> None:
    home = tmp_path / "many"
    home.mkdir()
    for k in range(60):
        noise(home / f"{k:03d}.png", 40, 60, k)
    (home / "001.png").write_bytes(b"no picture")
    words: list[str | Path] = ["extract", "regions", home, "--detector", folders["detr"], "--regions", "4"]
    words += ["--batch", "1", "-o"]
    note = tmp_path / "out" / ".all_regions.partial.json"
    process = start(*words, tmp_path / "out")
    wait_for(lambda: note.is_file() and json.loads(note.read_text())["kept"]["count"] >= 3, process)
    process.kill()
    process.communicate()
    done = json.loads(note.read_text())
    assert done["rows"] == done["kept"]["count"] - 1
    assert done["kept"]["count"] < 60
    assert not (tmp_path / "out" / "all_ims.npy").exists()
    (again,) = extract_regions(home, tmp_path / "out", folders["detr"], regions=4, batch=1)
    assert (again.images, again.computed, again.skipped) == (59, 59 - done["rows"], 1)
    extract_regions(home, tmp_path / "whole", folders["detr"], regions=4, batch=1)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_another_detector_or_other_pictures_do_not_go_on(
    folders: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Detector(folders["detr"], regions=4), Detector(folders["conditional_detr"], regions=4)
    save = GrowingArrays.save
    monkeypatch.setattr(GrowingArrays, "save", lambda files, **kept: _stop_after(save, files, **kept))
    with pytest.raises(KeyboardInterrupt):
        extract_regions(photos, tmp_path / "out", one, batch=2)
    monkeypatch.undo()
    assert json.loads((tmp_path / "out" / ".all_regions.partial.json").read_text())["kept"]["count"] == 2
    (made,) = extract_regions(photos, tmp_path / "out", other, batch=2)
    assert made.computed == 5
    with pytest.raises(DataError, match=r"all_ims\.npy' was not made by .* --again"):
        extract_regions(photos, tmp_path / "out", one)
    assert extract_regions(photos, tmp_path / "out", one, again=True)[0].computed == 5
    assert extract_regions(photos, tmp_path / "out", one)[0].computed == 0
    about = tmp_path / "out" / "all_regions.json"
    (tmp_path / "out" / "all_pictures.jsonl").unlink()  # as in folders of older versions
    assert extract_regions(photos, tmp_path / "out", one)[0].computed == 0
    noise(photos / "new.png", 20, 20, 7)
    with pytest.raises(DataError, match="by an older version that kept no list"):
        extract_regions(photos, tmp_path / "out", one)
    about.write_text(json.dumps({"unfinished": True}))  # killed while files were put into place: nothing is trusted
    assert extract_regions(photos, tmp_path / "out", one)[0].computed == 6


def test_only_new_and_changed_pictures_are_computed(detector: Detector, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert extract_regions(photos, out, detector)[0].computed == 5
    noise(photos / "0 first.png", 33, 44, 20)
    noise(photos / "deep" / "new.png", 44, 33, 21)
    noise(photos / "b.jpg", 30, 30, 22)  # another picture of the same name
    (photos / "deep" / "er" / "d.png").unlink()
    (one,) = extract_regions(photos, out, detector, batch=2)
    assert (one.images, one.computed, one.skipped) == (6, 3, 1)
    extract_regions(photos, tmp_path / "whole", detector, batch=2)
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    for path in sorted((tmp_path / "whole").iterdir()):
        if path.suffix != ".npy":
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name
        else:
            np.testing.assert_allclose(np.load(out / path.name), np.load(path), rtol=1e-5, atol=1e-5)
    assert extract_regions(photos, out, detector)[0].computed == 0
    (photos / "broken.png").unlink()
    (one,) = extract_regions(photos, out, detector)
    assert (one.images, one.computed, one.skipped) == (6, 0, 0)


def test_a_killed_extension_leaves_the_features_as_they_were(
    detector: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    extract_regions(photos, out, detector)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for k in range(3):
        noise(photos / f"z{k}.png", 30, 40, 30 + k)
    save = GrowingArrays.save
    monkeypatch.setattr(GrowingArrays, "save", lambda files, **kept: _stop_after(save, files, **kept))
    with pytest.raises(KeyboardInterrupt):
        extract_regions(photos, out, detector, batch=2)
    monkeypatch.undo()
    assert {name: (out / name).read_bytes() for name in before} == before
    assert open_split(out, "all").n_images == 5
    (one,) = extract_regions(photos, out, detector, batch=2)
    assert (one.images, one.computed) == (8, 1)  # two of the three were computed before


def _stop_after(save: Any, files: GrowingArrays, **kept: Any) -> None:
    save(files, **kept)
    raise KeyboardInterrupt


def test_what_can_not_be_done_is_refused(
    folders: dict[str, Path], detector: Detector, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detr, out = folders["detr"], tmp_path / "out"
    with pytest.raises(ConfigError, match="This detector has 9 queries: ask for 1 to 9"):
        Detector(detr)
    with pytest.raises(CheckpointError, match="describes a 'bert' model"):
        Detector(write_bert(tmp_path / "bert"))
    cut = tmp_path / "cut"
    shutil.copytree(detr, cut)
    weights = load_file(cut / "model.safetensors")
    name = next(key for key in sorted(weights) if "decoder" in key)
    save_file({k: v for k, v in weights.items() if k != name}, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights"):
        Detector(cut, regions=4)
    with pytest.raises(ConfigError, match="is the data folder itself"):
        extract_regions(photos, photos, detector)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        extract_regions(tmp_path / "empty", out, detector)
    with pytest.raises(DataError, match="its one split is 'all'"):
        extract_regions(photos, out, detector, splits=["train"])
    for path in photos.rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 5 pictures"):
        extract_regions(photos, out, detector)
    said = refused(["extract", "regions", photos, "--detector", detr], capsys, kind="ConfigError")
    assert "regions are made by a detector" in said
    said = refused(["extract", "clip", photos], capsys, kind="ConfigError")
    assert "patchword extract clip DIR --clip MODEL" in said


def test_pictures_inside_a_table_are_told_apart_by_their_bytes(tmp_path: Path, detector: Detector) -> None:
    def put(seed: int) -> None:
        noise(tmp_path / "x.png", 40, 30, seed)
        stored = {"bytes": (tmp_path / "x.png").read_bytes(), "path": None}
        table = datasets.Dataset.from_dict({"image": [stored], "caption": ["x"]})
        table.to_parquet(tmp_path / "data" / "test-0.parquet")

    (tmp_path / "data").mkdir()
    out, rows = tmp_path / "out", []
    for seed, computed in ((0, 1), (0, 0), (1, 1)):
        put(seed)
        (one,) = extract_regions(tmp_path / "data", out, detector)
        assert one.computed == computed
        rows.append(np.load(out / "test_ims.npy").copy())
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])
