"""Training of SCTA and LAPS: resuming, micro-batches, and raw pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from small import (
    recipe,
    same_tensors,
    training_state,
    weights,
    write_bert,
    write_pictures,
    write_precomp,
)

from patchword.data.open import open_split
from patchword.explain.lit_words import light_words
from patchword.methods.scta import Scta
from patchword.train.optimizer import build_optimizer
from patchword.train.run import train
from patchword.train.setup import prepare, training_pairs
from patchword.train.state import Position
from patchword.train.step import Stepper

# 45 captions in batches of 20: the last one has 5 pairs, 3 for one process and 2 for the other.
CHANGES: dict[str, Any] = {
    "data": {"region_drop": 0.3},
    "loss": {"warmup_epochs": 1, "same_image": "ignored"},
    "train": {"drop_last": False, "epochs": 2, "lr": 1e-3, "select_on": "none"},
}


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Two sets of weights are equal up to rounding."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float((found[name] - value).norm() / value.norm()) < 1e-5, name


@pytest.mark.integration
def test_two_epochs_are_one_epoch_and_one_more(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    train(recipe("scta", data), tmp_path / "whole")
    train(recipe("scta", data, {"train": {"epochs": 1}}), tmp_path / "parts")
    train(recipe("scta", data), tmp_path / "parts")
    assert same_tensors(training_state(tmp_path / "parts"), training_state(tmp_path / "whole"))


@pytest.mark.integration
def test_micro_batches_make_the_steps_of_the_whole_batch(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8})
    changes = {"train": {"epochs": 1, "select_on": "none", "lr": 1e-3}}
    train(recipe("scta", data, changes), tmp_path / "whole")
    changes["train"]["micro_batch"] = 7
    train(recipe("scta", data, changes), tmp_path / "parts")
    close(weights(tmp_path / "parts" / "last"), weights(tmp_path / "whole" / "last"))


@pytest.mark.integration
@pytest.mark.parametrize("micro_batch", [None, 7])
@pytest.mark.parametrize("where", ["scores", "encoder"])
def test_a_step_whose_loss_is_no_number_moves_nothing(
    where: str, micro_batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do the momentum of the steps before it and the decay of the weights, which AdamW adds to any gradient."""
    made = recipe("scta", write_precomp(tmp_path / "data", {"train": 8}), {"train": {"select_on": "none"}})
    parts = prepare(made)
    method, pairs = parts.method.train(), training_pairs(made, parts)
    config = made.train.model_copy(update={"micro_batch": micro_batch})
    AcceleratorState._reset_state()
    stepper = Stepper(method, config, Accelerator(cpu=True), build_optimizer(method, config))
    batch = pairs.read(range(20), epoch=0)
    assert stepper.take(batch, Position(epoch=1), 2).numbers["grad_norm"] > 0
    before = {name: value.clone() for name, value in method.state_dict().items()}
    if where == "scores":
        losses = Scta.losses
        monkeypatch.setattr(Scta, "losses", lambda self, scores, *rest: losses(self, scores * torch.nan, *rest))
    else:
        batch = replace(batch, images=replace(batch.images, values=batch.images.values * torch.nan))
    numbers = stepper.take(batch, Position(epoch=1, step=1), 2).numbers
    assert (numbers["loss"], numbers["grad_norm"]) == (0, 0)
    assert same_tensors(method.state_dict(), before)


@pytest.mark.integration
def test_raw_pictures_with_a_vision_transformer_and_bert(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", {"train": 8, "dev": 4})
    arch = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
        "patch_size": 8,
    }
    bert = write_bert(tmp_path / "bert")
    image = {"kind": "vit", "arch": arch}
    changes = {
        "model": {"joint_dim": 12},
        "train": {"epochs": 1, "batch_size": 8, "lr_factors": {"image_backbone": 0.1, "text_backbone": 0.1}},
    }
    made = recipe("scta", data, changes, bert=bert, image=image)
    model = train(made, tmp_path / "run").model()
    assert isinstance(model.method, Scta)
    groups = model.method.parameter_groups()
    sizes = {name: sum(p.numel() for p in found) for name, found in groups.items()}
    assert set(sizes) == {"image", "image_backbone", "text", "text_backbone", "matching"}
    assert sizes["text"] == 12 * 17  # the projection of BERT
    split = open_split(data, "dev", images="pictures")
    found = light_words(model, split, 1, "a red wall")
    assert found.parts.shape == (5, 16)  # five word pieces, 4 x 4 patches
    assert found.boxes is not None
    assert float(found.parts.sum()) == pytest.approx(found.score, abs=1e-5)
    images, captions = model.encode_images(split.require_images()), model.encode_captions(["a red wall"])
    assert images.lengths.tolist() == [17] * 4
    assert float(model.score(images, captions)[1, 0]) == pytest.approx(found.score, abs=1e-5)
