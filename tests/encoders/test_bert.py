from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig as HfBertConfig
from transformers import BertForMaskedLM, BertModel

from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.pretrained import read_arch, weights_file
from patchword.errors import CheckpointError, ConfigError

ARCH: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}
TOKENS = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 10, 3], [2, 3, 0, 0, 0, 0]])
LENGTHS = torch.tensor([4, 6, 2])


@pytest.fixture
def bert() -> Bert:
    torch.manual_seed(0)
    return Bert(BertConfig(arch=ARCH), joint_dim=8).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pretrained folder as transformers writes it, with a pooler that nobody needs."""
    torch.manual_seed(1)
    BertModel(HfBertConfig(**ARCH)).save_pretrained(tmp_path / "tiny bert")
    return tmp_path / "tiny bert"


def test_there_is_no_pooler(bert: Bert) -> None:
    assert not [name for name, _ in bert.named_parameters() if "pooler" in name]
    assert bert.max_tokens == 12


def test_padding_changes_nothing(bert: Bert) -> None:
    found = bert(TOKENS, LENGTHS)
    assert found.shape == (3, 6, 8)
    wide = bert(torch.nn.functional.pad(TOKENS, (0, 5)), LENGTHS)
    for row, long, tokens, length in zip(found, wide, TOKENS, LENGTHS.tolist(), strict=True):
        one = bert(tokens[None, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(row[:length], one, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(long[:length], one, atol=1e-5, rtol=1e-5)


def test_equal_to_the_pretrained_model_below_the_projection(bert: Bert, folder: Path) -> None:
    bert.load_pretrained(folder)
    theirs = BertModel.from_pretrained(folder).eval()
    hidden = theirs(input_ids=TOKENS, attention_mask=(TOKENS != 0).long()).last_hidden_state
    torch.testing.assert_close(bert(TOKENS, LENGTHS)[1], bert.linear(hidden)[1])


def test_dropout_is_on_in_training_unless_frozen(bert: Bert) -> None:
    bert.train()
    assert not torch.equal(bert(TOKENS, LENGTHS), bert(TOKENS, LENGTHS))
    frozen = Bert(BertConfig(arch=ARCH, frozen=True), joint_dim=8).train()
    assert torch.equal(frozen(TOKENS, LENGTHS), frozen(TOKENS, LENGTHS))
    assert {n for n, p in frozen.named_parameters() if p.requires_grad} == {"linear.weight", "linear.bias"}


def test_the_architecture_of_a_folder_builds_the_same_model(folder: Path) -> None:
    arch = read_arch("bert", folder)
    assert {k: arch[k] for k in ARCH} == ARCH
    assert "architectures" not in arch
    made = Bert(BertConfig(arch=arch), joint_dim=8)
    made.load_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in made.bert.state_dict().items())


def test_weights_below_a_prefix_and_old_files_are_read(tmp_path: Path, bert: Bert) -> None:
    torch.manual_seed(2)
    BertForMaskedLM(HfBertConfig(**ARCH)).save_pretrained(tmp_path / "mlm")  # bert.* and a head cls.*
    bert.load_pretrained(tmp_path / "mlm")
    weights = load_file(tmp_path / "mlm" / "model.safetensors")
    assert any(name.startswith("cls.") for name in weights)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(bert.bert.state_dict()[name], weights[f"bert.{name}"])
    old = tmp_path / "old"
    old.mkdir()
    torch.save({**weights, "bert.embeddings.position_ids": torch.arange(12)[None]}, old / "pytorch_model.bin")
    fresh = Bert(BertConfig(arch=ARCH), joint_dim=8)
    fresh.load_pretrained(old)
    assert torch.equal(fresh.bert.state_dict()[name], weights[f"bert.{name}"])


def changed(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The folder with some tensors replaced, added or (None) removed."""
    path = folder / "model.safetensors"
    weights = {**load_file(path), **{k.replace("__", "."): v for k, v in changes.items()}}
    save_file({k: v for k, v in weights.items() if v is not None}, path)
    return folder


def test_missing_unknown_and_misshapen_weights_are_refused(bert: Bert, folder: Path) -> None:
    before = {k: v.clone() for k, v in bert.state_dict().items()}
    name = "encoder.layer.1.output.dense.weight"
    original = load_file(folder / "model.safetensors")[name]
    with pytest.raises(CheckpointError, match=r"1 weights missing \['encoder.layer.1.output.dense.weight'\]"):
        bert.load_pretrained(changed(folder, **{name: None}))
    with pytest.raises(CheckpointError, match=r"has shape \(3, 24\), the model expects \(16, 24\)"):
        bert.load_pretrained(changed(folder, **{name: original[:3].clone()}))
    with pytest.raises(CheckpointError, match=r"1 unknown \['encoder.layer.7.new'\]"):
        bert.load_pretrained(changed(folder, **{name: original, "encoder.layer.7.new": torch.zeros(2)}))
    assert all(torch.equal(value, before[k]) for k, value in bert.state_dict().items())


def test_a_folder_of_something_else_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config.json"):
        read_arch("bert", tmp_path)
    with pytest.raises(ConfigError, match=r"describes a 'bert' model. Expected 'vit'"):
        read_arch("vit", folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_arch("bert", folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"holds a list\. Expected the fields of a pretrained bert model"):
        read_arch("bert", folder)
    with pytest.raises(CheckpointError, match="holds no weights"):
        weights_file(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, bert: Bert, name: str) -> None:
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"is truncated or damaged \(3 bytes\)"):
        bert.load_pretrained(tmp_path)
