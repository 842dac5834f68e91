from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from small import recipe, refused, write_precomp, write_recipe
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.methods.base import LossConfig, Step
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.train import loop
from patchword.train.collapse import CollapseWatch
from patchword.train.run import train
from patchword.train.state import Position

B = 16


def healthy(seed: int) -> Float[Tensor, "B B"]:
    """True pairs well above the others."""
    noise = torch.randn(B, B, generator=torch.Generator().manual_seed(seed))
    return torch.eye(B) + 0.1 * noise


def collapsed(seed: int) -> Float[Tensor, "B B"]:
    """All pairs alike, up to rounding."""
    noise = torch.randn(B, B, generator=torch.Generator().manual_seed(seed))
    return torch.full((B, B), 0.9) + 1e-6 * noise


def looks(watch: CollapseWatch, scores: Any, steps: int, margin: float | None = 0.2) -> list[bool]:
    """What the watch says of some steps."""
    answers = []
    for k in range(steps):
        answers.append(watch.look(scores(k), margin))
    return answers


def test_a_healthy_run_is_left_alone() -> None:
    assert not any(looks(CollapseWatch(window=5), healthy, 50))


def test_a_run_that_falls_together_is_noticed_soon() -> None:
    watch = CollapseWatch(window=5)
    assert not any(looks(watch, healthy, 20))
    answers = looks(watch, collapsed, 60)
    assert not answers[0]
    assert any(answers)


def test_a_run_that_never_left_chance_is_noticed() -> None:
    assert any(looks(CollapseWatch(window=5), collapsed, 60))


def test_constant_scores_are_noticed() -> None:
    assert any(looks(CollapseWatch(window=5), lambda _: torch.zeros(B, B), 60))


def test_one_bad_batch_is_not_a_collapse() -> None:
    watch = CollapseWatch(window=20)
    assert not any(looks(watch, healthy, 60) + looks(watch, collapsed, 1) + looks(watch, healthy, 40))


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        (LossConfig(margin=0.2, warmup_epochs=1), Step(epoch=0)),
        (LossConfig(margin=0.2, warmup_epochs=0, anneal_epochs=2), Step(epoch=0)),
        (LossConfig(margin=0.2, warmup_epochs=0, negatives_after="all"), Step(epoch=9)),
        (LossConfig(kind="info_nce", margin=0.2, warmup_epochs=0), Step(epoch=9)),
        (LossConfig(margin=0.0, warmup_epochs=0), Step(epoch=9)),
    ],
    ids=["warm-up", "annealing", "all negatives", "info_nce", "no margin"],
)
def test_only_training_on_hardest_negatives_is_watched(loss: LossConfig, step: Step) -> None:
    margin = VseInfinity(VseInfinityConfig(joint_dim=8, text=BigruConfig(vocab_size=9)), loss).hardest_margin(step, B)
    assert margin is None
    assert not any(looks(CollapseWatch(window=5), collapsed, 60, margin))


def test_what_one_step_showed_is_told_and_is_all_that_counts() -> None:
    looking, seeing = CollapseWatch(window=5), CollapseWatch(window=5)
    for k in range(80):
        scores, margin = (healthy if k < 30 else collapsed)(k), None if k < 10 else 0.2
        said = looking.look(scores, margin)
        assert ("violation" in looking.seen) == (margin is not None)
        assert seeing.see(looking.seen["step_recall"], looking.seen.get("violation"), B) == said
    assert said


def test_looking_leaves_no_graph_behind() -> None:
    scores = healthy(0).requires_grad_()
    CollapseWatch().look(scores, 0.2)
    assert scores.grad_fn is None


# ------------------------------------------------------------------ a real run


def constant_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image tower that says the same of every image from the second epoch on."""
    encode, calls = VseInfinity.encode_images, 0

    def constant(method: VseInfinity, images: Any) -> Any:
        nonlocal calls
        calls += method.training
        encoded = encode(method, images)
        if calls <= 10 or not method.training:
            return encoded
        return type(encoded)(encoded.vectors * 0 + encoded.vectors.detach()[:1], encoded.lengths)

    monkeypatch.setattr(VseInfinity, "encode_images", constant)
    monkeypatch.setattr(loop, "CollapseWatch", lambda: CollapseWatch(window=5))


CHANGES: dict[str, Any] = {"loss": {"warmup_epochs": 1}, "train": {"epochs": 8}}


def test_a_collapse_stops_the_run_with_advice_and_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    constant_images(monkeypatch)
    path = write_recipe(tmp_path / "tiny.yaml", "vse_inf", write_precomp(tmp_path / "data"), CHANGES)
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="CollapseError")
    assert "--loss.warmup_epochs" in said
    assert "--train.batch_size" in said
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    assert '"kind": "collapse"' in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_collapse_is_only_a_warning_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant_images(monkeypatch)
    data = write_precomp(tmp_path / "data")
    train_changes = {**CHANGES["train"], "on_collapse": "warn"}
    result = train(recipe("vse_inf", data, {**CHANGES, "train": train_changes}), tmp_path / "run")
    assert result.position.epoch == 8
    assert '"kind": "collapse"' in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_learnable_run_on_hardest_negatives_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CollapseWatch", lambda: CollapseWatch(window=10))
    changes: dict[str, Any] = {"loss": {"warmup_epochs": 4}, "train": {"epochs": 7, "lr": 0.03}}
    result = train(recipe("vse_inf", write_precomp(tmp_path / "data"), changes), tmp_path / "run")
    assert result.position.best_rsum > 400


def test_a_run_that_is_resumed_again_and_again_is_noticed_as_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CollapseWatch", lambda: CollapseWatch(window=8))
    data, told = write_precomp(tmp_path / "data"), {}
    for name, ends in (("whole", (5,)), ("parts", (2, 3, 4, 5))):
        for epochs in ends:
            changes = {"loss": {"warmup_epochs": 1}, "train": {"epochs": epochs, "on_collapse": "warn"}}
            position = train(recipe("vse_inf", data, changes), tmp_path / name).position
        told[name] = position.violation, position.hardest_steps, position.recall
    assert told["whole"] == told["parts"]
    assert told["whole"][1] > 0


def test_states_that_know_nothing_of_violations_still_load() -> None:
    old = {key: value for key, value in asdict(Position()).items() if key not in ("violation", "hardest_steps")}
    assert Position(**old) == Position()
