import json
import signal
from pathlib import Path
from typing import Any

import pytest
from small import (
    one_line,
    recipe,
    same_tensors,
    start,
    training_state,
    wait_for,
    write_bert,
    write_precomp,
    write_recipe,
)

from patchword.cli import main
from patchword.errors import ConfigError
from patchword.train.loop import Interrupted, Trainer
from patchword.train.run import train

_TIMES = ("time", "memory_gib", "encode_s", "score_s", "train_s", "train_cpu_s", "pairs")


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in one.items() if key not in _TIMES} for one in lines]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Pretend that Ctrl-C arrives during the step with this number."""
    step = Trainer.train_step

    def stepping(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        if position.step + 1 == steps:
            trainer.request_stop()
        return step(trainer, batch, position)

    monkeypatch.setattr(Trainer, "train_step", stepping)


def same_runs(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights, optimiser state, position and metrics."""
    return same_tensors(training_state(a), training_state(b)) and metrics(a) == metrics(b)


def test_two_epochs_are_one_epoch_and_one_more(data: Path, whole: Path, tmp_path: Path) -> None:
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "parts")
    train(recipe("chan", data), tmp_path / "parts")
    assert same_runs(tmp_path / "parts", whole)


def test_two_epochs_with_batch_statistics_are_one_and_one_more(data: Path, tmp_path: Path) -> None:
    train(recipe("vse_inf", data), tmp_path / "whole")
    train(recipe("vse_inf", data, {"train": {"epochs": 1}}), tmp_path / "parts")
    train(recipe("vse_inf", data), tmp_path / "parts")
    assert same_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("steps", [1, 10, 13, 20])
def test_stopping_at_any_step_changes_nothing(
    steps: int, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Interrupted):
            train(recipe("chan", data), tmp_path / "parts")
    train(recipe("chan", data), tmp_path / "parts")
    assert same_runs(tmp_path / "parts", whole)


def test_a_run_that_dies_between_saves_repeats_its_steps(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"train": {"save_every_steps": 3}}
    step = Trainer.train_step

    def dying(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        if position.step == 17:
            raise RuntimeError("power cut")
        return step(trainer, batch, position)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe("chan", data, often), tmp_path / "parts")
    train(recipe("chan", data, often), tmp_path / "parts")
    assert same_runs(tmp_path / "parts", whole)


def test_a_run_that_dies_before_its_first_save_starts_clean(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def dying(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        if position.step == 4:
            raise RuntimeError("power cut")
        return step(trainer, batch, position)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe("chan", data), tmp_path / "parts")
    train(recipe("chan", data), tmp_path / "parts")
    assert same_runs(tmp_path / "parts", whole)


def test_dropout_of_a_resumed_bert_is_that_of_an_undisturbed_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = write_bert(tmp_path / "bert")
    made = recipe("vse_inf", data, {"train": {"lr": 1e-3}}, bert=bert)
    train(made, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 14)
        with pytest.raises(Interrupted):
            train(made, tmp_path / "parts")
    train(made, tmp_path / "parts")
    assert same_tensors(training_state(tmp_path / "parts"), training_state(tmp_path / "whole"))


def test_a_finished_run_does_nothing_more(data: Path, tmp_path: Path) -> None:
    train(recipe("chan", data), tmp_path / "run")
    before, lines = training_state(tmp_path / "run"), metrics(tmp_path / "run")
    again = train(recipe("chan", data), tmp_path / "run")
    assert again.position.finished
    assert same_tensors(training_state(tmp_path / "run"), before)
    assert metrics(tmp_path / "run") == lines


def test_a_run_that_stopped_early_stays_stopped_until_its_patience_grows(data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"train": {"epochs": 30, "patience": 1, "lr": 0.05}}
    first = train(recipe("chan", data, changes), tmp_path / "run")
    assert first.position.epoch < 30
    assert train(recipe("chan", data, changes), tmp_path / "run").position == first.position
    changes["train"] |= {"patience": 3, "epochs": first.position.epoch + 1}
    assert train(recipe("chan", data, changes), tmp_path / "run").position.epoch == first.position.epoch + 1


def test_going_on_with_other_captions_is_refused(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    for split in ("train", "dev"):
        path = data / f"{split}_caps.txt"
        path.write_text(path.read_text(encoding="utf-8").replace("dog", "zebra"), encoding="utf-8")
    with pytest.raises(ConfigError, match="other words"):
        train(recipe("chan", data), tmp_path / "run")


@pytest.mark.integration
def test_workers_read_the_same_batches(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    small = {"train": {"epochs": 1}}
    train(recipe("chan", data, small), tmp_path / "none")
    train(recipe("chan", data, {**small, "data": {"workers": 1}}), tmp_path / "one")
    assert same_tensors(training_state(tmp_path / "one"), training_state(tmp_path / "none"))


# ------------------------------------------------------------------ real processes

_LONG = {"train": {"epochs": 3, "save_every_steps": 2, "batch_size": 4}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A recipe of 150 short steps, and what it ends with when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_recipe(folder / "tiny.yaml", "chan", write_precomp(folder / "data"), _LONG)
    train(path, folder / "run")
    return path, training_state(folder / "run")


def in_mid_epoch(run: Path) -> bool:
    """Whether the run has saved within an epoch."""
    return (run / "last" / "training.pt").is_file()


@pytest.mark.integration
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_goes_on_to_the_same_weights(
    stop: signal.Signals, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = undisturbed
    run = tmp_path / "run"
    process = start("train", path, "--out", run)
    wait_for(lambda: in_mid_epoch(run), process)
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    if stop == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "saved" in one_line(error)
        assert not any(one.get("kind") == "dev" and one["epoch"] == 3 for one in metrics(run))
    assert main(["train", str(path), "--out", str(run)]) == 0
    assert "resuming" in capsys.readouterr().out
    assert same_tensors(training_state(run), expected)
