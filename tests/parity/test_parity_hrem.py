import json
from pathlib import Path
from typing import Any

import pytest
from changed_cases import OFF, misses, off_by_a_little, write_case
from safetensors.torch import load_file
from torch import Tensor

from patchword.parity.run import compare_path

CASE = Path(__file__).parents[1] / "golden" / "hrem" / "case2_slice"


def tensors() -> dict[str, Tensor]:
    return load_file(CASE.with_suffix(".safetensors"))


def fields() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CASE.with_suffix(".json").read_text())
    return found


def compared() -> list[str]:
    """Names of the outputs of the authors' code in the case."""
    inputs = ("state.", "in.", "eval.image.pre_pool", "train.image.", "train.text.")
    return [name for name in sorted(tensors()) if not name.startswith(inputs) and not name.endswith("neg_idx")]


def test_the_case_passes_and_nothing_is_left_over() -> None:
    ledger = compare_path(CASE.with_suffix(".json"))
    assert ledger.passed, [row for row in ledger.rows if not row.passed]
    assert ledger.not_compared == []
    assert {row.name for row in ledger.rows} >= {*compared(), "smallest_connectivity_gap"}


def test_every_changed_value_is_a_miss(tmp_path: Path) -> None:
    about = fields()
    about["smallest_connectivity_gap"] += OFF
    changed = {name: off_by_a_little(v) if name in compared() else v for name, v in tensors().items()}
    found = misses(compare_path(write_case(tmp_path, changed, about)))
    assert found == {*compared(), "smallest_connectivity_gap"}


@pytest.mark.parametrize(
    "name",
    [
        "in.caption_lengths",
        "state.criterion.gnn.layers.0.linear1.weight",
        "train.text.pre_pool",
        "train.draw3.neg_idx",
    ],
)
def test_changed_inputs_are_noticed(tmp_path: Path, name: str) -> None:
    changed = tensors()
    value = changed[name].flatten()
    if value.is_floating_point():
        value += 0.1
    else:
        value[0] = 3 if value[0] != 3 else 4
    assert misses(compare_path(write_case(tmp_path, changed, fields())))


@pytest.mark.parametrize(
    ("option", "value"),
    [("mask_weight", 1.0), ("threshold", 0.3), ("residual_weight", 0.7), ("topk", 4.5), ("cross_loss", 0)],
)
def test_changed_options_are_noticed(tmp_path: Path, option: str, value: float) -> None:
    about = fields()
    about["config"][option] = value
    path = write_case(tmp_path, tensors(), about)
    if option == "topk":
        with pytest.raises(ValueError, match="top_k"):
            compare_path(path)
    else:
        assert misses(compare_path(path))
