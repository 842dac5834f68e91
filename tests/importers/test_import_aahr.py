import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import patchword
from patchword.errors import CheckpointError
from patchword.importers.aahr import our_part, stack_heads
from patchword.importers.checkpoint import ImportResult, import_checkpoint
from patchword.methods.aahr import Aahr
from patchword.types import Captions, Images

CASE = Path(__file__).parents[1] / "golden" / "aahr" / "case2"
# Stored by the authors' code and never used; transformers of those days also stored position ids.
DEAD = {
    "img_enc.fc.mlp.bns.1.weight": torch.ones(16),
    "img_enc.fc.mlp.bns.1.num_batches_tracked": torch.tensor(3),
    "txt_enc.bert.pooler.dense.weight": torch.ones(16, 16),
    "txt_enc.bert.embeddings.position_ids": torch.arange(40)[None],
}


class Authors:
    """A checkpoint as the authors' code saves it, made from the golden case."""

    def __init__(self) -> None:
        self.tensors = load_file(CASE.with_suffix(".safetensors"))
        config = json.loads(CASE.with_suffix(".json").read_text())["config"]
        bert = {
            "vocab_size": config["vocab"],
            "hidden_size": config["bert_dim"],
            "num_hidden_layers": config["bert_layers"],
            "num_attention_heads": config["bert_heads"],
            "intermediate_size": config["bert_intermediate"],
            "max_position_embeddings": config["bert_max_pos"],
        }
        self.options: dict[str, Any] = {**config, "bert_config": bert}
        named = {k.removeprefix("state."): v for k, v in self.tensors.items()}
        self.state = {k: v for k, v in named.items() if k.startswith(("img_enc.", "txt_enc."))} | DEAD

    def bring(self, folder: Path, prefix: str = "") -> ImportResult:
        items: list[dict[str, Tensor]] = [
            {prefix + k.removeprefix(tower): v for k, v in self.state.items() if k.startswith(tower)}
            for tower in ("img_enc.", "txt_enc.")
        ]
        opt = argparse.Namespace(**self.options)
        content = {"epoch": 7, "model": items, "best_rsum": 512.5, "opt": opt, "Eiters": 123}
        torch.save(content, folder / "model_best.pth")
        return import_checkpoint("aahr", folder / "model_best.pth", folder / "ours")


@pytest.fixture
def authors() -> Authors:
    return Authors()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_imported_checkpoint_scores_like_the_authors_code(authors: Authors, tmp_path: Path, prefix: str) -> None:
    result = authors.bring(tmp_path, prefix)
    assert set(result.dead) == set(DEAD)
    assert set(result.used) == set(authors.state) - set(DEAD)
    model = patchword.load(result.folder, method="aahr")
    t = authors.tensors
    with torch.no_grad():
        images = Images(t["in1.images"], t["in1.image_lengths"], extra={"clip": t["in1.clip_image"]})
        captions = Captions(t["in1.captions"], t["in1.caption_lengths"], {"clip": t["in1.clip_text"]})
        found = model.method.score(model.method.encode_images(images), model.method.encode_captions(captions))
    torch.testing.assert_close(found, t["eval.sim"], atol=1e-5, rtol=1e-5)


def test_settings_come_from_the_options_and_the_shapes(authors: Authors, tmp_path: Path) -> None:
    authors.options |= {"use_moco": 0, "base_loss": "vse", "vse_mean_warmup_epochs": 3}
    method = patchword.load(authors.bring(tmp_path).folder).method
    assert isinstance(method, Aahr)
    config, loss = method.config, method.loss
    assert (config.heads, config.guide_heads, config.clip_dim, config.joint_dim) == (2, 8, 20, 16)
    assert (config.mask_weight, config.top_k, config.prototypes, config.queue) == (1.5, 3, 12, 0)
    assert (loss.base, loss.trip_cutoff, loss.warmup_epochs, loss.graph_from_step) == ("vse", 1.9, 3, 1)
    assert (loss.swav_from_step, loss.same_image) == (2, "ignored")


def test_the_batch_of_the_authors_is_kept_for_evaluation(authors: Authors, tmp_path: Path) -> None:
    for batch, stored in ((48, 48), (0, None), ("48", None), (None, None)):
        authors.options["batch_size"] = batch
        assert patchword.load(authors.bring(tmp_path).folder).about.get("eval_batch") == stored


def test_every_live_key_is_demanded(authors: Authors, tmp_path: Path) -> None:
    live = sorted(set(authors.state) - set(DEAD))
    for key in ("img_enc.mha_pool.key.3.bias", "txt_enc.gated_fusion.fc_gate.weight", "img_enc.fc.mlp.bns.0.bias"):
        assert key in live
        kept = authors.state.pop(key)
        with pytest.raises(CheckpointError, match=r"missing|heads|shape"):
            authors.bring(tmp_path)
        authors.state[key] = kept
    assert not (tmp_path / "ours").exists()


def test_unknown_keys_and_other_methods_are_refused(authors: Authors, tmp_path: Path) -> None:
    authors.state["img_enc.gpool.linear.weight"] = torch.ones(2)
    with pytest.raises(CheckpointError, match=r"`img_enc\.gpool\.linear\.weight` is unknown"):
        authors.bring(tmp_path)
    authors = Authors()
    authors.state = {
        k: v for k, v in authors.state.items() if not any(p in k for p in ("fc_clip", "mha_pool", "gated"))
    }
    with pytest.raises(CheckpointError, match="checkpoint of another method"):
        authors.bring(tmp_path)


def test_heads_that_the_weights_can_not_tell_are_demanded(authors: Authors, tmp_path: Path) -> None:
    del authors.options["nhead"]
    with pytest.raises(CheckpointError, match="option `nhead` is None"):
        authors.bring(tmp_path)


def test_heads_are_joined_in_order() -> None:
    parts = {f"image_head.pool.query.{h}.bias": torch.tensor([float(h)]) for h in (10, 2, 0, 1, *range(3, 10))}
    joined = stack_heads({**parts, "image.fc.bias": torch.zeros(1)})
    assert joined["image_head.pool.query.bias"].tolist() == [float(h) for h in range(11)]
    assert set(joined) == {"image_head.pool.query.bias", "image.fc.bias"}
    del parts["image_head.pool.query.4.bias"]
    with pytest.raises(CheckpointError, match=r"Expected 0 to 10"):
        stack_heads(parts)
    assert our_part("txt_enc.mha_pool.value.7.weight") == ("text_head.pool.value.weight", 7)
    assert our_part("criterion.swav_loss.queue") is None
