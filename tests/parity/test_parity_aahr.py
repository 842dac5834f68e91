import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from changed_cases import OFF, misses, off_by_a_little, write_case
from safetensors.torch import load_file
from torch import Tensor

from patchword.cli import main
from patchword.errors import DataError
from patchword.parity.cases import Ledger
from patchword.parity.run import compare_path

CASE = Path(__file__).parents[1] / "golden" / "aahr" / "case2"


@cache
def tensors() -> dict[str, Tensor]:
    return load_file(CASE.with_suffix(".safetensors"))


def fields() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CASE.with_suffix(".json").read_text())
    return found


def compared() -> list[str]:
    """Names of the outputs of the authors' code in the case."""
    inputs = ("state.", "in1.", "in2.", "in3.")
    return [name for name in sorted(tensors()) if not name.startswith(inputs) and not name.endswith("neg_idx")]


@cache
def all_off() -> Ledger:
    """The comparison of a case in which every expected value is off at once; none takes part in computing another."""
    about = fields()
    about["smallest_connectivity_gap"] += OFF
    changed = {name: off_by_a_little(v, -1) if name in compared() else v for name, v in tensors().items()}
    with TemporaryDirectory() as folder:
        return compare_path(write_case(Path(folder), changed, about))


def test_the_case_passes_and_nothing_is_left_over() -> None:
    ledger = compare_path(CASE.with_suffix(".json"))
    assert ledger.passed, [row for row in ledger.rows if not row.passed]
    assert ledger.not_compared == []
    assert {row.name for row in ledger.rows} >= set(compared())


def test_the_case_covers_all_parts() -> None:
    names = set(compared())
    assert {f"step3.loss_part.{part}" for part in ("base", "gnn", "reg", "swav", "moco")} <= names
    assert {"eval.text.emb_pad_plus3", "step2.draw7.weight", "after3.text_queue", "step1.key_image"} <= names
    assert tensors()["step3.loss_part.moco"] > 0
    assert tensors()["step2.loss_part.moco"] == 0


@pytest.mark.parametrize("name", [*compared(), "smallest_connectivity_gap"])
def test_every_changed_value_is_a_miss(name: str) -> None:
    assert name in misses(all_off())


@pytest.mark.parametrize(
    "name",
    [
        "state.img_enc.mha_pool.value.5.weight",
        "state.txt_enc.fc_clip.mlp.layers.0.weight",
        "state.momentum_img.fc.fc.weight",
        "state.criterion.gcn.gc1.weight",
        "in2.clip_text",
        "step3.draw5.neg_idx",
    ],
)
def test_changed_inputs_are_noticed(tmp_path: Path, name: str) -> None:
    changed = {key: value.clone() for key, value in tensors().items()}
    value = changed[name].view(-1)
    if value.is_floating_point():
        value += torch.linspace(0.0, 0.2, len(value))
    else:
        value[0] = 3 if value[0] != 3 else 4
    assert misses(compare_path(write_case(tmp_path, changed, fields())))


@pytest.mark.parametrize(
    ("option", "value"),
    [("moco_r", 0.99), ("sinkhorn_iterations", 2), ("mask_weight", 1.0), ("lr_bert", 5e-4), ("warmup", 2)],
)
def test_changed_options_are_noticed(tmp_path: Path, option: str, value: float) -> None:
    about = fields()
    about["config"][option] = value
    assert misses(compare_path(write_case(tmp_path, tensors(), about)))


def test_a_miss_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = dict(tensors())
    changed["eval.sim"] = off_by_a_little(changed["eval.sim"], -1)
    write_case(tmp_path, changed, fields())
    assert main(["parity", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "MISS eval.sim" in said
    assert "0 of 1 cases passed" in said


def test_a_case_without_a_needed_tensor_is_refused_by_name(tmp_path: Path) -> None:
    changed = {name: value for name, value in tensors().items() if name != "in2.clip_image"}
    with pytest.raises(DataError, match=r"no tensor `in2\.clip_image`"):
        compare_path(write_case(tmp_path, changed, fields()))
