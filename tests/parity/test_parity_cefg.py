import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchword.cli import main
from patchword.errors import DataError
from patchword.parity.cases import Ledger, find_cases
from patchword.parity.run import compare_path

GOLDEN = Path(__file__).parents[1] / "golden" / "cefg"
MODELS = ["case1", "case2"]
OFF = 1e-3


def tensors_of(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}.safetensors")


def fields_of(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))
    return found


def write(folder: Path, tensors: dict[str, Tensor], fields: dict[str, Any]) -> Path:
    """A changed case under a name that says nothing."""
    path = folder / "zzz.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    if tensors:
        save_file(tensors, path.with_suffix(".safetensors"))
    return path


def expected_of(case: str) -> list[str]:
    """Names of the outputs of the authors' code."""
    return sorted(name for name in tensors_of(case) if not name.startswith(("in.", "state.")))


def off(value: Tensor) -> Tensor:
    """The tensor with its largest entry changed: by 1e-3, a count by 1."""
    flat = value.flatten().clone()
    flat[flat.abs().argmax()] += OFF if value.is_floating_point() else 1
    return flat.view(value.shape)


@cache
def all_off(case: str) -> Ledger:
    """The comparison of a case in which every output is off at once; none takes part in computing another."""
    tensors = tensors_of(case)
    tensors |= {name: off(tensors[name]) for name in expected_of(case)}
    with TemporaryDirectory() as folder:
        return compare_path(write(Path(folder), tensors, fields_of(case)))


@pytest.mark.parametrize("path", find_cases([GOLDEN]), ids=lambda p: p.stem)
def test_every_case_passes(path: Path) -> None:
    ledger = compare_path(path)
    assert ledger.passed, [row for row in ledger.rows if not row.passed]
    assert all("dead in the authors' code" in left for left in ledger.not_compared)


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in MODELS for name in expected_of(case)])
def test_one_changed_value_is_a_miss(case: str, name: str) -> None:
    rows = [row for row in all_off(case).rows if row.name == name]
    assert rows, f"{name} is not compared"
    if name == "grad_norm.total" and tensors_of(case)[name].abs().max() > 30:
        return  # float32 leaves more than 1e-3 of a norm of hundreds open
    assert not all(row.passed for row in rows)


def test_a_changed_gradient_norm_is_a_miss(tmp_path: Path) -> None:
    tensors = tensors_of("case2")
    tensors["grad_norm.total"] *= 1 + 1e-4
    ledger = compare_path(write(tmp_path, tensors, fields_of("case2")))
    assert [row.name for row in ledger.rows if not row.passed] == ["grad_norm.total"]


def change_caption(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["in.captions"][0, 1] = 5 if tensors["in.captions"][0, 1] != 5 else 6


def change_length(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["lengths"][0] += 1


def change_graph(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["in.amr_tokens"][0, 1] = 5 if tensors["in.amr_tokens"][0, 1] != 5 else 6


def change_adjacency(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["in.adj"][0, 0] = 0
    tensors["in.adj"][0, 0, [0, 20]] = 1


def change_weight(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    tensors["state.sim_enc.emb_common.weight"] = 2 * tensors["state.sim_enc.emb_common.weight"]


def change_margin(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["margin"] += OFF


def change_negatives(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["max_violation"] = not fields["config"]["max_violation"]


def change_rate(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["learning_rate"] += OFF


def change_clipping(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["parameters_without_gradient"].pop()


def change_width(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    fields["config"]["sim_dim"] += 1


CHANGES = [
    change_caption, change_length, change_graph, change_adjacency, change_weight, change_margin, change_negatives,
    change_rate, change_clipping, change_width,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_inputs_and_settings_are_noticed(
    tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]
) -> None:
    tensors, fields = tensors_of("case2"), fields_of("case2")
    change(tensors, fields)
    assert not compare_path(write(tmp_path, tensors, fields)).passed


@pytest.mark.parametrize("name", ["eval.sims", "train.sims", "train.loss"])
def test_missing_outputs_are_not_passed_over(tmp_path: Path, name: str) -> None:
    tensors, fields = tensors_of("case2"), fields_of("case2")
    del tensors[name], fields["tensors"][name]
    with pytest.raises(DataError, match=f"has no '{name}'"):
        compare_path(write(tmp_path, tensors, fields))


def test_a_listed_tensor_that_is_missing_is_a_miss(tmp_path: Path) -> None:
    tensors, fields = tensors_of("case1"), fields_of("case1")
    del tensors["eval.img_context"]
    with pytest.raises(DataError, match=r"lacks the tensor `eval\.img_context`"):
        compare_path(write(tmp_path, tensors, fields))


def test_training_with_unknown_draws_is_listed_as_not_compared(tmp_path: Path) -> None:
    tensors, fields = tensors_of("case2"), fields_of("case2")
    fields["config"]["dropout_in_train_case"] = 0.4
    left = compare_path(write(tmp_path, tensors, fields)).not_compared
    assert any(one.startswith("train.sims (made with dropout 0.4") for one in left)


@pytest.mark.parametrize("name", ["out.adj_released", "out.adj_all_sectors"])
def test_one_changed_neighbour_is_a_miss(tmp_path: Path, name: str) -> None:
    tensors = tensors_of("adj_case1")
    tensors[name][1, 2, 3] = 1 - tensors[name][1, 2, 3]
    ledger = compare_path(write(tmp_path, tensors, fields_of("adj_case1")))
    assert [row.name for row in ledger.rows if not row.passed] == [name]


def test_moved_boxes_are_noticed(tmp_path: Path) -> None:
    tensors = tensors_of("adj_case1")
    tensors["in.boxes_xyxy"][0] = torch.flip(tensors["in.boxes_xyxy"][0], [0])
    assert not compare_path(write(tmp_path, tensors, fields_of("adj_case1"))).passed


@pytest.mark.parametrize("key", ["top", "nodes", "edges", "attributes", "metadata"])
def test_one_changed_part_of_a_graph_is_a_miss(tmp_path: Path, key: str) -> None:
    fields = fields_of("penman_case1")
    graph = fields["graphs"][1]
    graph[key] = "x" if key == "top" else {**graph[key], "id": "x"} if key == "metadata" else graph[key][:-1]
    ledger = compare_path(write(tmp_path, {}, fields))
    assert [row.name for row in ledger.rows if not row.passed] == [f"graphs.1.{key}"]


def test_a_missing_graph_is_a_miss(tmp_path: Path) -> None:
    fields = fields_of("penman_case1")
    fields["graphs"].pop()
    assert not compare_path(write(tmp_path, {}, fields)).passed


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(GOLDEN)]) == 0
    assert "4 of 4 cases passed" in capsys.readouterr().out
