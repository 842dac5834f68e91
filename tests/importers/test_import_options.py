"""The authors' options: what becomes of them, and that a refusal names the option as they do."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_authors import Authors
from pydantic import ValidationError

import patchword
from patchword.cli import main
from patchword.config import Config
from patchword.errors import CheckpointError
from patchword.importers import aahr, cefg, chan, esl, hrem, scta, vse_inf
from patchword.importers.checkpoint import IMPORTERS, import_checkpoint
from patchword.importers.options import Option, refusal, settings
from patchword.methods.aahr import AahrConfig, AahrLoss
from patchword.methods.base import LossConfig
from patchword.methods.cefg import CefgConfig
from patchword.methods.chan import ChanConfig
from patchword.methods.hrem import HremConfig, HremLoss
from patchword.methods.scta import LapsConfig, SctaConfig, SctaLoss

MODELS: list[tuple[type[Config], dict[str, Option]]] = [
    (LossConfig, vse_inf.RANKING),
    (LossConfig, chan.LOSS_OPTIONS),
    (LossConfig, cefg.LOSS_OPTIONS),
    (HremLoss, hrem.LOSS_OPTIONS),
    (AahrLoss, aahr.LOSS_OPTIONS),
    (SctaLoss, scta.LOSS_OPTIONS),
    (ChanConfig, chan.CONFIG_OPTIONS),
    (CefgConfig, cefg.CONFIG_OPTIONS),
    (HremConfig, hrem.CONFIG_OPTIONS),
    (AahrConfig, aahr.CONFIG_OPTIONS),
    (SctaConfig, scta.CONFIG_OPTIONS),
    (LapsConfig, scta.LAPS_OPTIONS),
]
GIVEN = {"nhead": 2, "img_sparse_ratio": 0.5, "img_aggr_ratio": 0.3, "cap_aggr_ratio": 0.75}


@pytest.fixture
def gru(golden: Path) -> Authors:
    return Authors(golden, "chan", "chan/case1")


@pytest.mark.parametrize(("model", "table"), MODELS)
def test_every_option_is_named_as_in_the_file(model: type[Config], table: dict[str, Option]) -> None:
    for option in table.values():
        for value in ("abc", float("nan"), [1]):
            options = {**GIVEN, option.name: value}
            with pytest.raises(ValidationError) as refused:
                model.model_validate(settings(options, table))
            said = refusal(refused.value, table, options, "some")
            assert said.startswith(f"option `{option.name}` is {value!r} in the checkpoint: it should be "), said
            assert "\n" not in said


@pytest.mark.parametrize(("model", "table"), MODELS)
def test_a_file_without_an_option_has_its_default(model: type[Config], table: dict[str, Option]) -> None:
    model.model_validate(settings(GIVEN, table))
    for option in table.values():
        if option.may_be_empty:
            assert settings({**GIVEN, option.name: None}, table) == settings(GIVEN, table)


def test_every_importer_has_its_table() -> None:
    for name in IMPORTERS.values():
        module = import_module(name)
        assert set(getattr(module, "CONFIG_OPTIONS", {})) | {"margin", "arch"} <= set(module.OPTIONS)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("margin", -1, "option `margin` is -1 in the checkpoint: it should be greater than or equal to 0."),
        ("margin", None, "option `margin` is None in the checkpoint: it should be a valid number."),
        ("margin", "wide", "option `margin` is 'wide' in the checkpoint: it should be a valid number"),
        ("margin", True, "option `margin` is True in the checkpoint: `margin` is not something that can be true"),
        ("belta", -1.0, "option `belta` is -1.0 in the checkpoint: it should be greater than 0."),
        ("alpha", "warm", "option `alpha` is 'warm' in the checkpoint: it should be a valid number"),
        ("vse_mean_warmup_epochs", 1.5, "option `vse_mean_warmup_epochs` is 1.5 in the checkpoint: it should be a"),
        ("coding_type", [], "option `coding_type` is [] in the checkpoint. Expected one of VHACoding, THACoding"),
        ("margin", ["x" * 99], "option `margin` is ['xxxxxxx"),
    ],
)
def test_an_unusable_option_is_refused_in_one_line(
    gru: Authors, tmp_path: Path, option: str, value: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gru.options[option] = value
    path = gru.save(tmp_path / "model_best.pth")
    assert main(["import", "chan", str(path), "-o", str(tmp_path / "ours")]) == 2
    found = capsys.readouterr().err
    assert f"'{path}': {said}" in found
    assert found.count("\n") == 1
    assert "x" * 60 not in found
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("value", ["abc", -1, float("nan"), float("inf")])
def test_the_size_of_pictures_is_named_as_in_the_file(golden: Path, tmp_path: Path, value: object) -> None:
    grid = Authors(golden, "vse_inf", "vse_infinity/case3")
    grid.options |= {"image_size": None, "input_scale_factor": value}
    with pytest.raises(CheckpointError, match=f"option `input_scale_factor` is {value!r} in the checkpoint: it should"):
        grid.bring(tmp_path)


@pytest.mark.parametrize("value", [None, "abc", float("nan")])
def test_a_number_to_calculate_with_is_named_as_in_the_file(value: object) -> None:
    with pytest.raises(CheckpointError, match=f"option `freeze_prototypes_niters` is {value!r} in the checkpoint"):
        aahr.loss_of({"freeze_prototypes_niters": value})
    assert aahr.loss_of({"freeze_prototypes_niters": 4}).swav_from_step == 5


def test_settings_that_come_from_the_shapes_are_named_as_ours() -> None:
    with pytest.raises(ValidationError) as refused:
        ChanConfig.model_validate({"joint_dim": 0})
    said = refusal(refused.value, chan.OPTIONS, {}, "chan")
    assert said == "its options and shapes fit no chan model (`joint_dim` is 0): it should be greater than 0."


@pytest.mark.parametrize("module", [vse_inf, chan, esl, hrem, aahr, scta])
def test_the_epochs_over_all_negatives_are_read(module: Any) -> None:
    for epochs in (0, 1, 3):
        assert module.loss_of({"vse_mean_warmup_epochs": epochs}).warmup_epochs == epochs
    assert module.loss_of({}).warmup_epochs == 1


def test_a_model_keeps_its_epochs_over_all_negatives(gru: Authors, tmp_path: Path) -> None:
    gru.options["vse_mean_warmup_epochs"] = 0
    loss: Any = patchword.load(gru.bring(tmp_path).folder).method.loss
    assert loss.warmup_epochs == 0


@pytest.mark.parametrize("method", IMPORTERS)
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({}, "no `opt` is beside the weights"),
        ({"opt": None}, "no `opt` is beside the weights"),
        ({"args": argparse.Namespace(margin=0.2)}, "no `opt` is beside the weights"),
        ({"opt": argparse.Namespace()}, "an `opt` without options is beside the weights"),
        ({"opt": ["margin"]}, "an `opt` without options is beside the weights"),
    ],
)
def test_no_method_is_imported_without_its_options(
    tmp_path: Path, method: str, kept: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    items = import_module(IMPORTERS[method]).ITEMS
    torch.save({"model": [{"some.weight": torch.ones(1)} for _ in items], **kept}, tmp_path / "m.pth")
    assert main(["import", method, str(tmp_path / "m.pth"), "-o", str(tmp_path / "ours")]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "add a dictionary `opt`" in found
    assert found.count("\n") == 1


def test_options_may_be_a_dictionary(gru: Authors, tmp_path: Path) -> None:
    content = {**gru.content(), "opt": {**gru.options, "margin": torch.tensor(0.25, dtype=torch.float64)}}
    torch.save(content, tmp_path / "m.pth")
    import_checkpoint("chan", tmp_path / "m.pth", tmp_path / "ours")
    loss: Any = patchword.load(tmp_path / "ours").method.loss
    assert loss.margin == 0.25
