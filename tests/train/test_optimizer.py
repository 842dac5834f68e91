from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from small import recipe, same_tensors, training_state, weights, write_bert, write_pictures, write_precomp

from patchword.config import TrainConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CollapseError, ConfigError
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.methods.chan import Chan
from patchword.recipe import load_recipe
from patchword.train.loop import Trainer
from patchword.train.optimizer import build_optimizer, clip_gradients, restore, set_rates
from patchword.train.run import train
from patchword.train.setup import prepare
from patchword.train.step import Stepper


def bert_method(folder: Path) -> Method:
    data, bert = write_precomp(folder / "data", {"train": 8, "dev": 4}), write_bert(folder / "bert")
    return prepare(recipe("chan", data, bert=bert)).method


def narrow(stem: str) -> Method:
    """The model of a recipe with region features and a BiGRU, narrow; its weights are always the same."""
    made = load_recipe(stem)
    changes = {"joint_dim": 16, "image": RegionsConfig(width=5), "text": BigruConfig(vocab_size=12, word_dim=4)}
    torch.manual_seed(1)
    method: Method = method_class(made.method)(made.model.model_copy(update=changes), made.loss)
    return method


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
    with pytest.raises(ConfigError, match=r"names 'txt'.*image_backbone, matching"):
        build_optimizer(bert_method(tmp_path), TrainConfig(lr_factors={"txt": 1.0}))


def test_a_factor_of_a_group_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    method = prepare(recipe("chan", write_precomp(tmp_path, {"train": 8, "dev": 4}))).method  # a BiGRU
    config = TrainConfig(lr=0.5, lr_factors={"text_backbone": 0.1, "matching": 0.1})
    assert {group["name"]: group["lr"] for group in build_optimizer(method, config).param_groups} == {
        "image": 0.5,
        "text": 0.5,
    }


def grouped_by_towers(method: Method) -> torch.optim.AdamW:
    """The optimiser of before there was the group ``matching``."""
    groups: dict[str, list[torch.nn.Parameter]] = {"image": [], "text": []}
    optimised = {id(parameter) for group in method.parameter_groups().values() for parameter in group}
    for name, parameter in method.named_parameters():
        if id(parameter) in optimised:
            groups["text" if name.startswith("text") else "image"].append(parameter)
    listed = [{"params": found, "name": name} for name, found in sorted(groups.items())]
    return torch.optim.AdamW(listed, lr=1e-3, weight_decay=1e-2)


def take_steps(method: Method, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    """Steps along random gradients that are a function of their number; every ninth parameter gets none."""
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        for k, parameter in enumerate(method.parameters()):
            gradient = torch.randn(parameter.shape, generator=draw)
            parameter.grad = None if k % 9 == 0 else gradient
        optimizer.step()


@pytest.mark.parametrize("stem", ["esl_a_scenes", "scta_scenes", "cefg_sgr_scenes", "aahr_scenes"])
def test_matching_has_a_rate_of_its_own_and_changes_no_number(stem: str) -> None:
    methods: list[Method] = [narrow(stem) for _ in range(3)]
    config = TrainConfig(lr=1e-3, weight_decay=1e-2)
    old, new, again = grouped_by_towers(methods[0]), build_optimizer(methods[1], config), methods[2]
    assert {group["name"] for group in new.param_groups} == {"image", "matching", "text"}
    take_steps(methods[0], old, range(3))
    take_steps(methods[1], new, range(3))
    assert same_tensors(methods[0].state_dict(), methods[1].state_dict())
    again.load_state_dict(methods[0].state_dict())
    resumed = build_optimizer(again, config)
    restore(resumed, again, deepcopy(old.state_dict()))  # of a run that began before
    take_steps(methods[0], old, range(3, 5))
    take_steps(again, resumed, range(3, 5))
    assert same_tensors(methods[0].state_dict(), again.state_dict())


def test_a_state_of_another_model_is_refused() -> None:
    method = narrow("esl_h_scenes")
    with pytest.raises(ValueError, match="group"):
        restore(
            build_optimizer(method, TrainConfig()), method, grouped_by_towers(narrow("cefg_saf_scenes")).state_dict()
        )


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("esl_h_scenes", {"forms", "image_pyramid", "log_temperature", "text_pyramid"}),
        ("scta_scenes", {"patch_condenser", "word_condenser"}),
        ("laps_scenes", {"patch_condenser"}),
        ("cefg_sgr_scenes", {"similarity"}),
        ("hrem_scenes", {"graph"}),
        ("aahr_scenes", {"graph", "prototypes"}),
        ("chan_scenes", set()),
    ],
)
def test_matching_is_what_belongs_to_neither_tower(stem: str, expected: set[str]) -> None:
    method = narrow(stem)
    found = {id(parameter) for parameter in method.parameter_groups().get("matching", [])}
    assert {key.partition(".")[0] for key, p in method.named_parameters() if id(p) in found} == expected


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
