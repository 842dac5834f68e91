"""Recall over several word banks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import WIDTH, recipe, write_precomp

from patchword.cli import main
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.banks import BankReport, evaluate_banks
from patchword.evaluate.one_model import evaluate_model
from patchword.evaluate.recall import COLUMNS
from patchword.evaluate.result import evaluate_scores
from patchword.methods import scta
from patchword.methods.scta import Scta
from patchword.model import Model
from patchword.train.setup import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_precomp(tmp_path_factory.mktemp("banks") / "data", {"train": 8, "dev": 12})


@pytest.fixture(scope="module")
def split(data: Path) -> Split:
    return open_split(data, "dev")


def model(data: Path, method: str = "scta", **changes: Any) -> Model:
    """Fresh weights; the word condenser is made steep, so that banks differ."""
    image = {"kind": "regions", "width": WIDTH}
    over = {"train": {"select_on": "none", "batch_size": 4}, "model": changes}
    parts = prepare(recipe(method, data, over, image=image))
    if isinstance(parts.method, Scta):
        parts.method.word_condenser.scale.data.fill_(30.0) if method == "scta" else None
    return Model(parts.method.eval(), parts.tokenizer)


@pytest.fixture(scope="module")
def report(data: Path, split: Split) -> BankReport:
    return evaluate_banks(model(data), split, seeds=(0, 3, 5))


def test_every_bank_is_evaluated_by_itself(data: Path, split: Split, report: BankReport) -> None:
    assert report.seeds == (0, 3, 5)
    made = model(data)
    assert isinstance(made.method, Scta)
    images, captions = made.encode_images(split.require_images()), made.encode_captions(split.captions)
    matrices = []
    for row, seed in zip(report.numbers, report.seeds, strict=True):
        with made.method.variant(seed):
            matrices.append(made.score(images, captions))
        np.testing.assert_allclose(row, evaluate_scores(matrices[-1], split).headline.columns)
    assert not torch.allclose(matrices[0], matrices[1], atol=1e-3)
    together = evaluate_scores(torch.stack(matrices).mean(0), split).headline
    np.testing.assert_allclose(report.together.headline.columns, together.columns)


def test_mean_and_deviation(report: BankReport) -> None:
    values = [one.headline.rsum for one in report.each]
    mean, deviation = report.spread("rsum")
    assert mean == pytest.approx(sum(values) / 3)
    assert deviation == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5)
    assert report.to_json()["spread"]["rsum"] == {"mean": mean, "sd": deviation}
    assert set(report.to_json()["spread"]) == set(COLUMNS)
    assert list(report.to_json()["each"]) == ["0", "3", "5"]
    assert f"rsum {mean:.1f} +- {deviation:.1f}" in report.table()
    assert "3 banks (seeds 0, 3, 5)" in report.table()


def test_a_model_that_was_trained_on_the_split_is_warned_about(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model(data)
    made.about = {"trained_on": "dev", "selected_on": "train"}
    made.save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(data), "--split", "dev", "--banks", "2"]
    assert main(words) == 0
    assert "warning: the model was trained on this split" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    said, warned = capsys.readouterr()
    assert "warning: the model was trained on this split" in warned
    together = json.loads(said)["together"]
    assert (together["trained_on"], together["selected_on"]) == ("dev", "train")
    assert together["checkpoint"] == str(tmp_path / "run")


def test_the_stored_bank_is_back_afterwards(data: Path, split: Split) -> None:
    made = model(data)
    assert isinstance(made.method, Scta)
    before = made.method.bank.clone()
    evaluate_banks(made, split, seeds=(1, 2))
    assert torch.equal(made.method.bank, before)


def test_models_without_a_random_part_are_refused(data: Path, split: Split) -> None:
    for method in ("laps", "chan"):
        with pytest.raises(ConfigError, match=f"this {method} hold nothing random"):
            evaluate_banks(model(data, method), split)
    for seeds in ((0,), (0, 0), ()):
        with pytest.raises(ConfigError, match="two or more different"):
            evaluate_banks(model(data), split, seeds=seeds)


# ------------------------------------------------------------------ a layer drawn anew in every evaluation


def test_draws_are_repeated_by_seed(data: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(data, word_head="resample")
    report = evaluate_banks(made, split, seeds=(0, 3))
    torch.manual_seed(9)
    again = evaluate_banks(made, split, seeds=(0, 3))
    assert report.to_json() == again.to_json()
    assert "2 draws (seeds 0, 3)" in report.table()
    assert not np.array_equal(report.numbers[0], report.numbers[1])
    monkeypatch.setattr(scta, "SHARD", 5)  # every five images get draws of their own
    shards = evaluate_banks(made, split, seeds=(0, 3))
    assert shards.to_json() == evaluate_banks(made, split, seeds=(0, 3)).to_json()
    assert shards.together.headline != report.together.headline


def test_a_draw_is_that_of_its_seed_and_shard(data: Path, split: Split) -> None:
    made = model(data, word_head="resample")
    assert isinstance(made.method, Scta)
    images, captions = made.encode_images(split.require_images()), made.encode_captions(split.captions)

    def drawn(*of: int) -> torch.Tensor:
        assert isinstance(made.method, Scta)
        with made.method.variant(*of):
            return made.score(images, captions)

    assert torch.equal(drawn(2, 1), drawn(2, 1))
    for other in ((3, 1), (2, 0)):
        assert not torch.allclose(drawn(2, 1), drawn(*other), atol=1e-3)
    assert not torch.allclose(made.score(images, captions), made.score(images, captions), atol=1e-3)  # as before


def test_the_verb_repeats_draws(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(data, word_head="resample").save(tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--data", str(data), "--split", "dev"]
    said = []
    for _ in range(2):
        assert main([*words, "--banks", "3", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["seeds"] == [0, 1, 2]
    for more in ([], ["--ranks", "streamed"]):
        assert main([*words, *more]) == 0
        assert "of one draw: --banks 5 gives the mean" in capsys.readouterr().out


def test_an_evaluation_says_that_it_is_one_draw(data: Path, split: Split) -> None:
    for changes, is_drawn in (({}, True), ({"word_head": "resample"}, True), ({"word_head": "trained"}, False)):
        result, _ = evaluate_model(model(data, **changes), split)
        assert any("of one draw" in note for note in result.notes) is is_drawn
    assert not any("of one draw" in note for note in evaluate_model(model(data, "laps"), split)[0].notes)
