from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small import recipe, training_state, weights, write_bert, write_pictures, write_precomp

from patchword.config import TrainConfig
from patchword.errors import CollapseError, ConfigError
from patchword.methods.base import Method
from patchword.methods.chan import Chan
from patchword.train.loop import Trainer
from patchword.train.optimizer import build_optimizer, clip_gradients, set_rates
from patchword.train.run import train
from patchword.train.setup import prepare
from patchword.train.step import Stepper


def bert_method(folder: Path) -> Method:
    data, bert = write_precomp(folder / "data", {"train": 8, "dev": 4}), write_bert(folder / "bert")
    return prepare(recipe("chan", data, bert=bert)).method


def test_every_parameter_is_in_exactly_one_group(tmp_path: Path) -> None:
    method = bert_method(tmp_path)
    optimizer = build_optimizer(method, TrainConfig())
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    assert [group["name"] for group in optimizer.param_groups] == ["image", "text", "text_backbone"]
    assert all(group["weight_decay"] == 0.01 for group in optimizer.param_groups)


def test_factors_change_the_rate_of_their_group_only(tmp_path: Path) -> None:
    config = TrainConfig(lr=0.5, lr_factors={"text_backbone": 0.1})
    optimizer = build_optimizer(bert_method(tmp_path), config)
    set_rates(optimizer, config, 0, 0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"image": 0.5, "text": 0.5, "text_backbone": 0.05})


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names 'txt'"):
        build_optimizer(bert_method(tmp_path), TrainConfig(lr_factors={"txt": 1.0}))


@pytest.mark.parametrize(
    ("epoch", "step", "expected"),
    [(0, 0, 0.25), (0, 1, 0.5), (0, 3, 1.0), (0, 9, 1.0), (1, 20, 1.0), (2, 30, 0.1), (3, 40, 0.1), (5, 60, 0.01)],
)
def test_rates_follow_warm_up_and_steps(epoch: int, step: int, expected: float) -> None:
    config = TrainConfig(lr=1.0, lr_steps=(2, 4), warmup_steps=4)
    optimizer = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.ones(1))], "name": "image"}])
    assert set_rates(optimizer, config, epoch, step) == pytest.approx(expected)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (10.0, 5.0), (None, 5.0)])
def test_clipping_cuts_the_global_norm(limit: float | None, after: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, limit) == pytest.approx(5.0)
    assert sum(float(p.grad) ** 2 for p in parameters if p.grad is not None) ** 0.5 == pytest.approx(after, rel=1e-4)


def test_the_rates_of_a_run_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    rates: list[float] = []
    step = Trainer.train_step

    def recording(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        numbers = step(trainer, batch, position)
        rates.append(numbers["lr"])
        return numbers

    monkeypatch.setattr(Trainer, "train_step", recording)
    changes = {"train": {"epochs": 2, "lr": 0.1, "lr_steps": [1], "warmup_steps": 2}}
    train(recipe("chan", data, changes), tmp_path / "run")
    assert rates == pytest.approx([0.05, 0.1, 0.01, 0.01])


def moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Roles of the image tower's weights that changed: a stage of the backbone, or ``head``."""
    found = set()
    for name, value in after.items():
        if name.startswith("image") and not torch.equal(before[name], value):
            stage = next((part for part in name.split(".") if part.startswith(("layer", "conv1", "bn1"))), "head")
            found.add("stem" if stage in ("conv1", "bn1") else stage)
    return found


@pytest.mark.parametrize("method", ["vse_inf", "chan"])
def test_a_frozen_backbone_moves_only_when_its_epoch_comes(method: str, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", {"train": 8, "dev": 4})
    resnet = {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 2, "image_size": 96, "pixels": "imagenet"}
    changes: dict[str, Any] = {
        "train": {"epochs": 3, "batch_size": 8, "freeze_backbone": {0: 4, 1: 2, 2: 0}, "weight_decay": 0.1},
        "loss": {"warmup_epochs": 9},
    }
    made = recipe(method, data, changes, image=resnet)
    states = [{name: value.clone() for name, value in prepare(made).method.state_dict().items()}]
    for epochs in (1, 2, 3):
        changes["train"]["epochs"] = epochs
        train(recipe(method, data, changes, image=resnet), tmp_path / "run")
        states.append(weights(tmp_path / "run" / "last"))
    everything = {"stem", "layer1", "layer2", "layer3", "layer4", "head"}
    assert moved(states[0], states[1]) == {"head"}
    assert moved(states[1], states[2]) == {"layer3", "layer4", "head"}
    assert moved(states[2], states[3]) == everything
    changes["train"]["epochs"] = 3
    train(recipe(method, data, changes, image=resnet), tmp_path / "whole")
    assert torch.equal(
        torch.cat([v.flatten().float() for v in weights(tmp_path / "whole" / "last").values()]),
        torch.cat([v.flatten().float() for v in states[3].values()]),
    )


def test_bf16_encodes_low_and_scores_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_precomp(tmp_path / "data", {"train": 16, "dev": 4})
    kinds: set[torch.dtype] = set()
    inside: set[bool] = set()
    loss, text = Stepper.loss, Chan.encode_captions

    def looking(stepper: Stepper, images: Any, captions: Any, step: Any) -> Any:
        scores, losses = loss(stepper, images, captions, step)
        kinds.update({images.vectors.dtype, captions.vectors.dtype, scores.dtype, losses["total"].dtype})
        inside.add(torch.is_autocast_enabled("cpu"))
        return scores, losses

    seen: set[bool] = set()

    def encoding(method: Chan, captions: Any) -> Any:
        if method.training:
            seen.add(torch.is_autocast_enabled("cpu"))
        return text(method, captions)

    monkeypatch.setattr(Stepper, "loss", looking)
    monkeypatch.setattr(Chan, "encode_captions", encoding)
    changes = {"train": {"epochs": 1, "precision": "bf16"}}
    train(recipe("chan", data, changes), tmp_path / "low")
    assert (kinds, inside, seen) == ({torch.float32}, {False}, {True})
    assert {value.dtype for value in weights(tmp_path / "low" / "last").values()} == {torch.float32}
    seen.clear()
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "full")  # in the same Python process
    assert seen == {False}


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_precomp(tmp_path / "data")
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    before = training_state(tmp_path / "run")
    encode = Chan.encode_images

    def broken(method: Chan, images: Any) -> Any:
        sets = encode(method, images)
        return type(sets)(sets.vectors * float("nan"), sets.lengths)

    monkeypatch.setattr(Chan, "encode_images", broken)
    with pytest.raises(CollapseError, match=r"the loss is nan.*at step 11 \(epoch 2\).*smaller --train\.lr"):
        train(recipe("chan", data), tmp_path / "run")
    assert all(torch.isfinite(v).all() for v in training_state(tmp_path / "run")["weights"].values())
    assert training_state(tmp_path / "run")["position"] == before["position"]
