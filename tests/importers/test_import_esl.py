"""Checkpoints of ESL: the system is told by the keys, every live key is demanded, nothing is left over."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import patchword
from patchword.cli import main
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError
from patchword.importers.checkpoint import import_checkpoint
from patchword.importers.esl import ITEMS
from patchword.methods.esl import Esl, EslConfig
from patchword.types import Captions, Images

KINDS = ("heuristic", "adaptive")
ARCH = {
    "vocab_size": 20,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
}
CALCULATOR, LEVELS = "sims.calculator_1.", "plus_encoder.encoders_1."
Parts = list[dict[str, Tensor]]  # image, text, similarity


def a_method(kind: str, *, is_grid: bool = False, **changes: object) -> Esl:
    """A small model with random weights everywhere."""
    torch.manual_seed(3)
    values = {
        "pyramid": kind, "joint_dim": 20, "levels": 4, "image": RegionsConfig(width=6), "residual_mlp": not is_grid,
        "text": BertConfig(arch=ARCH),
    }  # fmt: skip
    method = Esl(EslConfig.model_validate(values | changes)).eval()
    with torch.no_grad():
        for value in method.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.1)
    return method


def authors_parts(method: Esl, *, is_grid: bool = False) -> Parts:
    """The state of a model under the authors' names, dead keys included."""
    state = {k: v.clone() for k, v in method.state_dict().items()}
    image = {("image_encoder." if is_grid else "") + f"fc.{k}": state[f"image.fc.{k}"] for k in ("weight", "bias")}
    if not is_grid:
        for theirs, ours in (("layers.0", "first"), ("layers.1", "second"), ("bns.0", "norm")):
            prefix = f"image.mlp.{ours}."
            image |= {f"mlp.{theirs}.{k.removeprefix(prefix)}": v for k, v in state.items() if k.startswith(prefix)}
        image |= {"mlp.bns.1.weight": torch.ones(20), "mlp.bns.1.num_batches_tracked": torch.tensor(0)}
    text = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    text |= {"bert.pooler.dense.weight": torch.ones(64, 64), "bert.embeddings.position_ids": torch.arange(16)[None]}
    forms: dict[str, Tensor] = {
        f"{CALCULATOR}sim_eval.weight": state["forms.weights"][None],
        f"{CALCULATOR}temp_scale.weight": state["log_temperature"][None, None],
    }
    for level in range(method.config.levels):
        forms[f"{CALCULATOR}masks_{level}.weight"] = state[f"forms.matrices.{level}"]
        forms[f"{CALCULATOR}lynorm_{level}.weight"] = state[f"forms.gains.{level}"]
        forms[f"{CALCULATOR}lynorm_{level}.bias"] = state[f"forms.shifts.{level}"]
    is_heuristic = method.config.pyramid == "heuristic"
    exponent = (
        [state["forms.threshold"], state["forms.sharpness"]] if is_heuristic else [torch.zeros(()), torch.ones(())]
    )
    for name, value in zip(("temp_scale_1", "temp_scale_2"), exponent, strict=True):
        forms[f"{CALCULATOR}{name}.weight"] = value[None, None]
    for level in range(1, method.config.levels):
        for side, short in (("image", "img"), ("text", "txt")):
            kind, name = ("filters", f"kernel_{short}_{level}") if is_heuristic else ("masks", f"masks_{level}")
            forms[f"{LEVELS}{side}_levels.{name}.weight"] = state[f"{side}_pyramid.{kind}.{level - 1}"]
    return [image, text, forms]


def save(path: Path, parts: Parts, prefix: str = "module.", **options: Any) -> Path:
    """A file as the authors' code saves it."""
    named = [{prefix + k: v for k, v in part.items()} for part in parts]
    opt = argparse.Namespace(**{"margin": 0.2, "no_imgnorm": False, "no_txtnorm": False, **options})
    torch.save({"epoch": 4, "model": named, "best_rsum": 500.0, "opt": opt, "Eiters": 1}, path)
    return path


def scores(method: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    images = Images(torch.randn(3, 4, 6, generator=draw), torch.tensor([4, 4, 4]))
    captions = Captions(torch.randint(1, 20, (2, 5), generator=draw), torch.tensor([5, 5]))
    found: Tensor = method.score(method.encode_images(images), method.encode_captions(captions))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_grid", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_imported_checkpoint_is_the_same_model(tmp_path: Path, kind: str, is_grid: bool, prefix: str) -> None:
    method = a_method(kind, is_grid=is_grid)
    parts = authors_parts(method, is_grid=is_grid)
    result = import_checkpoint("esl", save(tmp_path / "model_best.pth", parts, prefix), tmp_path / "ours")
    every = {f"{tower}.{k}" for tower, part in zip(("img_enc", "txt_enc", "sim_vec"), parts, strict=True) for k in part}
    assert set(result.used) | set(result.dead) == every
    dead = {"txt_enc.bert.pooler.dense.weight", "txt_enc.bert.embeddings.position_ids"}
    dead |= set() if is_grid else {"img_enc.mlp.bns.1.weight", "img_enc.mlp.bns.1.num_batches_tracked"}
    if kind == "adaptive":
        dead |= {f"sim_vec.{CALCULATOR}temp_scale_{k}.weight" for k in (1, 2)}
    assert set(result.dead) == dead
    model = patchword.load(result.folder, method="esl")
    assert isinstance(model.method, Esl)
    assert (model.method.config.pyramid, model.method.config.levels, model.method.config.joint_dim) == (kind, 4, 20)
    torch.testing.assert_close(scores(model.method), scores(method), atol=0, rtol=0)


def test_sizes_are_read_from_the_shapes(tmp_path: Path) -> None:
    for kind in KINDS:
        method = a_method(kind, joint_dim=28, levels=3, kernel_size=3)
        result = import_checkpoint("esl", save(tmp_path / "m.pth", authors_parts(method)), tmp_path / kind)
        found: Any = patchword.load(result.folder).method.config
        assert (found.joint_dim, found.levels, found.kernel_size) == (28, 3, 3)


def test_options_that_weights_can_not_tell(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", authors_parts(a_method("adaptive")), no_imgnorm=True, margin=0.35)
    found: Any = patchword.load(import_checkpoint("esl", path, tmp_path / "ours").folder).method
    assert (found.config.unit_patches, found.config.unit_words, found.loss.margin) == (False, True, 0.35)


@pytest.mark.parametrize("kind", KINDS)
def test_every_live_key_is_demanded(tmp_path: Path, kind: str) -> None:
    parts = authors_parts(a_method(kind))
    dead = ("bert.pooler.", "bert.embeddings.position_ids", "mlp.bns.1.")
    for number, part in enumerate(parts):
        for key in part:
            left = [dict(p) for p in parts]
            del left[number][key]
            path = save(tmp_path / "m.pth", left)
            is_dead = key.startswith(dead) or (kind == "adaptive" and "temp_scale_" in key)
            if is_dead:
                import_checkpoint("esl", path, tmp_path / "ours")
                continue
            with pytest.raises(CheckpointError, match=r"missing|no known text encoder|fit no esl model") as caught:
                import_checkpoint("esl", path, tmp_path / "ours")
            if "live keys are missing" in str(caught.value):
                assert f"{ITEMS[number]}{key}` ...) and 0" in str(caught.value)  # the file's name, not only ours


def test_a_missing_key_is_named_as_in_the_file(tmp_path: Path) -> None:
    parts = authors_parts(a_method("adaptive"))
    del parts[2][f"{LEVELS}image_levels.masks_2.weight"]
    key = f"{ITEMS[2]}{LEVELS}image_levels.masks_2.weight"
    said = f"1 live keys are missing (image_pyramid.masks.1, in the file `{key}` ...)"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        import_checkpoint("esl", save(tmp_path / "m.pth", parts), tmp_path / "ours")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_unknown_keys_and_wrong_shapes_are_refused(tmp_path: Path, number: int) -> None:
    parts = authors_parts(a_method("heuristic"))
    parts[number]["something.new"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"something\.new` is unknown"):
        import_checkpoint("esl", save(tmp_path / "m.pth", parts), tmp_path / "ours")
    del parts[number]["something.new"]
    key = ("mlp.layers.1.weight", "linear.weight", f"{CALCULATOR}lynorm_2.bias")[number]
    parts[number][key] = parts[number][key][:, :-1]
    with pytest.raises(CheckpointError, match="has shape"):
        import_checkpoint("esl", save(tmp_path / "m.pth", parts), tmp_path / "ours")


def test_the_pyramid_must_be_one_of_the_two(tmp_path: Path) -> None:
    heuristic, adaptive = (authors_parts(a_method(kind)) for kind in KINDS)
    both = [heuristic[0], heuristic[1], heuristic[2] | adaptive[2]]
    neither = [heuristic[0], heuristic[1], {k: v for k, v in heuristic[2].items() if not k.startswith(LEVELS)}]
    for parts, found in ((both, "both"), (neither, "neither")):
        with pytest.raises(CheckpointError, match=f"has {found} of the filters of ESL-H"):
            import_checkpoint("esl", save(tmp_path / "m.pth", parts), tmp_path / "ours")


def test_other_checkpoints_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = authors_parts(a_method("adaptive"))
    path = save(tmp_path / "m.pth", parts[:2])
    assert main(["import", "esl", str(path), "-o", str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert "Expected 3 (img_enc, txt_enc, sim_vec)" in said
    assert said.count("\n") == 1
    assert main(["import", "esl", str(save(path, parts)), "-o", str(tmp_path / "ours")]) == 0
