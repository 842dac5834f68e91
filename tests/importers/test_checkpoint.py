import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_authors import Authors
from torch import Tensor
from transformers import BertConfig as HfBertConfig

import patchword
from patchword.cli import main
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError, ConfigError, DataError
from patchword.importers import chan as chan_names
from patchword.importers import vse_inf as vse_names
from patchword.importers.checkpoint import import_checkpoint
from patchword.methods.base import Method
from patchword.methods.chan import Chan, ChanConfig
from patchword.types import Captions, Images

CASES = [
    ("vse_inf", "vse_infinity/case1"),
    ("vse_inf", "vse_infinity/case2"),
    ("vse_inf", "vse_infinity/case3"),
    ("chan", "chan/case1"),
    ("chan", "chan/case2"),
    ("chan", "chan/case3"),
]
WORDS = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{k}" for k in range(45))]  # with <mask> 50, as in the goldens


@pytest.fixture
def gru(golden: Path) -> Authors:
    return Authors(golden, "chan", "chan/case1")


@pytest.fixture
def vse(golden: Path) -> Authors:
    return Authors(golden, "vse_inf", "vse_infinity/case1")


def vocabulary(path: Path, words: list[str]) -> Path:
    table = {w: k for k, w in enumerate(words)}
    path.write_text(
        json.dumps({"word2idx": table, "idx2word": {str(k): w for w, k in table.items()}, "idx": len(words)})
    )
    return path


def score(method: Method, tensors: dict[str, Tensor]) -> Tensor:
    lengths = tensors["image_lengths"].long() if "image_lengths" in tensors else None
    images = method.encode_images(Images(tensors["images"], lengths))
    captions = method.encode_captions(Captions(tensors["captions"], tensors["caption_lengths"].long()))
    return method.score(images, captions)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("method", "case"), CASES)
def test_an_imported_checkpoint_loads_and_scores_like_the_authors_code(
    golden: Path, tmp_path: Path, method: str, case: str, prefix: str
) -> None:
    authors = Authors(golden, method, case)
    authors.prefix = prefix
    result = authors.bring(tmp_path)
    assert set(result.used) | set(result.dead) == set(authors.state)
    assert not set(result.used) & set(result.dead)
    model = patchword.load(result.folder, method=method)
    if case == "chan/case3":  # without unit vectors the authors' padding sentinel shows
        model.method.config = model.method.config.model_copy(update={"score_padding": "reference"})
    torch.testing.assert_close(score(model.method, authors.tensors), authors.scores, atol=1e-5, rtol=2e-5)
    assert model.about["imported_from"] == "model_best.pth"
    assert (model.about["epoch"], model.about["best_rsum"]) == (7, 512.5)
    assert model.about["dead_keys"] == result.dead
    assert not model.method.training


def test_dead_keys_are_named(vse: Authors, gru: Authors, tmp_path: Path) -> None:
    vse.state["img_enc.backbone.resnet.fc.weight"] = torch.zeros(2)  # as in grid checkpoints
    dead = {k for k in vse.state if k.startswith("img_enc.mlp.bns.1.")} | {"img_enc.backbone.resnet.fc.weight"}
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError):  # a backbone without its weights is no region model
        vse.bring(tmp_path / "a")
    del vse.state["img_enc.backbone.resnet.fc.weight"]
    assert set(vse.bring(tmp_path / "a").dead) == dead - {"img_enc.backbone.resnet.fc.weight"}
    (tmp_path / "b").mkdir()
    assert set(gru.bring(tmp_path / "b").dead) == {"txt_enc.fc.weight", "txt_enc.fc.bias"}


def test_the_backbone_stored_twice_is_read_once(golden: Path, tmp_path: Path) -> None:
    grid = Authors(golden, "vse_inf", "vse_infinity/case3")
    twice = {f"img_enc.backbone.resnet.layer1.{k}.weight": torch.ones(3) for k in range(2)}
    grid.state |= {**twice, "img_enc.backbone.resnet.fc.bias": torch.ones(1000)}
    result = grid.bring(tmp_path)
    assert set(result.dead) == {*twice, "img_enc.backbone.resnet.fc.bias"}


def test_a_vocabulary_may_come_from_a_file_or_from_the_options(gru: Authors, tmp_path: Path) -> None:
    result = gru.bring(tmp_path)
    assert result.tokenizer is None
    with pytest.raises(CheckpointError, match="holds no vocabulary"):
        patchword.load(result.folder).encode_captions(["word1 word2"])
    shuffled = {w: k for k, w in sorted(enumerate(WORDS), key=lambda pair: pair[1])}
    for words in (shuffled, {**shuffled, "<mask>": 49}):
        gru.options["word2idx"] = words
        result = gru.bring(tmp_path)
        assert result.tokenizer == "words"
        assert "word2idx" not in result.options
        assert patchword.load(result.folder).tokenize(["word0 zebra word44"]) == [[1, 4, 3, 48, 2]]
    del gru.options["word2idx"]
    for words in (WORDS, [*WORDS, "<mask>"]):
        assert gru.bring(tmp_path, vocab=vocabulary(tmp_path / "v.json", words)).tokenizer == "words"
        assert patchword.load(tmp_path / "ours").tokenize(["word0 zebra word44"]) == [[1, 4, 3, 48, 2]]


def test_a_vocabulary_of_another_size_is_refused(gru: Authors, tmp_path: Path) -> None:
    for words in (WORDS[:-1], [*WORDS, "more"]):
        with pytest.raises(CheckpointError, match=rf"has 50 word rows, the vocabulary has {len(words) + 1} words"):
            gru.bring(tmp_path, vocab=vocabulary(tmp_path / "v.json", words))
        gru.options["word2idx"] = {w: k for k, w in enumerate(words)}
        with pytest.raises(CheckpointError, match="has 50 word rows"):
            gru.bring(tmp_path)
        del gru.options["word2idx"]
    gru.options["word2idx"] = {w: 2 * k for k, w in enumerate(WORDS)}
    with pytest.raises(CheckpointError, match="`word2idx` is not a vocabulary"):
        gru.bring(tmp_path)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(("method", "case"), CASES)
def test_every_live_key_is_demanded(golden: Path, tmp_path: Path, method: str, case: str) -> None:
    authors = Authors(golden, method, case)
    names = vse_names if method == "vse_inf" else chan_names
    whole = dict(authors.state)
    for key in list(whole)[:: 5 if case == "vse_infinity/case3" else 1]:  # the ResNet has many alike
        ours = names.our_key(key)
        authors.state = {k: v for k, v in whole.items() if k != key}
        if ours is None:
            authors.bring(tmp_path)
            continue
        with pytest.raises(CheckpointError) as refused:
            authors.bring(tmp_path)
        assert key in str(refused.value) or ours in str(refused.value), key
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["img_enc.new.weight", "txt_enc.rnn2.bias", "img_enc.mlp.layers.7.weight"])
def test_an_unknown_key_is_refused(vse: Authors, tmp_path: Path, key: str) -> None:
    vse.state[key] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=f"key `{key}` is unknown"):
        vse.bring(tmp_path)


def test_a_tensor_of_another_shape_is_refused(vse: Authors, tmp_path: Path) -> None:
    vse.state["txt_enc.rnn.bias_ih_l0"] = torch.zeros(95)
    with pytest.raises(CheckpointError, match=r"`text.rnn.bias_ih_l0` has shape \(95,\), the model expects \(96,\)"):
        vse.bring(tmp_path)


def test_another_method_is_refused_in_one_line(
    vse: Authors, gru: Authors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for authors, other in ((vse, "chan"), (gru, "vse_inf")):
        path = authors.save(tmp_path / "model_best.pth")
        assert main(["import", other, str(path), "-o", str(tmp_path / "ours")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "is it a checkpoint of another method?" in said
    gru.method = "vse_inf"  # the right number of items, but the keys of CHAN
    with pytest.raises(CheckpointError, match="another method"):
        gru.bring(tmp_path)
    vse.method = "chan"
    with pytest.raises(CheckpointError, match="option `coding_type` is None in the checkpoint"):
        vse.bring(tmp_path)
    with pytest.raises(ConfigError, match="no importer for 'scan'"):
        import_checkpoint("scan", path, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_importing_from_the_command_line(gru: Authors, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, words = gru.save(tmp_path / "model best.pth"), vocabulary(tmp_path / "v.json", WORDS)
    assert main(["import", "chan", str(path), "-o", str(tmp_path / "ours"), "--vocab", str(words)]) == 0
    said = capsys.readouterr().out
    assert "imported chan: 17 keys used, 2 dead keys left out" in said
    assert "txt_enc.fc.weight" in said
    assert main(["import", "chan", str(path), "-o", str(tmp_path / "ours"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dead"] == ["txt_enc.fc.bias", "txt_enc.fc.weight"]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(vse: Authors, tmp_path: Path, kept: float) -> None:
    path = vse.save(tmp_path / "model_best.pth")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept) if kept >= 1 else int(kept * len(raw))])
    with pytest.raises(CheckpointError) as refused:
        import_checkpoint("vse_inf", path, tmp_path / "ours")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ours").exists()


class _Touch:
    """Unpickling this freely would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["top", "opt", "model", "bare pickle"])
def test_nothing_in_a_malicious_file_is_run(
    vse: Authors, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trap, path = tmp_path / "owned", tmp_path / "model_best.pth"
    content = vse.content()
    if where == "opt":
        content["opt"].extra = _Touch(trap)
    else:
        content["model" if where == "model" else "extra"] = _Touch(trap)
    if where == "bare pickle":
        path.write_bytes(pickle.dumps(_Touch(trap)))
    else:
        torch.save(content, path)
    assert main(["import", "vse_inf", str(path), "-o", str(tmp_path / "ours")]) == 2
    assert not trap.exists()
    assert not (tmp_path / "ours").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert where == "bare pickle" or "nothing in it was run" in said
    if where != "bare pickle":
        torch.load(path, weights_only=False)  # the trap would have worked
        assert trap.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds list"),
        ({"state_dict": {}}, r"holds \['state_dict'\]. Expected a dictionary with `model`"),
        ({"model": {"a": 1}}, "`model` holds dict state dicts"),
        ({"model": [{}]}, "`model` holds 1 state dicts. Expected 2"),
        ({"model": [{"a": 1}, {}]}, "`model` item 'img_enc' is not a state dict of tensors"),
        ({"model": [{}, {}], "opt": {"margin": 0.2}}, "is missing"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint("vse_inf", tmp_path / "x.pth", tmp_path / "ours")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist. Expected a checkpoint file"):
        import_checkpoint("vse_inf", tmp_path / "none.pth", tmp_path / "ours")


def test_options_become_settings(gru: Authors, tmp_path: Path) -> None:
    gru.options |= {"criterion": "InfoNCELoss", "temperature": 0.07, "margin": 0.4, "alpha": None, "belta": 0.3}
    gru.options |= {"no_imgnorm": True, "coding_type": "VSACoding", "pooling_type": "SoftmaxPooling"}
    made = patchword.load(gru.bring(tmp_path).folder).method
    assert (made.loss.kind, made.loss.temperature, made.loss.margin) == ("info_nce", 0.07, 0.4)
    assert (made.config.coding, made.config.pooling) == ("vsa", "softmax")
    assert (made.config.coding_temperature, made.config.pooling_temperature) == (0.1, 0.3)
    assert (made.config.unit_patches, made.config.unit_words) == (False, True)


def test_a_refused_import_leaves_an_earlier_one_alone(gru: Authors, tmp_path: Path) -> None:
    folder = gru.bring(tmp_path).folder
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    del gru.state["img_enc.fc.bias"]
    with pytest.raises(CheckpointError):
        gru.bring(tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_import_does_not_replace_one_of_another_method(gru: Authors, vse: Authors, tmp_path: Path) -> None:
    folder = gru.bring(tmp_path).folder
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ConfigError, match="holds a checkpoint of chan, which this one of vse_inf would replace"):
        vse.bring(tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert gru.bring(tmp_path).folder == folder  # the same method again


def bert_checkpoint(folder: Path, pieces: int) -> tuple[Path, Path]:
    """A CHAN checkpoint over a small BERT of 120 pieces, and a BERT folder with a vocabulary of ``pieces``."""
    arch = {"vocab_size": 120, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    arch |= {"intermediate_size": 8, "max_position_embeddings": 16}
    image = RegionsConfig(width=5)
    method = Chan(ChanConfig(joint_dim=8, image=image, text=BertConfig(arch=arch), context="none"))
    items: list[dict[str, Tensor]] = [
        {k.removeprefix(tower): v for k, v in method.state_dict().items() if k.startswith(tower)}
        for tower in ("image.", "text.")
    ]
    opt = argparse.Namespace(coding_type="VHACoding", pooling_type="MeanPooling")
    torch.save({"model": [*items, {}, {}], "opt": opt}, folder / "model_best.pth")
    bert = folder / "bert"
    HfBertConfig(**arch).save_pretrained(bert)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(pieces - 5))]
    (bert / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return folder / "model_best.pth", bert


def test_a_bert_folder_gives_architecture_and_vocabulary(tmp_path: Path) -> None:
    path, bert = bert_checkpoint(tmp_path, 120)
    with pytest.raises(CheckpointError, match=r"number of attention heads .* Pass its folder with --bert DIR"):
        import_checkpoint("chan", path, tmp_path / "ours")
    result = import_checkpoint("chan", path, tmp_path / "ours", bert=bert)
    assert result.tokenizer == "pieces"
    model = patchword.load(tmp_path / "ours")
    assert model.tokenize(["w0 w3"]) == [[2, 5, 8, 3]]
    assert model.encode_captions(["w0 w3", "w1"]).lengths.tolist() == [4, 3]


def test_a_bert_folder_says_whether_it_is_cased(tmp_path: Path) -> None:
    path, bert = bert_checkpoint(tmp_path, 120)
    import_checkpoint("chan", path, tmp_path / "uncased", bert=bert)
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    import_checkpoint("chan", path, tmp_path / "cased", bert=bert)
    assert patchword.load(tmp_path / "uncased").tokenize(["W0 w3"]) == [[2, 5, 8, 3]]
    assert patchword.load(tmp_path / "cased").tokenize(["W0 w3"]) == [[2, 1, 8, 3]]


def test_a_bert_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    path, bert = bert_checkpoint(tmp_path, 121)
    with pytest.raises(CheckpointError, match="has 120 word rows, the vocabulary has 121 words"):
        import_checkpoint("chan", path, tmp_path / "ours", bert=bert)
    (bert / "vocab.txt").unlink()
    with pytest.raises(DataError, match=r"Expected the vocab.txt of a BERT model"):
        import_checkpoint("chan", path, tmp_path / "ours", bert=bert)
