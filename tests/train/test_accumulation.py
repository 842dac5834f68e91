from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from small import effective, recipe, refused, training_state, write_bert, write_precomp, write_recipe

from patchword.data.batches import Batch, TrainingPairs
from patchword.methods.base import Step
from patchword.model import Model
from patchword.train.loop import Trainer
from patchword.train.optimizer import build_optimizer
from patchword.train.run import train
from patchword.train.setup import prepare
from patchword.train.state import Position, RunFolder
from patchword.types import Encoded


def make_trainer(folder: Path, micro_batch: int | None, *, bert: Path | None = None) -> Trainer:
    """A trainer of CHAN with self-attention before its first step."""
    data = folder / "data"
    changes = {"train": {"micro_batch": micro_batch}}
    made = recipe("chan", data if data.exists() else write_precomp(data, {"train": 8, "dev": 4}), changes, bert=bert)
    parts = prepare(made)
    pairs = TrainingPairs(parts.train, parts.tokenizer, seed=1, region_drop=0.3, word_drop=0.2)
    AcceleratorState._reset_state()
    optimizer = build_optimizer(parts.method, made.train)
    model = Model(parts.method, parts.tokenizer)
    quiet = Console(quiet=True)
    trainer = Trainer(model, pairs, None, made.train, Accelerator(cpu=True), optimizer, RunFolder(folder), quiet)
    trainer.freeze(0)
    trainer.method.train()
    return trainer


def first_batch(trainer: Trainer) -> Batch:
    return trainer.pairs.read(next(trainer.plan.batches(0)), 0)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in trainer.method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro", [1, 7, 19])
def test_micro_batches_give_the_loss_and_gradients_of_the_whole_batch(micro: int, tmp_path: Path) -> None:
    whole, parts = make_trainer(tmp_path, None), make_trainer(tmp_path, micro)
    a = whole.train_step(first_batch(whole), Position())
    b = parts.train_step(first_batch(parts), Position())
    assert (b["loss"], b["grad_norm"]) == pytest.approx((a["loss"], a["grad_norm"]), rel=1e-5)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_the_second_pass_repeats_the_dropout_of_the_first(tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "bert", dropout=0.5)
    trainer = make_trainer(tmp_path, 7, bert=bert)
    batch = first_batch(trainer)
    numbers = trainer.train_step(batch, Position())
    found = {name: gradient.clone() for name, gradient in gradients(trainer).items()}

    plain = make_trainer(tmp_path, None, bert=bert)  # one graph over the same parts, with the same seeds
    step = Step(0, 0, len(plain.plan), batch.image_rows)
    encoded = []
    for k, start in enumerate(range(0, len(batch), 7)):
        plain.stepper.seed(step, k)
        encoded.append(plain.stepper.encode(batch, slice(start, start + 7)))
    images, captions = Encoded.concat([pair[0] for pair in encoded]), Encoded.concat([pair[1] for pair in encoded])
    loss = plain.stepper.loss(images, captions, step)[1]["total"]
    loss.backward()
    assert numbers["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    norm = torch.nn.utils.clip_grad_norm_(plain.method.parameters(), 2.0)
    assert numbers["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_micro_batch_of_the_whole_batch_is_no_micro_batch(tmp_path: Path) -> None:
    whole, parts = make_trainer(tmp_path, None), make_trainer(tmp_path, 20)
    assert whole.train_step(first_batch(whole), Position()) == parts.train_step(first_batch(parts), Position())


@pytest.mark.parametrize("whole_epochs", [0, 1])
def test_a_run_in_micro_batches_ends_where_the_whole_one_does(whole_epochs: int, tmp_path: Path) -> None:
    """Also one that begins without, and goes on with them."""
    data = write_precomp(tmp_path / "data", {"train": 16, "dev": 8})
    changes: dict[str, Any] = {"train": {"epochs": whole_epochs, "drop_last": False, "batch_size": 24, "lr": 1e-3}}
    if whole_epochs:
        train(recipe("chan", data, changes), tmp_path / "parts")
    changes["train"]["epochs"] = whole_epochs + 1
    train(recipe("chan", data, changes), tmp_path / "whole")
    changes["train"]["micro_batch"] = 5
    train(recipe("chan", data, changes), tmp_path / "parts")
    whole, parts = (training_state(tmp_path / name) for name in ("whole", "parts"))
    found = effective(parts["weights"])
    for name, value in effective(whole["weights"]).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_with_batch_norm_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "vse_inf", write_precomp(tmp_path / "data"))
    said = refused(["train", path, "--out", tmp_path / "run", "--train.micro_batch", "4"], capsys, kind="ConfigError")
    assert "normalises over the batch" in said


def test_micro_batches_of_vse_infinity_without_its_mlp_are_accepted(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    changes = {"train": {"epochs": 1, "micro_batch": 6}, "model": {"residual_mlp": False}}
    assert train(recipe("vse_inf", data, changes), tmp_path / "run").position.finished
