"""Evaluation without a score matrix: the same numbers as with one, and what it can not do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_toys import WIDTH, Rows, toy_model, toy_split
from small import refused

import patchword
from patchword.cli import main
from patchword.errors import ConfigError, ScoreError
from patchword.evaluate import result as result_module
from patchword.evaluate import streamed
from patchword.evaluate.one_model import evaluate_model
from patchword.evaluate.protocols import Protocol
from patchword.evaluate.run import evaluate
from patchword.model import Model

FROM_SCORES = ("dtype", "encode_s", "score_s", "notes")


def plain(result: Any) -> dict[str, Any]:
    """What does not depend on how the ranks were found."""
    return {key: value for key, value in result.to_json().items() if key not in FROM_SCORES}


@pytest.mark.parametrize(("kind", "how"), [("vse_inf", "streamed"), ("chan", "streamed"), ("chan", "certified")])
def test_equals_the_matrix(kind: str, how: Any) -> None:
    model, split = toy_model(kind), toy_split([str(k) for k in range(12)])
    wanted, found = evaluate(model, split), evaluate(model, split, ranks=how)
    assert plain(found) == plain(wanted)
    for side in ("i2t", "t2i"):
        for part in ("greater", "equal", "positives"):
            numbers = [getattr(getattr(one.queries, side), part).tolist() for one in (found, wanted)]
            assert numbers[0] == numbers[1]
    assert any(note.startswith("certified ranks: ") for note in found.notes) == (how == "certified")


def test_folds_are_ranked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (streamed, result_module):
        monkeypatch.setattr(module, "choose_protocol", lambda *_: Protocol("coco-1k-5fold", "five blocks", folds=5))
    model, split = toy_model("chan"), toy_split([str(k) for k in range(20)])
    wanted, found = evaluate_model(model, split)[0], streamed.evaluate_streamed(model, split)
    assert found.folds is not None
    assert len(found.folds.folds) == 5
    assert plain(found) == plain(wanted)


def test_constant_scores_are_found_without_a_matrix() -> None:
    split = toy_split(["1", "2", "3"])
    alike = replace(split, images=Rows(torch.ones(3, 4, WIDTH)))
    model = toy_model()
    wanted, found = evaluate(model, alike), evaluate(model, alike, ranks="streamed")
    assert found.constant == wanted.constant
    assert found.constant[1] == alike.n_captions


def test_what_needs_the_matrix_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, split = toy_model(), toy_split(["1", "2"])
    with pytest.raises(ConfigError, match="keep no score matrix"):
        evaluate(model, split, ranks="streamed", save_to=tmp_path / "s.safetensors")
    with pytest.raises(ConfigError, match="keep no score matrix"):
        evaluate([model, model], split, ranks="streamed")
    words = ["evaluate", "run", "--data", "data", "--ranks", "certified"]
    for more in (["--save-scores", "s"], ["--html", "h"]):
        assert f"{more[0]} does not go with --ranks certified" in refused([*words, *more], capsys, kind="ConfigError")
    assert "needs one run and its data" in refused(["evaluate", "a", "b", *words[2:]], capsys, kind="ConfigError")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", draw.normal(size=(6, 4, WIDTH)).astype(np.float32))
    split = toy_split([str(k) for k in range(6)])
    (tmp_path / "test_caps.txt").write_text("".join(f"{text}\n" for text in split.captions), encoding="utf-8")
    toy_model("chan").save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path), "--slices", "--json"]
    found = []
    for how in ("matrix", "certified"):
        assert main([*words, "--ranks", how, "--per-query", str(tmp_path / f"{how}.jsonl")]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["rsum"] == found[1]["rsum"]
    lines = [(tmp_path / f"{how}.jsonl").read_text().splitlines() for how in ("matrix", "certified")]
    whole, ranks = ([json.loads(line) for line in some] for some in lines)
    assert ranks == [{key: value for key, value in line.items() if not key.startswith("best_")} for line in whole]
    assert found[0]["slices"] == found[1]["slices"]


def test_slices_by_the_annotated_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = toy_split(["7", "9"])
    np.save(tmp_path / "test_ims.npy", np.ones((2, 4, WIDTH), dtype=np.float32))
    (tmp_path / "test_caps.txt").write_text("".join(f"{text}\n" for text in split.captions), encoding="utf-8")
    (tmp_path / "test_ids.txt").write_text("7\n9\n")
    toy_model("chan").save(tmp_path / "run")
    objects = [{"image_id": 7, "category_id": 1}] * 3 + [{"image_id": 9, "category_id": 2}]
    listed = {"images": [{"id": 7}, {"id": 9}], "annotations": objects, "categories": [{"id": 1}, {"id": 2}]}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(listed))
    words = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path), "--annotations", str(tmp_path)]
    assert main([*words, "--slices", "--json"]) == 0
    parts = [part for part in json.loads(capsys.readouterr().out)["slices"] if part["group"] == "objects in the image"]
    assert sorted({part["slice"] for part in parts}) == ["3 to 4", "up to 1"]
    assert "does not go with a named protocol without --slices" in refused(words, capsys, kind="ConfigError")


WHY = {
    "vse_inf": r"every item is one vector.*\(5,000 x 25,000 in 3\.4 s\)",
    "cefg": "one constant for all pairs, which leaves 100 % of them open",
    "esl": "leaves 61 to 78 % of the pairs of trained models open",
    "scta": "leaves 69 to 95 % of the pairs of trained models open",
}


@pytest.mark.parametrize("name", WHY)
def test_a_method_without_bounds_says_so_before_it_encodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = toy_model(), toy_split([str(k) for k in range(9)])
    monkeypatch.setattr(type(model.method), "name", name)  # all that the table of bounds asks for
    seen: list[int] = []
    encode = Model.encode_captions
    monkeypatch.setattr(Model, "encode_captions", lambda *a, **k: (seen.append(len(a[1])), encode(*a, **k))[1])
    with pytest.raises(ScoreError, match=rf"{name} has no certified mode: .*{WHY[name]}.*\(--ranks streamed\)\.$"):
        patchword.evaluate(model, split, ranks="certified")
    assert sum(seen) == 2  # the captions of one image
