"""The golden cases of SCTA pass, and none of their numbers may be off by a thousandth."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchword.parity.cases import Case, Ledger, find_cases
from patchword.parity.run import compare_path, runner_of

GOLDEN = Path(__file__).parents[1] / "golden" / "scta"
INPUTS = ("sd.", "images", "tokens", "lengths", "img_ids", "raw.")
OFF = 1e-3


def tensors_of(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}.safetensors")


def expected_of(case: str) -> list[str]:
    """Names of the tensors of a case that are outputs of the authors' code."""
    return [name for name in sorted(tensors_of(case)) if not name.startswith(INPUTS)]


def off_by_a_little(value: Tensor) -> Tensor:
    """The tensor with its largest entry changed by 1e-3, or by one where it holds whole numbers."""
    flat = value.flatten().clone()
    if value.is_floating_point():
        flat[flat.abs().argmax()] += OFF
    else:
        flat[0] += 1
    return flat.view(value.shape)


def compare_changed(case: str, tensors: dict[str, Tensor], fields: dict[str, Any] | None = None) -> Ledger:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{case}.json"
        path.write_text(json.dumps(fields) if fields is not None else (GOLDEN / f"{case}.json").read_text())
        save_file(tensors, path.with_suffix(".safetensors"))
        return compare_path(path)


@cache
def all_off(case: str) -> Ledger:
    """The comparison of a case whose outputs are all off at once.

    Only the stored layers take part in computing others, so they are left alone here.
    """
    tensors = tensors_of(case)
    return compare_changed(case, {n: off_by_a_little(v) if n in outputs(case) else v for n, v in tensors.items()})


def outputs(case: str) -> list[str]:
    """Outputs that no other output is computed from."""
    return [name for name in expected_of(case) if ".fc2." not in name]


@pytest.mark.parametrize("path", find_cases([GOLDEN]), ids=lambda p: p.stem)
def test_every_case_passes(path: Path) -> None:
    ledger = compare_path(path)
    assert ledger.passed, [row for row in ledger.rows if not row.passed]
    assert len(ledger.rows) >= 1
    assert all("stored, never used" in left or "never read" in left for left in ledger.not_compared)


def test_of_a_training_case_only_an_unread_option_is_not_compared() -> None:
    ledger = compare_path(GOLDEN / "case2.json")
    assert ledger.not_compared == ["opt.attention_weight (never read by the authors' code)"]


@pytest.mark.parametrize(("case", "name"), [(c, n) for c in ("case2", "case4", "case5") for n in outputs(c)])
def test_one_changed_value_of_any_tensor_is_a_miss(case: str, name: str) -> None:
    rows = [row for row in all_off(case).rows if row.name == name]
    assert rows, f"{name} is not compared"
    assert not all(row.passed for row in rows)


@pytest.mark.parametrize("name", ["run0.fc2.1.weight", "run1.fc2.0.bias", "run2.fc2.5.weight"])
def test_a_changed_layer_is_not_the_one_that_we_draw(name: str) -> None:
    tensors = tensors_of("case2")
    ledger = compare_changed("case2", {**tensors, name: off_by_a_little(tensors[name])})
    assert not ledger.passed
    assert [row.name for row in ledger.rows if not row.passed and row.note == "drawn by us"].count(name) == 2


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("num_patches",), 37),
        (("opt", "img_sparse_ratio"), 0.5001),
        (("opt", "margin"), 0.201),
        (("opt", "loss"), "trip"),
        (("runs", 1, "loss"), 3.7592),
        (("runs", 0, "warmup_alpha"), 0.26),
        (("runs", 0, "max_violation"), True),
        (("runs", 2, "rng_seed"), 34),
        (("runs", 1, "params_without_grad"), []),
    ],
    ids=lambda v: ".".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_one_changed_field_is_a_miss(place: tuple[str | int, ...], value: Any) -> None:
    fields = json.loads((GOLDEN / "case2.json").read_text())
    here: Any = fields
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    assert not compare_changed("case2", tensors_of("case2"), fields).passed


def test_words_and_runs_of_a_caption_case_are_compared() -> None:
    fields = json.loads((GOLDEN / "case4.json").read_text())
    fields["basic_tokens"][0][0] = "an"
    fields["runs"][1]["seed"] = 99
    missed = {row.name for row in compare_changed("case4", tensors_of("case4"), fields).rows if not row.passed}
    assert {"basic_tokens.0", "train0.ids.0"} <= missed
    assert not any(name.startswith("eval.") for name in missed)


def forward_case(folder: Path, *, towers: bool = True, **more: Any) -> Path:
    """An evaluation case from the training case's weights; its scores are ours, in shards, with drawn layers.

    Without ``towers`` it holds embeddings in place of the encoders' weights and inputs.
    """
    from patchword.importers.scta import import_state
    from patchword.methods.scta import Scta
    from patchword.types import Captions, Images

    fields, tensors = json.loads((GOLDEN / "case2.json").read_text()), tensors_of("case2")
    state = {name.removeprefix("sd."): value for name, value in tensors.items() if name.startswith("sd.")}
    options = {**fields["opt"], "image_config": fields["config"]["image"]["config"]}
    method = import_state(state, {**options, "bert_config": fields["config"]["text"]["config"]}).method
    assert isinstance(method, Scta)
    method.config = method.config.model_copy(update={"word_head": "resample"})
    with torch.no_grad():
        images = method.encode_images(Images(tensors["images"][:2]))
        captions = method.encode_captions(Captions(tensors["tokens"], tensors["lengths"]))
        torch.manual_seed(5)
        blocks = [[method.score(images.slice(i, i + 1), captions.slice(c, c + 1)) for c in range(6)] for i in range(2)]
        given = {"img_emb": images.padded()[0], "cap_emb": captions.padded()[0], "lengths": tensors["lengths"]}
    kept = {n: v for n, v in tensors.items() if n.startswith("sd.") or n in ("tokens", "lengths")}
    kept |= {"images": tensors["images"][:2].contiguous()}
    if not towers:
        kept = {n: v for n, v in tensors.items() if n.startswith("sd.cross_net.")} | given
        fields["config"].pop("image"), fields["config"].pop("text")
    sims = torch.cat([torch.cat(row, dim=1) for row in blocks])
    recall = {"i2t": [50.0, 100.0, 100.0], "t2i": [50.0, 100.0, 100.0]}
    for name in ("runs", "tensors"):
        fields.pop(name)
    fields |= {"kind": "sharded scoring", "shard_size": 1, "sim_seed": 5, "recall": recall, **more}
    path = folder / "shards.json"
    path.write_text(json.dumps(fields))
    save_file({**kept, "sims": sims}, path.with_suffix(".safetensors"))
    return path


@pytest.mark.parametrize("towers", [True, False])
def test_scores_in_shards_are_drawn_shard_by_shard(tmp_path: Path, towers: bool) -> None:
    ledger = compare_path(forward_case(tmp_path, towers=towers))
    rows = {row.name: row for row in ledger.rows}
    assert all("never" in left for left in ledger.not_compared)
    assert rows["sims"].passed
    assert {"recall.i2t", "recall.t2i"} <= set(rows)
    other = {row.name: row for row in compare_path(forward_case(tmp_path, towers=towers, shard_size=2)).rows}
    assert not other["sims"].passed


def test_the_comparison_is_chosen_by_fields_not_by_file_names() -> None:
    for path in find_cases([GOLDEN]):
        fields = json.loads(path.read_text())
        assert runner_of(Case(Path("elsewhere.json"), fields, {})) is not None
        assert runner_of(Case(Path("elsewhere.json"), {**fields, "method": "laps"}, {})) is not None
