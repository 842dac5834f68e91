import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import patchword
from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError
from patchword.importers.cefg import import_exact
from patchword.importers.checkpoint import ImportResult, import_checkpoint
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.types import Captions, Images

ITEMS = ("img_enc.", "txt_enc.", "sim_enc.")
# Our names to the authors', from section 9 of their layout.
AUTHORS = [
    (r"image\.fc", "img_enc.fc"),
    (r"text\.rnn", "txt_enc.cap_rnn"),
    (r"text\.(embed|bert|linear)", r"txt_enc.\1"),
    (r"text_pool\.(local|common)", r"sim_enc.t_global_w.embedding_\1.0"),
    (r"text_pool\.overall", "sim_enc.t_global_w.embedding_global.0"),
    (r"image\.context\.local_norm", "sim_enc.emb_local_bn"),
    (r"image\.context\.local", "sim_enc.emb_local_li"),
    (r"image\.context\.overall_norm", "sim_enc.emb_global_bn"),
    (r"image\.context\.overall", "sim_enc.emb_global_li"),
    (r"image\.context\.common", "sim_enc.emb_common"),
    (r"image\.context\.rnn", "sim_enc.img_rnn"),
    (r"similarity\.local", "sim_enc.sim_tranloc_w"),
    (r"similarity\.overall", "sim_enc.sim_tranglo_w"),
    (r"similarity\.logit", "sim_enc.sim_eval_w"),
    (r"similarity\.regulators\.(\d)\.sharpness", r"sim_enc.rcr_modules.\1.rcr_smooth_w"),
    (r"similarity\.regulators\.(\d)\.modulation", r"sim_enc.rcr_modules.\1.rcr_matrix_w"),
    (r"similarity\.head\.steps\.(\d)\.(query|key)", r"sim_enc.SGR_module.\1.graph_\2_w"),
    (r"similarity\.head\.steps\.(\d)\.out", r"sim_enc.SGR_module.\1.sim_graph_w"),
    (r"similarity\.head\.gate", "sim_enc.SAF_module.attn_sim_w"),
    (r"similarity\.head\.norm", "sim_enc.SAF_module.bn"),
]


class Authors:
    """A checkpoint as the authors' code saves it, made from a golden case, with the parts that they never use."""

    def __init__(self, golden: Path, case: str) -> None:
        self.tensors = load_file(golden / "cefg" / f"{case}.safetensors")
        fields = json.loads((golden / "cefg" / f"{case}.json").read_text(encoding="utf-8"))
        self.options: dict[str, Any] = dict(fields["config"])
        self.state = {k.removeprefix("state."): v for k, v in self.tensors.items() if k.startswith("state.")}
        self.state |= {"sim_enc.v_global_w.embedding_local.0.weight": torch.zeros(32, 32)}
        self.state |= {"sim_enc.sim_transform_w.bias": torch.zeros(16)}
        self.state |= {"sim_enc.rcr_modules.2.rcr_matrix_w.0.bias": torch.zeros(32)}

    def save(self, path: Path) -> Path:
        model: list[dict[str, Tensor]] = [
            {k.removeprefix(item): v for k, v in self.state.items() if k.startswith(item)} for item in ITEMS
        ]
        opt = argparse.Namespace(**self.options)
        torch.save({"epoch": 7, "model": model, "best_rsum": 512.5, "opt": opt, "Eiters": 123}, path)
        return path

    def bring(self, folder: Path, **more: Any) -> ImportResult:
        return import_checkpoint("cefg", self.save(folder / "model_best.pth.tar"), folder / "ours", **more)


def vocabulary(path: Path, words: int) -> Path:
    names = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{k}" for k in range(words - 4))]
    table = {w: k for k, w in enumerate(names)}
    path.write_text(json.dumps({"word2idx": table, "idx2word": {}, "idx": len(names)}), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", ["case1", "case2"])
def test_an_imported_checkpoint_loads_and_scores_like_the_authors_code(golden: Path, tmp_path: Path, case: str) -> None:
    authors = Authors(golden, case)
    result = authors.bring(tmp_path, vocab=vocabulary(tmp_path / "vocab.json", 50))
    assert set(result.used) | set(result.dead) == set(authors.state)
    assert {k for k in authors.state if "v_global_w" in k or "sim_transform_w" in k} <= set(result.dead)
    assert any(k.startswith("sim_enc.rcr_modules.2.rcr_matrix_w") for k in result.dead)
    assert not any(k.startswith("sim_enc.rcr_modules.1") for k in result.dead)
    model = patchword.load(result.folder, method="cefg")
    t = authors.tensors
    images = Images(t["in.images"], torch.full((len(t["in.images"]),), 36), None, {"adjacency_released": t["in.adj"]})
    captions = Captions(t["in.captions"], t["in.lengths"].long())
    with torch.no_grad():
        found = model.method.score(model.method.encode_images(images), model.method.encode_captions(captions))
    torch.testing.assert_close(found, t["eval.sims"], atol=1e-5, rtol=1e-5)
    assert (model.about["epoch"], model.about["best_rsum"]) == (7, 512.5)
    assert model.tokenizer is not None
    assert model.tokenizer.size == 51  # and <mask>


def test_the_configuration_comes_from_keys_shapes_and_options(golden: Path) -> None:
    authors = Authors(golden, "case2")
    authors.options |= {"no_imgnorm": True, "no_txtnorm": True, "margin": 0.3, "max_violation": True}
    method = import_exact(authors.state, authors.options).method
    assert isinstance(method, Cefg)
    config = method.config
    assert (config.head, config.joint_dim, config.sim_dim, config.regions) == ("saf", 32, 16, 36)
    assert (config.refinements, config.sharpness, config.neighbours, config.directions) == (3, 10.0, 5, 2)
    assert (config.unit_regions, config.unit_words) == (False, False)
    assert isinstance(config.text, BigruConfig)
    assert (config.text.vocab_size, config.text.word_dim, config.text.layers) == (50, 24, 1)
    assert (method.loss.margin, method.loss.negatives_after, method.loss.warmup_epochs) == (0.3, "hardest", 0)


def authors_name(key: str) -> str:
    pattern, template = next(pair for pair in AUTHORS if re.match(pair[0], key))
    return re.sub(f"^{pattern}", template, key)


def round_trip(config: CefgConfig) -> Cefg:
    """Our weights under the authors' names, imported again."""
    torch.manual_seed(0)
    ours = Cefg(config)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs = {authors_name(key): value for key, value in ours.state_dict().items()}
    found = import_exact(theirs, {"bert_config": getattr(config.text, "arch", None)})
    assert isinstance(found.method, Cefg)
    assert found.dead == []
    for key, value in ours.state_dict().items():
        assert torch.equal(found.method.state_dict()[key], value), key
    return found.method


@pytest.mark.parametrize(
    "changes", [{"head": "saf"}, {"refinements": 1}, {"graph_steps": 2}, {"directions": 1}], ids=str
)
def test_every_variant_is_recognised(changes: dict[str, Any]) -> None:
    base = {"joint_dim": 8, "sim_dim": 6, "image": RegionsConfig(width=5), "regions": 7}
    text = BigruConfig(vocab_size=9, word_dim=4, layers=2)
    config = CefgConfig.model_validate({**base, "text": text, **changes})
    found = round_trip(config)
    kept = ("head", "refinements", "directions", "regions", "joint_dim", "sim_dim")
    assert {k: getattr(found.config, k) for k in kept} == {k: getattr(config, k) for k in kept}
    assert config.head == "saf" or found.config.graph_steps == config.graph_steps
    assert isinstance(found.config.text, BigruConfig)
    assert found.config.text.layers == 2


def test_a_composed_bert_is_recognised() -> None:
    arch = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    base = {"joint_dim": 8, "sim_dim": 6, "image": RegionsConfig(width=5), "regions": 7, "text": BertConfig(arch=arch)}
    assert isinstance(round_trip(CefgConfig.model_validate(base)).config.text, BertConfig)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sim_enc.sim_eval_w.weight", "1 live keys are missing"),
        ("sim_enc.sim_tranloc_w.weight", "live key 'sim_enc.sim_tranloc_w.weight' is missing"),
        ("txt_enc.embed.weight", "no known text encoder"),
    ],
)
def test_missing_keys_are_named(golden: Path, tmp_path: Path, key: str, said: str) -> None:
    authors = Authors(golden, "case1")
    del authors.state[key]
    with pytest.raises(CheckpointError, match=said):
        authors.bring(tmp_path)


def test_unknown_keys_and_heads_are_refused(golden: Path, tmp_path: Path) -> None:
    authors = Authors(golden, "case1")
    authors.state["sim_enc.something.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"key `sim_enc.something.weight` is unknown"):
        authors.bring(tmp_path)
    authors = Authors(golden, "case1")
    authors.options["module_name"] = "SAF"
    with pytest.raises(CheckpointError, match=r"`module_name` is 'SAF', but the weights are those of SGR"):
        authors.bring(tmp_path)
    authors.state = {k: v for k, v in authors.state.items() if "SGR_module" not in k}
    with pytest.raises(CheckpointError, match=r"neither `sim_enc.SGR_module"):
        authors.bring(tmp_path)


def test_a_vocabulary_of_another_size_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="51 word rows, the vocabulary has 49"):
        Authors(golden, "case1").bring(tmp_path, vocab=vocabulary(tmp_path / "vocab.json", 48))
