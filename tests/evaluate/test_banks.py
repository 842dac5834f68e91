"""Recall over several word banks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import WIDTH, recipe, write_precomp

from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.banks import BankReport, evaluate_banks
from patchword.evaluate.recall import COLUMNS
from patchword.evaluate.result import evaluate_scores
from patchword.methods.scta import Scta
from patchword.model import Model
from patchword.train.setup import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_precomp(tmp_path_factory.mktemp("banks") / "data", {"train": 8, "dev": 12})


@pytest.fixture(scope="module")
def split(data: Path) -> Split:
    return open_split(data, "dev")


def model(data: Path, method: str = "scta") -> Model:
    """Fresh weights; the word condenser is made steep, so that banks differ."""
    image = {"kind": "regions", "width": WIDTH}
    parts = prepare(recipe(method, data, {"train": {"select_on": "none", "batch_size": 4}}, image=image))
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
