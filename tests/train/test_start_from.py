"""Training that goes on from the weights and the vocabulary of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import recipe, weights, write_bert, write_precomp

import patchword
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError, ConfigError
from patchword.methods.chan import Chan, ChanConfig
from patchword.train.run import train
from patchword.train.start import require_towers

WORDS = "a dog and a new word"
STILL = {"train": {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "select_on": "none"}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_precomp(tmp_path / "data", {"train": 12, "dev": 8})


def from_run(run: Path, **train_settings: Any) -> dict[str, Any]:
    """Changes of a recipe that starts from a run and hardly moves."""
    return {"train": {**STILL["train"], "start_from": str(run), **train_settings}}


@pytest.mark.integration
def test_weights_and_vocabulary_are_those_of_the_run(data: Path, tmp_path: Path) -> None:
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "first")
    other = write_precomp(tmp_path / "other", {"train": 12, "dev": 8}, seed=1)
    (other / "train_caps.txt").write_text("a new word.\n" * 60, encoding="utf-8")
    train(recipe("chan", other, from_run(tmp_path / "first")), tmp_path / "second")
    first, second = patchword.load(tmp_path / "first"), patchword.load(tmp_path / "second" / "last")
    assert second.tokenize([WORDS]) == first.tokenize([WORDS])
    found = weights(tmp_path / "second" / "last")
    for name, value in weights(tmp_path / "first" / "best").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.integration
def test_a_bert_needs_no_pretrained_folder_then(data: Path, tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "bert")
    train(recipe("vse_inf", data, STILL, bert=bert), tmp_path / "first")
    made = recipe("vse_inf", data, {**from_run(tmp_path / "first"), "model": {"text": {"pretrained": None}}}, bert=bert)
    assert train(made, tmp_path / "second").position.finished


@pytest.mark.integration
def test_queues_and_key_encoders_start_anew(data: Path, tmp_path: Path) -> None:
    aahr = {"model": {"guide": "pooled", "heads": 2, "guide_heads": 2, "top_k": 3, "prototypes": 5, "queue": 40}}
    train(recipe("aahr", data, {**STILL, **aahr}), tmp_path / "first")
    assert train(recipe("aahr", data, {**from_run(tmp_path / "first"), **aahr}), tmp_path / "second").position.finished


@pytest.mark.parametrize(
    ("method", "changes", "kind", "said"),
    [
        ("chan", {"model": {"joint_dim": 8}}, ConfigError, r"model\.joint_dim 16 \(recipe: 8\)\. .*add"),
        ("chan", {"model": {"context": "none"}}, ConfigError, "model.context .*add: --model.context "),
        ("chan", {"data": {"vocabulary": "words.json"}}, ConfigError, "Leave one of them out"),
        ("vse_inf", {}, CheckpointError, "is a checkpoint of 'chan'. Expected one of 'vse_inf'"),
        ("chan", {"train": {"start_from": "nowhere"}}, CheckpointError, "'nowhere' does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(
    method: str, changes: dict[str, Any], kind: type[Exception], said: str, data: Path, first: Path, tmp_path: Path
) -> None:
    start = from_run(first)
    merged = {**start, **changes, "train": {**start["train"], **changes.get("train", {})}}
    with pytest.raises(kind, match=said):
        train(recipe(method, data, merged), tmp_path / "second")
    assert not (tmp_path / "second" / "last").exists()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CHAN run."""
    folder = tmp_path_factory.mktemp("start")
    made = recipe("chan", write_precomp(folder / "data", {"train": 12, "dev": 8}), STILL)
    train(made, folder / "run")
    return folder / "run"


def test_every_setting_that_differs_is_named(data: Path, first: Path, tmp_path: Path) -> None:
    both: dict[str, Any] = {"joint_dim": 8, "text": {"word_dim": 6}}
    for model, bert, said in (
        (both, None, "--model.joint_dim 16 --model.text.word_dim 12"),
        ({"joint_dim": 8}, write_bert(tmp_path / "bert"), "--model.text.kind bigru"),
    ):
        made = recipe("chan", data, {**from_run(first), "model": model}, bert=bert)
        with pytest.raises(ConfigError, match=r"other settings than the recipe: model\.joint_dim 16 ") as found:
            train(made, tmp_path / "second")
        assert said in str(found.value)


def test_a_method_without_its_towers_is_one_clear_line() -> None:
    class Bare(Chan):
        """A method whose text tower has another name."""

        name = "bare"

        def __init__(self, config: ChanConfig) -> None:
            super().__init__(config)
            del self.text

    config = ChanConfig(joint_dim=8, image=RegionsConfig(width=5), text=BigruConfig(vocab_size=5, word_dim=3))
    with pytest.raises(ConfigError, match=r"^Bare \(method bare\) has no `self\.text`, .* self\.text = build_text\("):
        require_towers(Bare(config))
    del (made := Chan(config)).image.patches
    with pytest.raises(ConfigError, match=r"has no `self\.image\.patches`"):
        require_towers(made)
    require_towers(Chan(config))
