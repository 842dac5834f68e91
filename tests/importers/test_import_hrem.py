import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import patchword
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError
from patchword.importers.checkpoint import ImportResult, import_checkpoint
from patchword.importers.hrem import config_of, loss_of, our_key
from patchword.methods.base import is_training_only
from patchword.methods.hrem import Hrem, HremConfig
from patchword.types import Captions, Images

BERT = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
}
OPTIONS: dict[str, Any] = {"nhead": 2, "dataset": "f30k", "dropout": 0.1, "bert_config": BERT, "bert_path": "elsewhere"}
THEIRS = {
    "image.fc.": "img_enc.fc.fc.",
    "image.mlp.first.": "img_enc.fc.mlp.layers.0.",
    "image.mlp.second.": "img_enc.fc.mlp.layers.1.",
    "image.mlp.norm.": "img_enc.fc.mlp.bns.0.",
    "image_pool.graph.layer.": "img_enc.aggr.layers.0.",
    "text.": "txt_enc.",
    "text_pool.graph.layer.": "txt_enc.aggr.layers.0.",
}
DEAD = {
    "img_enc.fc.mlp.bns.1.running_mean": torch.ones(6),
    "txt_enc.bert.pooler.dense.bias": torch.ones(8),
    "txt_enc.bert.embeddings.position_ids": torch.arange(20)[None],
}


@pytest.fixture
def original() -> Hrem:
    """A model whose weights are all different from fresh ones."""
    torch.manual_seed(3)
    config = HremConfig(joint_dim=6, heads=2, image=RegionsConfig(width=5), text=BertConfig(arch=BERT))
    made = Hrem(config).eval()
    with torch.no_grad():
        for value in [*made.parameters(), *(b for b in made.buffers() if b.is_floating_point())]:
            value.copy_(torch.rand_like(value))
    return made


def authors_state(method: Hrem) -> dict[str, Tensor]:
    """Its weights under the authors' names, with the dead ones."""
    state = dict(DEAD)
    for key, value in method.state_dict().items():
        if not is_training_only(method, key):
            ours = next(prefix for prefix in THEIRS if key.startswith(prefix))
            state[THEIRS[ours] + key.removeprefix(ours)] = value
    return state


def bring(folder: Path, state: dict[str, Tensor], options: dict[str, Any], prefix: str = "") -> ImportResult:
    items = [
        {prefix + k.removeprefix(tower): v for k, v in state.items() if k.startswith(tower)}
        for tower in ("img_enc.", "txt_enc.")
    ]
    content = {"epoch": 7, "model": items, "best_rsum": 512.5, "opt": argparse.Namespace(**options), "Eiters": 123}
    torch.save(content, folder / "model_best.pth")
    return import_checkpoint("hrem", folder / "model_best.pth", folder / "ours")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_imported_checkpoint_scores_like_the_original(original: Hrem, tmp_path: Path, prefix: str) -> None:
    state = authors_state(original)
    result = bring(tmp_path, state, OPTIONS, prefix)
    assert set(result.dead) == set(DEAD)
    assert set(result.used) == set(state) - set(DEAD)
    model = patchword.load(result.folder, method="hrem")
    images = Images(torch.rand(3, 4, 5), torch.tensor([4, 2, 3]))
    captions = Captions(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2]))
    with torch.no_grad():
        found, expected = (
            m.score(m.encode_images(images), m.encode_captions(captions)) for m in (model.method, original)
        )
    torch.testing.assert_close(found, expected)


def test_settings_come_from_the_options(original: Hrem) -> None:
    state = authors_state(original)
    options = {
        **OPTIONS,
        "dataset": "coco",
        "mask_weight": 1.5,
        "norm_input": 0,
        "reg_loss_weight": 3,
        "mask_repeat": 0,
        "no_imgnorm": True,
    }
    config, loss = config_of(state, options), loss_of(options)
    assert (config.heads, config.mask_weight, config.graph_input, config.unit_images) == (2, 1.5, "raw", False)
    assert (loss.trip_cutoff, loss.regulariser, loss.same_image, loss.graph_from_step) == (1.9, 3.0, "negative", 8000)
    assert loss.trip_margin == 0.2
    assert loss_of(OPTIONS).trip_cutoff == 1.7


def test_missing_and_unknown_keys_are_refused(original: Hrem, tmp_path: Path) -> None:
    state = authors_state(original)
    for key in ("img_enc.aggr.layers.0.norm2.bias", "txt_enc.linear.weight", "img_enc.fc.mlp.bns.0.running_var"):
        with pytest.raises(CheckpointError, match=f"missing .*in the file `{key}`"):
            bring(tmp_path, {k: v for k, v in state.items() if k != key}, OPTIONS)
    for key in ("img_enc.mha_pool.query.0.weight", "txt_enc.fc_clip.fc.weight", "img_enc.aggr.layers.1.norm1.bias"):
        with pytest.raises(CheckpointError, match="is unknown"):
            bring(tmp_path, {**state, key: torch.ones(6)}, OPTIONS)
    with pytest.raises(CheckpointError, match="shape"):
        bring(tmp_path, {**state, "txt_enc.linear.bias": torch.ones(7)}, OPTIONS)
    assert not (tmp_path / "ours").exists()


def test_heads_that_the_weights_can_not_tell_are_demanded(original: Hrem, tmp_path: Path) -> None:
    options = {k: v for k, v in OPTIONS.items() if k != "nhead"}
    with pytest.raises(CheckpointError, match="option `nhead` is None"):
        bring(tmp_path, authors_state(original), options)


def test_names_of_training() -> None:
    assert our_key("criterion.adj_model.adj_learning.mlp_t2i.3.bias") == "graph.relation.t2i.2.bias"
    assert our_key("criterion.gnn.layers.0.norm1.weight") == "graph.attention.layers.0.norm1.weight"
    with pytest.raises(CheckpointError, match="is unknown"):
        our_key("criterion.gnn.norm.weight")
