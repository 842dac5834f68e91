"""The weights of an authors' file have to be finite floating-point numbers where ours are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_authors import Authors
from torch import Tensor

import patchword
from patchword.cli import main
from patchword.errors import CheckpointError

KEY = "txt_enc.rnn.bias_ih_l0"


@pytest.fixture
def vse(golden: Path) -> Authors:
    return Authors(golden, "vse_inf", "vse_infinity/case1")


def with_one(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """One of the numbers is another."""

    def change(weight: Tensor) -> Tensor:
        changed = weight.to(dtype, copy=True)
        changed[3] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_one(math.nan), "holds 1 of 96 numbers that are NaN or infinite, the model expects finite ones"),
        (with_one(-math.inf), "holds 1 of 96 numbers that are NaN or infinite"),
        (with_one(1e300, torch.float64), "holds 1 of 96 numbers that are NaN or infinite"),  # in float32
        (with_one(math.nan, torch.float16), "holds 1 of 96 numbers that are NaN or infinite"),
        (lambda weight: weight * math.nan, "holds 96 of 96 numbers"),
        (lambda weight: weight.long(), "holds int64, the model expects floating-point numbers"),
        (lambda weight: weight > 0, "holds bool, the model expects floating-point numbers"),
        (lambda weight: weight.to(torch.complex64), "holds complex64, the model expects floating-point numbers"),
        (lambda weight: weight.to_sparse(), "holds no plain numbers"),
        (lambda weight: weight.to("meta"), "holds no plain numbers"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_in_one_line(
    vse: Authors, tmp_path: Path, change: Callable[[Tensor], Tensor], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vse.state[KEY] = change(vse.state[KEY])
    path = vse.save(tmp_path / "model_best.pth")
    assert main(["import", "vse_inf", str(path), "-o", str(tmp_path / "ours")]) == 2
    found = capsys.readouterr().err
    assert f"`text.rnn.bias_ih_l0` {said}" in found
    assert f"in the file `{KEY}`" in found
    assert found.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_buffers_are_looked_at_too(vse: Authors, tmp_path: Path) -> None:
    key = next(key for key in vse.state if key.endswith("bns.0.running_var"))
    vse.state[key] = with_one(math.inf)(vse.state[key])
    with pytest.raises(CheckpointError, match=rf"NaN or infinite.*in the file `{key}`"):
        vse.bring(tmp_path)


def test_counters_other_precisions_and_dead_weights_are_fine(vse: Authors, tmp_path: Path) -> None:
    counters = [key for key in vse.state if key.endswith("num_batches_tracked")]
    assert counters
    assert not any(vse.state[key].is_floating_point() for key in counters)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        vse.state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in vse.state.items()}
        vse.state |= {k: v * math.nan for k, v in vse.state.items() if "bns.1." in k and v.is_floating_point()}
        made = patchword.load(vse.bring(tmp_path).folder).method
        assert {v.dtype for v in made.state_dict().values()} == {torch.float32, torch.int64}
