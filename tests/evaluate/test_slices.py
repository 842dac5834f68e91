"""Parts of the queries add up to all of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import noisy_scores, queries_in, toy_model, toy_split

from patchword.cli import main
from patchword.data.extras import find_extras
from patchword.data.scenes import PRECOMP, write_scenes
from patchword.data.scenes_regions import REGION_WIDTH
from patchword.errors import DataError
from patchword.evaluate.slices import annotated_objects, objects_of, slice_queries, slices_table

OWNER = np.repeat(np.arange(10), [1, 2, 3, 1, 2, 3, 1, 2, 3, 2])
M = len(OWNER)
QUERIES = queries_in(noisy_scores(OWNER, 10, strength=0.5), OWNER)


def test_parts_add_up_to_the_whole() -> None:
    captions = [" ".join(["w"] * (k % 18 + 1)) + f" {k}" for k in range(M)]
    objects = np.array([0, 1, 2, 3, 4, 5, 7, 8, 20, 1])
    slices = slice_queries(QUERIES, captions, objects=objects)
    groups = {(one.group, one.direction) for one in slices}
    assert groups == {
        ("words in the caption", "t2i"),
        ("captions of the image", "i2t"),
        ("objects in the image", "i2t"),
        ("objects in the image", "t2i"),
    }
    metrics = QUERIES.metrics()
    for group, way in groups:
        parts = [one for one in slices if (one.group, one.direction) == (group, way)]
        total = sum(one.queries for one in parts)
        assert total == (10 if way == "i2t" else M)
        mean = sum(one.recalls[0] * one.queries for one in parts) / total
        assert mean == pytest.approx(metrics[0 if way == "i2t" else 3])
    names = [one.name for one in slices if one.group == "words in the caption"]
    assert names == ["up to 8", "9 to 10", "11 to 12", "13 to 15", "16 or more"]
    names = [one.name for one in slices if one.group == "objects in the image" and one.direction == "i2t"]
    assert names == ["up to 1", "2", "3 to 4", "5 to 7", "8 or more"]
    assert "objects in the image: 2" in slices_table(slices)
    assert slices[0].to_json()["slice"] == "up to 8"


def test_repeated_texts_are_told_apart() -> None:
    captions = [f"caption {k}" for k in range(M)]
    captions[1] = captions[2]  # the same image
    captions[3] = captions[12]  # another one
    found = {one.name: one.queries for one in slice_queries(QUERIES, captions) if one.group == "text of the caption"}
    assert found == {"only here": M - 4, "repeated for the same image": 2, "repeated for another image": 2}


def test_one_kind_alone_is_no_slice() -> None:
    owner = np.arange(6)
    queries = queries_in(noisy_scores(owner, 6), owner)
    assert slice_queries(queries, [f"two words {k}" for k in range(6)]) == ()
    assert slices_table(()) == ""


def test_the_number_of_objects_is_a_side_input(tmp_path: Path) -> None:
    split = toy_split([str(k) for k in range(4)])
    assert objects_of(split) is None
    np.save(tmp_path / "test_ims_objects.npy", np.array([3, 1, 0, 9]))
    known = replace(split, image_extras=find_extras(tmp_path, "test", "ims", 4)[0])
    counts = objects_of(known)
    assert counts is not None
    assert counts.tolist() == [3, 1, 0, 9]
    np.save(tmp_path / "test_ims_objects.npy", np.zeros((4, 2)))
    with pytest.raises(DataError, match="Expected one number an image"):
        objects_of(replace(split, image_extras=find_extras(tmp_path, "test", "ims", 4)[0]))


def test_the_number_of_objects_comes_from_coco_annotations(tmp_path: Path) -> None:
    things = {391895: 3, 60623: 1, 7: 0}
    found = [{"image_id": image, "category_id": 1 + k} for image, n in things.items() for k in range(n)]
    content = {"images": [{"id": image} for image in things], "annotations": found}
    path = tmp_path / "instances_val2014.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    ids = ["COCO_val2014_000000060623.jpg", "391895", "000000000007.jpg"]
    counts = annotated_objects(tmp_path, ids)
    assert counts.tolist() == annotated_objects(path, ids).tolist() == [1, 3, 0]
    owner = np.repeat(np.arange(3), 2)
    slices = slice_queries(queries_in(noisy_scores(owner, 3), owner), objects=counts)
    assert {(one.name, one.direction): one.queries for one in slices} == {
        ("up to 1", "i2t"): 2,
        ("3 to 4", "i2t"): 1,
        ("up to 1", "t2i"): 4,
        ("3 to 4", "t2i"): 2,
    }
    with pytest.raises(DataError, match=r"does not list 1 of 2 images \('8'\)\. Expected the annotations"):
        annotated_objects(path, ["7", "8.jpg"])
    with pytest.raises(DataError, match="tells images by their ids, which the scores have not"):
        annotated_objects(path, None)


def test_scenes_know_their_number_of_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scenes(tmp_path / "scenes", train=1, dev=1, test=24)
    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    things = [len(record["things"]) for record in records if record["split"] == "test"]
    model = toy_model(width=REGION_WIDTH)
    model.save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(folder), "--slices"]
    assert main([*words, "--json"]) == 0
    parts = {(one["slice"], one["direction"]): one["queries"] for one in json.loads(capsys.readouterr().out)["slices"]
             if one["group"] == "objects in the image"}  # fmt: skip
    few = sum(n <= 4 for n in things)
    assert parts == {
        ("3 to 4", "i2t"): few,
        ("5 to 7", "i2t"): 24 - few,
        ("3 to 4", "t2i"): 5 * few,
        ("5 to 7", "t2i"): 5 * (24 - few),
    }
    assert 0 < few < 24
    assert main(words) == 0
    assert "objects in the image: 5 to 7" in capsys.readouterr().out
    assert main(["doctor", "data", str(folder)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    # Scenes that were made before the file was written are evaluated as before, and are still the same scenes.
    for split in ("train", "dev", "test"):
        (folder / PRECOMP / f"{split}_ims_objects.npy").unlink()
    assert main(words) == 0
    assert "objects in the image" not in capsys.readouterr().out
    assert write_scenes(folder, train=1, dev=1, test=24) == folder
