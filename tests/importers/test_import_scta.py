"""Authors' checkpoints of SCTA and LAPS become ours."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import patchword
from patchword.encoders.all_tokens import ClassVitConfig, SwinPatchConfig
from patchword.encoders.bert import BertConfig
from patchword.errors import CheckpointError
from patchword.importers import scta as names
from patchword.importers.checkpoint import import_checkpoint
from patchword.importers.transformers_keys import image_key
from patchword.layers.condense import word_bank
from patchword.methods.scta import Laps, LapsConfig, Scta, SctaConfig
from patchword.types import Captions, Images

OPTIONS = {"img_sparse_ratio": 0.5, "img_aggr_ratio": 0.3, "cap_aggr_ratio": 0.75, "margin": 0.3, "max_word": 70}
BERT = {
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 12,
    "max_position_embeddings": 20,
}
VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 20,
    "image_size": 24,
    "patch_size": 4,
}
SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "patch_size": 4, "image_size": 224}


class Golden:
    """A checkpoint as the authors' code saves it, made from the training case."""

    def __init__(self, folder: Path) -> None:
        self.tensors = load_file(folder / "scta" / "case2.safetensors")
        fields = json.loads((folder / "scta" / "case2.json").read_text())
        self.state = {k.removeprefix("sd."): v for k, v in self.tensors.items() if k.startswith("sd.")}
        self.options: dict[str, Any] = {**fields["opt"], "image_config": fields["config"]["image"]["config"]}
        self.options["bert_config"] = fields["config"]["text"]["config"]

    def save(self, path: Path) -> Path:
        content = {"epoch": 7, "model": self.state, "best_rsum": 512.5, "Eiters": 123}
        torch.save({**content, "opt": argparse.Namespace(**self.options)}, path)
        return path


@pytest.fixture
def authors(golden: Path) -> Golden:
    return Golden(golden)


def old_names(method: Scta) -> dict[str, Tensor]:
    """The weights of one of our models under the names that transformers 4 and the authors' code give them."""
    state: dict[str, Tensor] = {}
    for key, value in method.state_dict().items():
        inner = key.removeprefix("image.patches.backbone.")
        if inner != key:
            inner = re.sub(
                r"^layers\.(\d+)\.attention\.([qkv])_proj\.", r"encoder.layer.\1.attention.attention.\2.", inner
            )
            inner = re.sub(r"^layers\.", "encoder.layer.", inner)
            inner = re.sub(r"\.attention\.([qkv])_proj\.", r".attention.self.\1.", inner)
            inner = inner.replace("attention.relative_position_bias.relative", "attention.self.relative")
            inner = inner.replace(".attention.o_proj.", ".attention.output.dense.")
            inner = inner.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
            for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
                inner = inner.replace(f"attention.{short}.", f"attention.{long}.").replace(
                    f"self.{short}.", f"self.{long}."
                )
            state[f"img_enc.visual_encoder.{inner}"] = value
        elif key != "bank":
            for ours, theirs in (
                ("image.fc.", "img_enc.vision_proj."),
                ("text.linear.", "txt_enc.fc."),
                ("text.bert.", "txt_enc.bert."),
                ("patch_condenser.norm.", "cross_net.img_aggr_net.weight.0."),
                ("patch_condenser.fc1.", "cross_net.img_aggr_net.weight.1."),
                ("patch_condenser.fc2.", "cross_net.img_aggr_net.weight.3."),
                ("patch_condenser.", "cross_net.img_aggr_net."),
                ("word_condenser.norm.", "cross_net.cap_aggr_net.layer_norm."),
                ("word_condenser.", "cross_net.cap_aggr_net."),
            ):
                if key.startswith(ours):
                    state[theirs + key.removeprefix(ours)] = value
                    break
    state["cross_net.img_aggr_net.weight.3.bias"] = torch.randn(method.patch_condenser.fc2.out_features)
    return state


def like_ours(method: Scta, found: Scta) -> None:
    """Both hold the same weights and give the same scores."""
    expected = method.state_dict()
    assert set(found.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items() if name != "bank")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_imported_checkpoint_loads_and_scores_like_the_authors_code(
    authors: Golden, tmp_path: Path, prefix: str
) -> None:
    authors.state = {prefix + key: value for key, value in authors.state.items()}
    result = import_checkpoint("scta", authors.save(tmp_path / "model_best.pth"), tmp_path / "ours")
    assert len(result.used) + len(result.dead) == len(authors.state)
    assert len(result.dead) == 5  # two poolers and the bias that the softmax cancels
    method = patchword.load(tmp_path / "ours", method="scta").method
    assert isinstance(method, Scta)
    tensors = authors.tensors
    with torch.no_grad():
        images = method.encode_images(Images(tensors["images"]))
        captions = method.encode_captions(Captions(tensors["tokens"], tensors["lengths"]))
        stored = pad_sequence([tensors[f"run1.fc2.{k}.weight"] for k in range(len(captions))], batch_first=True)
        found = method.compare(images, method.caption_tokens(captions, stored)[0])
    torch.testing.assert_close(found, tensors["run1.sims"], atol=1e-5, rtol=1e-5)
    assert torch.equal(method.bank, word_bank(4, 0))
    assert (method.loss.margin, method.loss.monitor_weight, method.config.word_limit) == (0.2, 2.0, 90)


def test_a_laps_checkpoint_has_other_names_and_no_word_condenser(authors: Golden, tmp_path: Path) -> None:
    authors.state = {
        key.replace("img_aggr_net", "aggr_net"): value
        for key, value in authors.state.items()
        if "cap_aggr_net" not in key
    }
    for new, old in (("img_sparse_ratio", "sparse_ratio"), ("img_aggr_ratio", "aggr_ratio")):
        authors.options[old] = authors.options.pop(new)
    authors.options["ratio_weight"] = authors.options.pop("monitor_weight") / 2
    import_checkpoint("laps", authors.save(tmp_path / "model_best.pth"), tmp_path / "ours")
    method = patchword.load(tmp_path / "ours").method
    assert isinstance(method, Laps)
    assert (method.name, method.config.keep_ratio, method.config.patch_ratio) == ("laps", 0.5, 0.3)
    assert method.loss.monitor_weight == 1.0
    assert not any("bank" in name or "word_condenser" in name for name in method.state_dict())


@pytest.mark.parametrize("kind", ["vit", "vit_5", "swin", "plain"])
def test_the_architecture_is_read_from_the_weights(kind: str) -> None:
    torch.manual_seed(0)
    image = SwinPatchConfig(arch=SWIN) if kind == "swin" else ClassVitConfig(arch=VIT)
    width = 64 if kind == "plain" else 20  # the joint width of both towers: no projections
    config = SctaConfig(joint_dim=width, image=image, text=BertConfig(arch=BERT))
    method = Scta(config)
    state = old_names(method)
    assert any("encoder.layer.0.attention.attention.query" in key for key in state) == (kind != "swin")
    assert any("vision_proj" in key for key in state) == (kind != "plain")
    if kind == "vit_5":  # a checkpoint saved under transformers 5
        state |= {
            f"img_enc.visual_encoder.{image_key(key.removeprefix(names.BACKBONE))}": state.pop(key)
            for key in list(state)
            if key.startswith(names.BACKBONE)
        }
    if kind == "swin":
        index = "img_enc.visual_encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"
        state[index] = torch.zeros(16, 16, dtype=torch.long)
    imported = names.import_state(state, OPTIONS)
    assert isinstance(imported.method, Scta)
    like_ours(method.eval(), imported.method)
    assert imported.method.has_class_token == (kind != "swin")
    assert (imported.method.loss.margin, imported.method.config.word_limit) == (0.3, 70)
    assert "cross_net.img_aggr_net.weight.3.bias" in imported.dead


def test_names_of_transformers_4_become_those_of_5() -> None:
    old = "encoder.layers.1.blocks.0."
    for before, after in {
        "encoder.layer.11.attention.attention.value.weight": "layers.11.attention.v_proj.weight",
        "encoder.layer.0.attention.output.dense.bias": "layers.0.attention.o_proj.bias",
        "encoder.layer.0.intermediate.dense.weight": "layers.0.mlp.fc1.weight",
        "encoder.layer.0.output.dense.weight": "layers.0.mlp.fc2.weight",
        "encoder.layer.2.layernorm_after.bias": "layers.2.layernorm_after.bias",
        f"{old}attention.self.query.bias": f"{old}attention.q_proj.bias",
        f"{old}attention.output.dense.weight": f"{old}attention.o_proj.weight",
        f"{old}attention.self.relative_position_bias_table": (
            f"{old}attention.relative_position_bias.relative_position_bias_table"
        ),
        f"{old}attention.self.relative_position_index": None,
        f"{old}intermediate.dense.bias": f"{old}mlp.fc1.bias",
        f"{old}output.dense.bias": f"{old}mlp.fc2.bias",
        "encoder.layers.0.downsample.reduction.weight": "encoder.layers.0.downsample.reduction.weight",
        "layers.0.attention.q_proj.weight": "layers.0.attention.q_proj.weight",
        "layernorm.weight": "layernorm.weight",
    }.items():
        assert image_key(before) == after
        if after is not None:
            assert image_key(after) == after


def refused(state: dict[str, Tensor], options: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        names.import_state(state, options)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_unknown_is_named(authors: Golden) -> None:
    state, options = authors.state, authors.options
    without = {k: v for k, v in state.items() if k != "cross_net.cap_aggr_net.fc1.bias"}
    refused(without, options, r"1 live keys are missing \(word_condenser\.fc1\.bias, in the file `cross_net\.cap_")
    refused({**state, "cross_net.fresh.weight": torch.zeros(1)}, options, "key `cross_net.fresh.weight` is unknown")
    refused(
        {k: v for k, v in state.items() if "aggr_net" not in k}, options, "img_aggr_net.weight.0.weight` is missing"
    )
    refused({k: v for k, v in state.items() if "patch_embeddings" not in k}, options, "patch_embeddings.projection")
    refused(state, {k: v for k, v in options.items() if k != "cap_aggr_ratio"}, "option `cap_aggr_ratio` is not in")
    refused(state, {**options, "img_aggr_ratio": 0.9}, r"`patch_condenser.fc2.weight` has shape \(5, 4\)")
    refused(state, {**options, "image_config": None}, "ViT of hidden size 32")


@pytest.mark.parametrize("name", ["intermediate.dense.weight", "position_embeddings"])
def test_a_vit_without_what_tells_its_size_is_refused(name: str) -> None:
    state = old_names(Scta(SctaConfig(joint_dim=64, image=ClassVitConfig(arch=VIT), text=BertConfig(arch=BERT))))
    without = {k: v for k, v in state.items() if not (k.startswith(names.BACKBONE) and name in k)}
    refused(without, OPTIONS, rf"live key `{names.BACKBONE}.*{name}` is missing")


def test_the_options_give_the_loss(authors: Golden) -> None:
    assert names.loss_of({"max_violation": True}).warmup_epochs == 0
    assert names.loss_of({"vse_mean_warmup_epochs": 2}).warmup_epochs == 2
    assert names.loss_of({}).warmup_epochs == 1
    assert isinstance(names.config_of(authors.state, authors.options), SctaConfig)
    assert not isinstance(names.config_of(authors.state, authors.options), LapsConfig)
