"""The largest part of a batch that fits into memory, found by taking steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import recipe, refused, write_precomp, write_recipe

from patchword.cli import main
from patchword.train import memory
from patchword.train.memory import MemoryReport, StepMemory, step_memory
from patchword.train.step import Stepper


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_precomp(tmp_path / "data")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(micro-batch, batch, longest caption) of every step that is taken."""
    seen: list[tuple[int, int, int]] = []
    take = Stepper.take

    def watched(stepper: Stepper, batch: Any, *rest: Any) -> Any:
        seen.append((stepper.config.micro_batch or len(batch), len(batch), int(batch.captions.lengths.max())))
        return take(stepper, batch, *rest)

    monkeypatch.setattr(Stepper, "take", watched)
    return seen


def grows(taken: list[tuple[int, int, int]]) -> Callable[[], float]:
    """A process that needs 1 GiB and 0.1 GiB for every pair that is encoded at a time."""
    return lambda: 1 + 0.1 * taken[-1][0]


def test_parts_of_a_batch_grow_to_the_whole(data: Path, taken: list[tuple[int, int, int]]) -> None:
    found = step_memory(recipe("chan", data))
    assert found.setting == "micro_batch"
    assert [step.pairs for step in found.steps] == [2, 4, 8, 16, 20]
    assert [size for size, _, _ in taken] == [2, 2, 4, 8, 16, 20]  # the first twice: the optimiser makes its state
    assert {batch for _, batch, _ in taken} == {20}
    assert all(step.gib and step.seconds for step in found.steps)
    assert found.largest == found.steps[-1]
    assert "whole batch of 20 fits" in found.advice()


def test_the_longest_captions_are_used(data: Path, taken: list[tuple[int, int, int]]) -> None:
    captions = (data / "train_caps.txt").read_text(encoding="utf-8").splitlines()
    captions[77] = "a dog " * 30
    (data / "train_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    step_memory(recipe("chan", data))
    assert {longest for _, _, longest in taken} == {62}


def test_a_model_with_batch_statistics_is_tried_with_smaller_batches(
    data: Path, taken: list[tuple[int, int, int]]
) -> None:
    found = step_memory(recipe("vse_inf", data))
    assert found.setting == "batch_size"
    assert [batch for _, batch, _ in taken] == [2, 2, 4, 8, 16, 20]


@pytest.mark.parametrize(
    ("method", "model", "parts"),
    [
        ("hrem", {}, {"base", "graph", "regulariser"}),
        (
            "aahr",
            {"guide": "pooled", "guide_heads": 2, "prototypes": 5, "queue": 40},
            {"base", "graph", "regulariser", "swav", "moco"},
        ),
    ],
)
def test_every_step_has_all_parts_of_the_loss(
    method: str, model: dict[str, Any], parts: set[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that begin thousands of steps into a training too."""
    seen: list[set[str]] = []
    take = Stepper.take

    def watched(stepper: Stepper, *rest: Any) -> Any:
        taken = take(stepper, *rest)
        seen.append(parts & set(taken.numbers))
        return taken

    monkeypatch.setattr(Stepper, "take", watched)
    step_memory(recipe(method, data, {"model": {"heads": 2, "top_k": 3, **model}, "train": {"batch_size": 8}}))
    assert seen == [parts] * 4  # 2 pairs twice, 4 and 8


def test_a_step_that_would_not_fit_is_foreseen_and_not_taken(
    data: Path, taken: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "peak_memory_gib", grows(taken))
    found = step_memory(recipe("chan", data), limit_gib=2.0)
    assert [step.pairs for step in found.steps if step.seconds is not None] == [2, 4, 8]
    assert [round(step.gib or 0, 6) for step in found.steps] == [1.2, 1.4, 1.8, 2.6, 3.0]
    assert found.largest == found.steps[2]
    assert "--train.micro_batch 8" in found.advice()
    assert [size for size, _, _ in taken] == [2, 2, 4, 8]


def test_a_device_that_runs_out_is_no_room() -> None:
    steps = (StepMemory(2, 3.0, 0.1), StepMemory(4, None, None))
    found = MemoryReport("batch_size", 8, "cuda", 4.0, steps)
    assert found.largest == steps[0]
    assert "--train.batch_size 2" in found.advice()
    assert "no room" in "\n".join(found.lines())


def test_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["doctor", "memory", str(file), "--train.batch_size", "8", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["batch_size"], said["largest"]) == (8, 8)
    assert main(["doctor", "memory", str(file), "--limit", "1MiB"]) == 2
    assert "not even 2 pairs" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_options_of_another_kind_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    for words in (
        ["data", data, "--limit", "2GiB"],
        ["data", data, "--train.lr", "1"],
        ["recipe", file, "--name", "f30k"],
    ):
        assert "Remove it" in refused(["doctor", *words], capsys, kind="ConfigError")
    assert main(["doctor", "recipe", str(file), "--train.lr", "0.5"]) == 0
    assert "lr: 0.5" in capsys.readouterr().out
