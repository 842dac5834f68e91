"""State that only training needs: kept for resuming, left out of checkpoints; and the hooks around a step."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from small import recipe, same_tensors, training_state, write_precomp
from torch import Tensor

import patchword.methods
from patchword.loading import load
from patchword.methods.base import LossConfig, Step
from patchword.methods.chan import Chan, ChanConfig
from patchword.train.run import train
from patchword.types import Encoded


class Counting(Chan):
    """CHAN with a queue of what it has seen, and with random numbers in its loss."""

    training_only: ClassVar[tuple[str, ...]] = ("queue",)

    def __init__(self, config: ChanConfig, loss: LossConfig | None = None) -> None:
        super().__init__(config, loss)
        self.register_buffer("queue", torch.zeros(4, dtype=torch.float64))

    def begin_step(self, step: Step) -> None:
        self.queue[0] += 1
        self.queue[1] = step.step

    def losses(self, scores: Tensor, images: Encoded, captions: Encoded, step: Step) -> dict[str, Tensor]:
        found = super().losses(scores, images, captions, step)
        noise = torch.rand(())
        self.queue[2] += noise
        return {"total": found["total"] * (1 + noise), "noise": noise}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(patchword.methods.METHODS, "chan", f"{__name__}:Counting")


def run(folder: Path, epochs: int, **changes: Any) -> Path:
    data = folder.parent / "data"
    train(recipe("chan", data, {"train": {"epochs": epochs, **changes}}), folder)
    return folder


def test_the_queue_survives_resuming_and_stays_out_of_checkpoints(tmp_path: Path) -> None:
    write_precomp(tmp_path / "data")
    whole, parts = run(tmp_path / "whole", 2), run(tmp_path / "parts", 1)
    run(parts, 2)
    queue = load_file(whole / "last" / "training_only.safetensors")["queue"]
    assert queue[0] == queue[1] + 1
    assert queue[2] > 0
    assert torch.equal(queue, load_file(parts / "last" / "training_only.safetensors")["queue"])
    assert same_tensors(training_state(whole), training_state(parts))
    assert "queue" not in load_file(whole / "last" / "model.safetensors")
    assert not (whole / "best" / "training_only.safetensors").exists()
    assert torch.equal(load(whole).method.queue, torch.zeros(4, dtype=torch.float64))  # type: ignore[arg-type]


def test_micro_batches_draw_the_same_numbers_in_the_loss(tmp_path: Path) -> None:
    write_precomp(tmp_path / "data")
    queues = [
        load_file(run(tmp_path / str(size), 1, micro_batch=size) / "last" / "training_only.safetensors")["queue"]
        for size in (4, 8)
    ]
    assert torch.equal(*queues)
