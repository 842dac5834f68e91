"""RoCOCO: altered captions in the gallery, against a plain computation."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import toy_model, toy_split

from patchword.errors import DataError
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.rococo import evaluate_attack, find_attacks, read_attack, rococo_report

SPLIT = toy_split([str(k) for k in range(1, 9)])
SCORER = ModelOnSplit(toy_model(), SPLIT)
THINGS = ("dog", "cat", "ball", "tree", "car", "boat")


def write_attack(path: Path, images: list[int], originals: int = 3) -> Path:
    draw = np.random.default_rng(0)
    rows = []
    for image in images:
        texts = [" ".join(draw.choice(THINGS, draw.integers(2, 6))) for _ in range(originals + image % 2 + 5)]
        rows.append({"image": f"val2014/COCO_val2014_{image:012d}.jpg", "caption": texts})
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_equals_a_plain_computation(tmp_path: Path) -> None:
    attack = read_attack(write_attack(tmp_path / "danger.json", [3, 1, 8, 5]))
    assert attack.is_altered.sum() == 20
    result = evaluate_attack(SCORER, attack)
    scores = SCORER.model.score(SCORER.encode_images([2, 0, 7, 4]), SCORER.encode_captions(attack.captions)).numpy()
    clean, attacked, fooled = [], [], []
    for row, line in enumerate(scores):
        right = (attack.owner == row) & ~attack.is_altered
        best = line[right].max()
        wrong = ~right
        attacked.append(int((line[wrong] >= best).sum()))
        clean.append(int((line[wrong & ~attack.is_altered] >= best).sum()))
        fooled.append(line[attack.is_altered].max() >= line[~attack.is_altered].max())
    assert result.clean.pessimistic.tolist() == clean
    assert result.attacked.pessimistic.tolist() == attacked
    assert result.fooled.tolist() == fooled
    numbers = result.to_json()
    assert numbers["gallery"] == {"original": len(attack.captions) - 20, "altered": 20}
    assert numbers["r1_drop"] == numbers["clean"]["r1"] - numbers["attacked"]["r1"]
    both = zip(result.clean.pessimistic < 1, result.attacked.pessimistic < 1, result.fooled, strict=True)
    each = np.array([(100.0 * a, 100.0 * b, 100.0 * (a - b), c) for a, b, c in np.array(list(both), dtype=float)])
    drawn = each[np.random.default_rng(0).integers(0, 4, (250, 4))].mean(1)  # the first rounds
    for k, name in enumerate(("clean r1", "attacked r1", "r1_drop", "false_rate")):
        low, high = numbers["intervals"][name]
        assert drawn[:, k].min() <= low <= each[:, k].mean() <= high <= drawn[:, k].max()
    spread = rococo_report([result]).tables[1]
    assert spread[0][0] == "95% interval"
    assert spread[1][0][-1] == result.intervals.shown("false_rate", times=100.0)


def test_missing_images_leave_with_their_captions_and_are_named(tmp_path: Path) -> None:
    attack = read_attack(write_attack(tmp_path / "danger.json", [3, 77, 8, 99]))
    result = evaluate_attack(SCORER, attack)
    assert result.images.missing == ("77", "99")
    assert result.captions[1] == 10
    report = rococo_report([result])
    assert report.name == "rococo (partial)"
    assert "2 of 4 images of RoCOCO are not in this split ('77', '99')" in report.table()
    json.dumps(report.to_json(), allow_nan=False)


def test_an_altered_caption_that_ties_counts_as_first(tmp_path: Path) -> None:
    path = tmp_path / "danger.json"
    same = [{"image": "1", "caption": ["a dog"] * 6}, {"image": "2", "caption": ["a dog"] * 6}]
    path.write_text(json.dumps(same), encoding="utf-8")
    result = evaluate_attack(SCORER, read_attack(path))
    assert result.fooled.all()
    assert result.to_json()["attacked"]["r1"] == 0.0


def test_files_are_found_and_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has none of rand_voca\.json"):
        find_attacks(tmp_path)
    path = write_attack(tmp_path / "danger.json", [1])
    assert find_attacks(tmp_path) == [path]
    assert find_attacks(path) == [path]
    path.write_text(json.dumps([{"image": "1", "caption": ["a"] * 5}]), encoding="utf-8")
    with pytest.raises(DataError, match="row 0 has 5 captions"):
        read_attack(path)
