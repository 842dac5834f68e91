"""Ids against the official lists: other images, other orders, other spellings, and data without ids."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import toy_model, toy_split
from small import refused

from patchword.cli import main
from patchword.data.scenes import PRECOMP, write_scenes
from patchword.data.scenes_regions import REGION_WIDTH
from patchword.data.table import Split
from patchword.errors import ScoreError
from patchword.evaluate.official import OFFICIAL, official_ids, standing
from patchword.evaluate.protocols import PROTOCOLS, Protocol, compare_ids, guess_protocol
from patchword.evaluate.result import evaluate_scores
from patchword.evaluate.run import evaluate
from patchword.evaluate.scores_file import load_scores, save_scores

NUMBERS = [str(7 * k + 3) for k in range(20)]
NAMES = [f"COCO_val2014_{int(number):012d}.jpg" for number in NUMBERS]
RENAMED = [f"holiday {k}" for k in range(20)]


@pytest.fixture(autouse=True)
def small_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two protocols over 20 images, as COCO's over 5,000."""
    entry = official_ids("[0-9]+", NUMBERS)
    for name, folds in (("coco-5k", 1), ("coco-1k-5fold", 5)):
        made = Protocol(name, f"made {name}", "coco", ("testall",), 20, 40, folds)  # type: ignore[arg-type]
        monkeypatch.setitem(PROTOCOLS, name, made)
        monkeypatch.setitem(OFFICIAL, name, entry)


def rows(ids: list[str]) -> tuple[Split, np.ndarray]:
    """A split and its scores."""
    split = toy_split(ids, dataset="coco", name="testall")
    return split, np.random.default_rng(0).random((split.n_images, split.n_captions))


def test_all_spellings_give_one_digest() -> None:
    assert standing("coco-5k", NUMBERS) == "official"
    assert standing("coco-5k", NAMES) == "official"
    assert standing("coco-5k", [f"coco:{number}" for number in NUMBERS]) == "official"
    assert standing("coco-5k", [f"val2014\\{name}" for name in NAMES]) == "official"


def test_a_list_may_be_numbered_in_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL, "coco-5k", official_ids("[0-9]+", NUMBERS, ["900.jpg", "800.jpg"]))
    assert standing("coco-5k", NUMBERS) == standing("coco-5k", ["900", "800"]) == "official"
    assert standing("coco-5k", ["800", "900"]) == "reordered"


def test_official_ids_are_said_to_be() -> None:
    split, scores = rows(NAMES)
    result = evaluate_scores(scores, split)
    assert result.protocol == "coco-5k"
    assert result.id_check == "20 unique image ids of coco/testall (official ids, official order)"
    assert result.warnings == ()


def test_another_order_matters_where_there_are_folds() -> None:
    split, scores = rows(NUMBERS[::-1])
    whole = evaluate_scores(scores, split)
    assert (whole.protocol, whole.warnings) == ("coco-5k", ())
    assert whole.id_check.endswith("(official ids in another order)")
    folds = evaluate_scores(scores, split, protocol="coco-1k-5fold")
    assert folds.id_check.endswith("(official ids in another order)")
    assert "warning: the images are the official ones of coco-1k-5fold in another order: the 5 folds" in folds.table()


def test_other_images_do_not_get_the_name() -> None:
    split, scores = rows([*NUMBERS[1:], "1"])
    result = evaluate_scores(scores, split)
    assert result.protocol == "generic"
    assert "(not the official ids)" in result.table()
    assert "warning: the images are not the official ones of coco-5k: not comparable" in result.table()
    for name in ("coco-5k", "coco-1k-5fold"):
        with pytest.raises(ScoreError, match=rf"{name} expects the 20 images of coco, .* others \(10, 17, 24 \.\.\.\)"):
            evaluate_scores(scores, split, protocol=name)


def test_renamed_images_get_the_name_where_it_is_asked_for() -> None:
    split, scores = rows(RENAMED)
    assert evaluate_scores(scores, split).protocol == "generic"
    asked = evaluate_scores(scores, split, protocol="coco-5k")
    assert asked.protocol == "coco-5k"
    assert len(asked.warnings) == 1
    assert "its name is deserved only if these are the same images under other names" in asked.warnings[0]


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_rows_are_no_ids(first: int) -> None:
    split, scores = rows([str(k + first) for k in range(20)])
    result = evaluate_scores(scores, split, protocol="coco-1k-5fold")
    assert result.id_check.endswith("(official ids not checked: the data have no ids)")
    assert result.warnings == ()


def test_a_score_file_is_checked_by_its_own_ids(tmp_path: Path) -> None:
    split, scores = rows(NUMBERS[::-1])
    where = evaluate_scores(scores, split).provenance
    owner = np.asarray(split.owner)
    path = save_scores(tmp_path / "s.safetensors", scores, image_ids=split.image_ids, captions=split.captions,
                       owner=owner, provenance=where)  # fmt: skip
    saved = load_scores(path)
    result = evaluate_scores(saved, protocol="coco-1k-5fold")
    assert result.id_check == "20 unique image ids in the file (official ids in another order)"
    assert len(result.warnings) == 1
    without = evaluate_scores(replace(saved, image_ids=None), protocol="coco-1k-5fold")
    assert (without.id_check, without.warnings) == ("not checked: the scores have none", ())


@pytest.mark.parametrize("ids", [NUMBERS, RENAMED, NUMBERS[::-1]])
def test_without_a_matrix_the_same_is_said(ids: list[str]) -> None:
    split, _ = rows(ids)
    found = [evaluate(toy_model(), split, ranks=how) for how in ("matrix", "streamed")]  # type: ignore[arg-type]
    assert found[0].id_check == found[1].id_check
    assert found[0].warnings == found[1].warnings
    assert found[0].protocol == found[1].protocol == ("generic" if ids is RENAMED else "coco-5k")


def test_scenes_under_another_name_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROTOCOLS, "f30k-1k", Protocol("f30k-1k", "Flickr30K", "f30k", ("test",), 20, 100))
    folder = (write_scenes(tmp_path / "scenes", train=1, dev=1, test=20) / PRECOMP).rename(tmp_path / "f30k_precomp")
    toy_model(width=REGION_WIDTH).save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(folder), "--name", "f30k", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "generic"
    assert found["id_check"].endswith("of f30k/test (not the official ids)")
    assert "not the official ones of f30k-1k" in found["warnings"][0]
    (folder / "test_ids.txt").write_text("".join(f"{number}\n" for number in NUMBERS), encoding="utf-8")
    said = refused([*words, "--protocol", "f30k-1k"], capsys, kind="ScoreError")
    assert "expects the 20 images of f30k, split test, found the ids of others (3, 10, 17 ...)" in said


def test_nothing_is_said_where_there_is_no_list() -> None:
    assert compare_ids(PROTOCOLS["generic"], NUMBERS, 40, dataset="toy", split="testall").says == ""
    assert compare_ids(PROTOCOLS["coco-5k"], None, 40).says == ""
    assert guess_protocol("coco", "testall", 20, 40).name == "coco-5k"
    assert {name for name in PROTOCOLS if name not in OFFICIAL} == {"generic"}
