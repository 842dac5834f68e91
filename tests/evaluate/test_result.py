"""An evaluation as a whole: what it says about itself, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patchword.data.table import Split
from patchword.errors import ScoreError
from patchword.evaluate.official import OFFICIAL, official_ids
from patchword.evaluate.protocols import PROTOCOLS
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.scores_file import Provenance, load_scores, save_scores


@pytest.fixture(autouse=True)
def the_ids_here_are_official(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, official in OFFICIAL.items():
        ids = [f"im{i}" for i in range(PROTOCOLS[name].images)]
        monkeypatch.setitem(OFFICIAL, name, official_ids(official.form, ids))


def split_of(n: int, dataset: str = "f30k", name: str = "test", each: int = 5) -> Split:
    captions = [f"caption {j}" for j in range(n * each)]
    return Split(dataset, name, [f"im{i}" for i in range(n)], captions, np.arange(n * each) // each)


def scores_of(split: Split, strength: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(0)
    scores = rng.random((split.n_images, split.n_captions)).astype(np.float32)
    scores[split.owner, np.arange(split.n_captions)] += np.float32(strength)
    return scores


def test_official_rows_get_the_official_name_and_say_everything() -> None:
    split = split_of(1000)
    where = Provenance(method="chan", checkpoint="runs/a/best", selected_on="dev", encode_s=12.34, score_s=0.5)
    result = evaluate_scores(scores_of(split), split, provenance=where)
    assert result.protocol == "f30k-1k"
    table = result.table()
    for text in (
        "protocol f30k-1k: Flickr30K test, 1,000 images",
        "split f30k/test: 1,000 images, 5,000 captions (5 per image); checkpoint selected on: dev",
        "image -> text",
        "text -> image",
        "(random scores: 3.2)",
        "R@K = % of queries with at least one right answer",
        "model chan runs/a/best",
        "ids: 1,000 unique image ids of f30k/test (official ids, official order); scores: float32, 0 not scored",
        "time: encoding 12.3 s, scoring 0.5 s",
    ):
        assert text in table
    assert "warning" not in table
    assert result.used_for_selection is False


def test_json_holds_the_whole_contract_at_full_precision() -> None:
    split = split_of(10)
    result = evaluate_scores(scores_of(split, 0.1), split)
    content = json.loads(json.dumps(result.to_json()))
    assert content["protocol"] == "generic"
    assert content["captions_per_image"] == {"5": 10}
    assert content["denominators"] == {"i2t": 10, "t2i": 50, "folds": 1}
    assert content["gallery_additions"] == {"images": 0, "captions": 0}
    assert content["non_finite"] == {"nan": 0, "plus_inf": 0, "minus_inf": 0}
    assert content["rsum"] == result.headline.rsum
    assert content["i2t"]["meanr"] == result.headline.i2t.meanr
    assert content["ties"]["optimistic"]["rsum"] >= content["ties"]["expected"]["rsum"] - 1e-9
    assert (content["selected_on"], content["used_for_selection"], content["folds"]) == ("", None, None)
    assert {"split", "id_check", "dtype", "encode_s", "score_s", "method", "checkpoint", "chance"} <= set(content)


@pytest.fixture(scope="module")
def coco() -> tuple[Split, np.ndarray]:
    """The official size without the memory: every image scores its own captions 1, the others less."""
    split = split_of(5000, "coco", "testall")
    scores = np.zeros((5000, 25000), dtype=np.float16)
    scores += np.linspace(0, 0.5, 25000, dtype=np.float16)
    scores[split.owner, np.arange(25000)] = 1
    return split, scores


def test_coco_in_five_folds(coco: tuple[Split, np.ndarray]) -> None:
    split, scores = coco
    result = evaluate_scores(scores, split, protocol="coco-1k-5fold")
    assert result.folds is not None
    assert result.folds.numbers.shape == (5, 13)
    assert result.to_json()["denominators"] == {"i2t": 1000, "t2i": 5000, "folds": 5}
    assert result.table().startswith("protocol coco-1k-5fold: COCO 1K, mean of 5 folds\n")
    assert result.chance.rsum == pytest.approx(3.2, abs=0.01)
    assert result.headline.rsum == 600


def test_auto_takes_the_whole_of_coco(coco: tuple[Split, np.ndarray]) -> None:
    split, scores = coco
    result = evaluate_scores(torch.from_numpy(scores), split)
    assert (result.protocol, result.dtype, result.folds) == ("coco-5k", "float16", None)


def test_a_short_result_does_not_get_the_name() -> None:
    split = split_of(1000).limit(900)
    assert evaluate_scores(scores_of(split), split).protocol == "generic"
    assert "limited to the first 900" in evaluate_scores(scores_of(split), split).table()
    with pytest.raises(ScoreError, match="found 900 and 4,500"):
        evaluate_scores(scores_of(split), split, protocol="f30k-1k")
    first = split_of(1000, "coco")
    assert evaluate_scores(scores_of(first), first).protocol == "generic"
    assert evaluate_scores(scores_of(first), first, protocol="coco-1k-first-fold").protocol == "coco-1k-first-fold"


@pytest.mark.parametrize(
    ("selected_on", "split", "expected"),
    [
        ("dev", "test", False),
        ("test", "test", True),
        ("test", "testall", True),
        ("", "test", None),
        ("?", "test", None),
    ],
)
def test_selection_on_the_same_rows_is_said(selected_on: str, split: str, expected: bool | None) -> None:
    rows = split_of(4, "coco", split)
    result = evaluate_scores(scores_of(rows), rows, provenance=Provenance(selected_on=selected_on))
    assert result.used_for_selection is expected
    assert ("chosen on this split" in result.table()) == bool(expected)


@pytest.mark.parametrize(
    ("trained_on", "split", "expected"),
    [("train", "train", True), ("train", "dev", False), ("", "train", False), ("train + Training", "train2014", True)],
)
def test_training_on_the_same_split_is_said(trained_on: str, split: str, expected: bool) -> None:
    rows = split_of(4, "coco", split)
    result = evaluate_scores(scores_of(rows), rows, provenance=Provenance(trained_on=trained_on))
    assert (result.used_for_training, result.to_json()["used_for_training"]) == (expected, expected)
    assert ("trained on this split" in result.table()) == expected


def test_ties_are_reported_and_warned_about() -> None:
    split = split_of(20)
    result = evaluate_scores(np.zeros((20, 100), dtype=np.float32), split)
    assert result.headline.rsum == 0
    assert "ties: 20 of 20 image queries, 100 of 100 caption queries; rsum 0.0 with ties lost" in result.table()
    assert "warning: ties move R@1 by 100.0 points" in result.table()


def test_rows_and_columns_that_score_everything_alike_are_counted() -> None:
    split = split_of(20)
    scores = scores_of(split)
    scores[3] = 0.25
    scores[:, 7] = 0.5
    scores[3, 7] = 0.5
    result = evaluate_scores(scores, split)
    assert result.constant == (0, 1)
    scores[3, 7] = 0.25
    result = evaluate_scores(scores, split)
    assert result.to_json()["constant"] == {"images": 1, "captions": 0}
    assert "1 images score all captions alike and 0 captions score all images alike" in result.table()


def test_intervals_hold_the_numbers() -> None:
    split = split_of(40)
    result = evaluate_scores(scores_of(split, 0.5), split)
    low, high = result.intervals.of("rsum")
    assert low < result.headline.rsum < high
    assert f"95% intervals over queries: rsum {low:.1f} to {high:.1f}" in result.table()
    assert result.to_json()["intervals"]["rsum"] == [low, high]
    assert result.queries.metrics()[-1] == pytest.approx(result.headline.rsum)


def test_uneven_captions_and_repeated_texts() -> None:
    split = replace(split_of(3, each=2), owner=np.array([0, 1, 1, 1, 2, 2]), captions=["a", "b", "c", "d", "a", "e"])
    result = evaluate_scores(scores_of(split), split)
    assert result.captions_per_image == {1: 1, 2: 1, 3: 1}
    assert "(1 with 1, 1 with 2, 1 with 3)" in result.table()
    assert "1 captions repeat the text of another one" in result.table()


def test_pruned_pairs_are_reported() -> None:
    split = split_of(4)
    scores = scores_of(split)
    scores[0, 19] = -np.inf
    with pytest.raises(ScoreError, match="1 of 80 scores are not finite"):
        evaluate_scores(scores, split)
    result = evaluate_scores(scores, split, allow_pruned=True)
    assert result.to_json()["non_finite"]["minus_inf"] == 1
    assert "1 pairs were not scored" in result.table()


def saved_and_evaluated(path: Path, split: Split) -> Evaluation:
    """Write scores of the split and evaluate the file."""
    where = Provenance(split.dataset, split.name, method="chan", selected_on="dev")
    ids, captions = split.image_ids, split.captions
    save_scores(path, scores_of(split), image_ids=ids, captions=captions, owner=split.owner, provenance=where)
    return evaluate_scores(load_scores(path))


def test_a_saved_matrix_evaluates_to_the_same(tmp_path: Path) -> None:
    split = split_of(1000)
    direct = evaluate_scores(scores_of(split), split)
    saved = saved_and_evaluated(tmp_path / "s.safetensors", split)
    assert saved.recall == direct.recall
    assert (saved.protocol, saved.provenance.method) == ("f30k-1k", "chan")
    assert saved.id_check == "1,000 unique image ids in the file (official ids, official order)"


def test_a_saved_matrix_is_checked_against_the_split(tmp_path: Path) -> None:
    split = split_of(6)
    saved_and_evaluated(tmp_path / "s.safetensors", split)
    saved = load_scores(tmp_path / "s.safetensors")
    assert evaluate_scores(saved, split).id_check.endswith("and all captions equal the file's")
    other = replace(split, image_ids=["x", *split.image_ids[1:]])
    with pytest.raises(ScoreError, match=r"image id of row 0 is 'im0' in '.*s\.safetensors' but 'x' in 'f30k/test'"):
        evaluate_scores(saved, other)
    with pytest.raises(ScoreError, match="caption digest of column 1"):
        evaluate_scores(saved, replace(split, captions=["caption 0", "new", *split.captions[2:]]))
    with pytest.raises(ScoreError, match=r"is \(6, 30\), but f30k/test has 5 images and 25 captions"):
        evaluate_scores(saved, split.limit(5))
    bare = replace(saved, image_ids=None, caption_digests=None)
    assert evaluate_scores(bare, split).id_check.startswith("not checked: only sizes compared")
    assert evaluate_scores(bare).id_check == "not checked: the scores have none"
    with pytest.raises(ScoreError, match="keeps another image of each caption"):
        evaluate_scores(saved, split.owner[::-1].copy())


def test_a_plain_matrix_needs_a_ground_truth() -> None:
    with pytest.raises(ScoreError, match="No ground truth"):
        evaluate_scores(np.zeros((2, 2)))
    assert evaluate_scores(np.eye(2), np.array([0, 1])).id_check == "not checked: the scores have none"
    with pytest.raises(ScoreError, match="ground truth has 2 images and 3 captions"):
        evaluate_scores(np.eye(2), np.array([0, 1, 1]))
