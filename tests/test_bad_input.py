"""What users get wrong: every case is one line, exit code 2, and whatever was there before is still there."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import (
    WIDTH,
    one_line,
    recipe,
    refused,
    same_tensors,
    training_state,
    write_bert,
    write_pictures,
    write_precomp,
    write_recipe,
)

from patchword.cli import main
from patchword.errors import DataError
from patchword.evaluate.run import evaluate
from patchword.train.run import train

SIZES = {"train": 8, "dev": 4, "test": 4}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small data set, to be damaged."""
    return write_precomp(tmp_path / "data", SIZES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ``run`` over good data."""
    folder = tmp_path_factory.mktemp("trained")
    train(recipe("chan", write_precomp(folder / "data", SIZES), {"train": {"epochs": 1}}), folder / "run")
    return folder


def edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the lines of a text file."""
    lines = change(path.read_text(encoding="utf-8").splitlines())
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def edit_array(path: Path, change: Callable[[np.ndarray], Any]) -> None:
    """Rewrite an array; ``change`` works in place or returns another one."""
    array = np.load(path)
    changed = change(array)
    np.save(path, array if changed is None else changed)


def set_value(value: float) -> Callable[[np.ndarray], None]:
    """Put a value into row 2."""
    return lambda array: array.__setitem__((2, 1, 3), value)


def cut(path: Path) -> None:
    """Drop the second half of a file."""
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def pickled(path: Path) -> None:
    """An array of Python objects, which only unpickling could read."""
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no captions": ("dev_caps.txt", Path.unlink, "has no split 'dev'. Splits found: train, test"),
    "no features": ("train_ims.npy", Path.unlink, "Expected 'train_ims.npy'"),
    "one caption too few": ("train_caps.txt", lambda p: edit_lines(p, lambda a: a[:-1]), "39 captions"),
    "one caption too many": ("train_caps.txt", lambda p: edit_lines(p, lambda a: [*a, "a dog"]), "41 captions"),
    "one id too few": ("train_ids.txt", lambda p: edit_lines(p, lambda a: a[:-1]), "7 ids"),
    "an empty caption": ("train_caps.txt", lambda p: edit_lines(p, lambda a: [*a[:6], " ", *a[7:]]), "line 7 is empty"),
    "an empty id": ("train_ids.txt", lambda p: edit_lines(p, lambda a: [*a[:3], "", *a[4:]]), "line 4 is empty"),
    "no text": ("train_caps.txt", lambda p: p.write_bytes(b"a dog\n\xff\xfe\n"), "line 2 is not UTF-8"),
    "rows missing": ("train_ims.npy", lambda p: edit_array(p, lambda a: a[:-1]), "7 feature rows"),
    "half a file": ("train_ims.npy", cut, "train_ims.npy' is truncated"),
    "no array": ("train_ims.npy", lambda p: p.write_bytes(b"hello"), "is not a readable .npy file"),
    "pickled features": ("train_ims.npy", pickled, "holds pickled Python objects, which are never loaded"),
    "a narrow train": (
        "train_ims.npy",
        lambda p: edit_array(p, lambda a: a[..., :5]),
        "the splits differ: train 5, dev 8.",
    ),
    "a narrow dev": ("dev_ims.npy", lambda p: edit_array(p, lambda a: a[..., :5]), "dev_ims.npy' holds features of"),
    "NaN": ("train_ims.npy", lambda p: edit_array(p, set_value(np.nan)), "train_ims.npy' row 2 holds NaN or infinite"),
    "inf": ("train_ims.npy", lambda p: edit_array(p, set_value(np.inf)), "train_ims.npy' row 2 holds NaN or infinite"),
    "NaN in dev": ("dev_ims.npy", lambda p: edit_array(p, set_value(np.nan)), "row 2 (image 'dev_2') holds NaN"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_stop_a_training(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, damage, message = DAMAGE[name]
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    damage(data / file)
    said = refused(["train", path, "--out", tmp_path / "runs" / "first"], capsys, kind="DataError")
    assert message in said
    assert "--model.image.width" not in said
    if name not in ("NaN", "inf"):  # those of train are found in the first epoch, when the run has begun
        assert not (tmp_path / "runs").exists()


def test_features_of_one_other_width_are_told_with_the_option(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    for split in ("train", "dev"):
        edit_array(data / f"{split}_ims.npy", lambda array: array[..., :5])
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="ConfigError")
    assert said.endswith("the recipe expects 8. If these are the right features, add --model.image.width 5")
    assert train(path, tmp_path / "run", overrides=["--model.image.width", "5", "--train.epochs", "1"])


def test_a_refused_training_leaves_a_folder_that_was_there(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    cut(data / "train_ims.npy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    for name in ("empty", "notes"):
        refused(["train", path, "--out", tmp_path / name], capsys, kind="DataError")
        assert (tmp_path / name).is_dir()
    assert (tmp_path / "notes" / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_features_of_dev_are_found_before_the_first_step(
    value: float, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    for split in ("dev", "test"):  # one is selected on, the other is not read
        edit_array(data / f"{split}_ims.npy", set_value(value))
    edit_array(data / "dev_ims.npy", lambda array: array.__setitem__((3, 0, 0), value))
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    assert "dev_ims.npy' row 2 (image 'dev_2') holds NaN or infinite features; 2 of 4 images of" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    unread = ["--data.limit_dev", "2"]
    assert train(path, tmp_path / "run", overrides=[*unread, "--train.epochs", "1"]).position.finished


@pytest.mark.parametrize("name", ["half a file", "NaN", "one caption too few"])
def test_data_damaged_during_a_run_lose_nothing(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, damage, _ = DAMAGE[name]
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    train(path, tmp_path / "run", overrides=["--train.epochs", "1"])
    before = training_state(tmp_path / "run")
    shutil.copytree(data, tmp_path / "good")
    damage(data / file)
    refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    assert same_tensors(training_state(tmp_path / "run"), before)
    train(path, tmp_path / "run", overrides=["--data.root", str(tmp_path / "good")])
    train(path, tmp_path / "whole", overrides=["--data.root", str(tmp_path / "good")])
    assert same_tensors(training_state(tmp_path / "run"), training_state(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["one caption too few", "half a file", "NaN"])
@pytest.mark.parametrize("verb", ["evaluate", "search"])
def test_damaged_data_stop_evaluation_and_search(
    verb: str, name: str, data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, damage, _ = DAMAGE[name]
    damage(data / file)
    words = [verb, trained / "run", *(["a dog"] if verb == "search" else []), "--data", data, "--split", "train"]
    assert "train" in refused(words, capsys, kind="DataError")


def test_features_of_another_width_stop_an_evaluation(
    data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_array(data / "test_ims.npy", lambda array: array[..., :5])
    said = refused(["evaluate", trained / "run", "--data", data], capsys, kind="ShapeError")
    assert f"features have width 5, the model was built for {WIDTH}" in said


@pytest.mark.parametrize("split", ["testall", "validation", ""])
def test_a_missing_split_names_those_that_are_there(
    split: str, data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "dev_caps.txt").unlink()
    said = refused(["evaluate", trained / "run", "--data", data, "--split", split], capsys, kind="DataError")
    assert "Splits found: train, test" in said


def test_no_data_at_all(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", tmp_path / "absent")
    assert "absent" in refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    path = write_recipe(tmp_path / "tiny.yaml", "chan", tmp_path, {"data": {"root": None}})
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="ConfigError")
    assert "--data.root DIR" in said
    (tmp_path / "empty").mkdir()
    refused(["evaluate", trained / "run", "--data", tmp_path / "empty"], capsys, kind="DataError")


def test_a_damaged_picture_stops_a_training_or_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "data", {"train": 8, "dev": 4})
    cut(data / "images" / "train_3.png")
    image = {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 2, "image_size": 96}
    made = recipe("vse_inf", data, {"train": {"epochs": 1, "batch_size": 8}}, image=image)
    with pytest.raises(DataError, match=r"train_3\.png' is a damaged picture"):
        train(made, tmp_path / "run")
    changes = {"train": {"epochs": 1, "batch_size": 8}, "data": {"skip_broken": True}}
    assert train(recipe("vse_inf", data, changes, image=image), tmp_path / "other").position.step == 1


# ------------------------------------------------------------------ long captions


def lengthen(data: Path, split: str) -> None:
    """Give one caption of a split 600 words."""
    edit_lines(data / f"{split}_caps.txt", lambda lines: [" ".join(["dog", "cat"] * 300), *lines[1:]])


def test_a_bigru_reads_any_length(data: Path, tmp_path: Path) -> None:
    for split in SIZES:
        lengthen(data, split)
    assert train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run").position.finished
    assert evaluate(tmp_path / "run", data).n_captions == 20


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_bert_refuses_what_it_can_not_hold_before_training(
    split: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengthen(data, split)
    path = write_recipe(tmp_path / "tiny.yaml", "vse_inf", data, bert=write_bert(tmp_path / "bert"))
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    assert f"/{split}: caption 0 has 602 word pieces, but the text encoder reads at most 64" in said
    assert "--data.max_words" in said
    assert not (tmp_path / "run" / "last").exists()


def test_a_bert_reads_them_cut(data: Path, tmp_path: Path) -> None:
    for split in SIZES:
        lengthen(data, split)
    path = write_recipe(tmp_path / "tiny.yaml", "vse_inf", data, bert=write_bert(tmp_path / "bert"))
    cut_to = ["--data.max_words", "20", "--train.epochs", "1"]
    assert train(path, tmp_path / "run", overrides=cut_to).position.finished
    assert evaluate(tmp_path / "run", data).n_captions == 20  # the model remembers to cut
    assert main(["search", str(tmp_path / "run"), "dog cat " * 300, "--data", str(data)]) == 0


# ------------------------------------------------------------------ vocabularies and checkpoints


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04.", "is a Python pickle, which is never loaded"),
        (b"{}", "is not SCAN's JSON"),
        (b'{"word2idx": {"<pad>": 0, "<start>": 2}}', "its ids are not 0..1"),
        (b'{"word2idx": {"dog": 0}}', "Expected ['<pad>', '<start>', '<end>', '<unk>']"),
    ],
)
def test_a_wrong_vocabulary_is_refused(
    content: bytes, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.json").write_bytes(content)
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    words = ["train", path, "--out", tmp_path / "run", "--data.vocabulary", tmp_path / "vocab.json"]
    assert message in refused(words, capsys, kind="DataError")


def test_a_vocabulary_of_another_size_stops_a_resumed_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    train(path, tmp_path / "run", overrides=["--train.epochs", "1"])
    edit_lines(data / "train_caps.txt", lambda lines: ["a purple zebra", *lines[1:]])
    words = ["train", path, "--out", tmp_path / "run", "--train.epochs", "3"]
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")}
    assert "the vocabulary has 22 words, the weights have 20 word rows" in refused(words, capsys, kind="ConfigError")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def test_a_bert_folder_of_five_words_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = write_bert(tmp_path / "bert")
    edit_lines(bert / "vocab.txt", lambda lines: lines[:5])
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data, bert=bert)
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="DataError")
    assert "has only 5 tokens" in said


@pytest.mark.parametrize("verb", ["evaluate", "search"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json"])
def test_a_truncated_checkpoint_is_named(
    name: str, verb: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    cut(run / "best" / name)
    words = [verb, run, *(["a dog"] if verb == "search" else []), "--data", trained / "data"]
    kind = "DataError" if name == "vocabulary.json" else "CheckpointError"
    assert name in refused(words, capsys, kind=kind)


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.mark,)


def test_a_malicious_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Payload(tmp_path / "ran"), "opt": argparse.Namespace()}, tmp_path / "evil.pth")
    for method in ("chan", "vse_inf"):
        said = refused(
            ["import", method, tmp_path / "evil.pth", "-o", tmp_path / "out"], capsys, kind="CheckpointError"
        )
        assert "not allowed, and nothing in it was run" in said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_malicious_scores_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "evil.npy", np.array([Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    refused(["evaluate", "--scores", tmp_path / "evil.npy"], capsys, kind="ScoreError")
    assert not (tmp_path / "ran").exists()


def test_the_checkpoint_of_another_method_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"fc.weight": torch.ones(4, 8), "fc.bias": torch.ones(4)}
    torch.save({"model": [state, state, state], "opt": argparse.Namespace(margin=0.05)}, tmp_path / "chan.pth")
    said = refused(["import", "vse_inf", tmp_path / "chan.pth", "-o", tmp_path / "out"], capsys, kind="CheckpointError")
    assert "checkpoint of another method" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x80\x04\x95"])
def test_a_truncated_file_is_not_imported(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.pth").write_bytes(content)
    said = refused(["import", "chan", tmp_path / "cut.pth", "-o", tmp_path / "out"], capsys, kind="CheckpointError")
    assert "cut.pth" in said


def test_a_failed_import_leaves_the_older_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(trained / "run" / "best", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "cut.pth").write_bytes(b"hello")
    refused(["import", "chan", tmp_path / "cut.pth", "-o", out], capsys, kind="CheckpointError")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_recipe_of_another_method_in_a_run_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    path = write_recipe(tmp_path / "other.yaml", "vse_inf", data)
    said = refused(["train", path, "--out", tmp_path / "run"], capsys, kind="ConfigError")
    assert "`method` is 'chan' there, 'vse_inf' now" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"batch_size": 1000}}, "fewer than one batch of 1000"),
        ({"train": {"lr_factors": {"txt": 1}}}, "lr_factors"),
    ],
)
def test_settings_that_can_not_work_are_refused_before_training(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", data, changes)
    assert message in refused(["train", path, "--out", tmp_path / "run"], capsys, kind="ConfigError")


def test_a_message_of_many_lines_is_said_in_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["doctor", "data", str(tmp_path / "absent")]) == 2
    capsys.readouterr()
    path = write_recipe(tmp_path / "tiny.yaml", "chan", tmp_path / "empty")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert one_line(capsys.readouterr().err).startswith("DataError: ")
