"""What goes wrong, or is stopped, between the steps of one epoch and those of the next."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small import command, one_line, recipe, wait_for, write_recipe
from test_resume import in_mid_epoch, metrics, same_runs

from patchword.data.batches import epoch_loader
from patchword.evaluate.one_model import evaluate_model
from patchword.train import loop
from patchword.train.loop import Interrupted, Trainer
from patchword.train.run import train
from patchword.train.state import Position, RunFolder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that are taken."""
    seen: list[int] = []
    step = Trainer.train_step

    def watched(trainer: Trainer, batch: Any, position: Position) -> dict[str, float]:
        seen.append(position.step)
        return step(trainer, batch, position)

    monkeypatch.setattr(Trainer, "train_step", watched)
    return seen


def goes_on_as_if_nothing_happened(run: Path, data: Path, whole: Path) -> None:
    """The same command ends with the weights, optimiser, position and log of the undisturbed run."""
    train(recipe("chan", data), run)
    assert same_runs(run, whole)


def before_evaluation(number: int, happens: Callable[[], None]) -> Callable[..., Any]:
    """Evaluation, with something that happens at the beginning of the one with this number."""
    count = 0

    def evaluating(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            happens()
        return evaluate_model(*args, **kwargs)

    return evaluating


def fail() -> None:
    raise RuntimeError("an unreadable picture")


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_whose_evaluation_fails_is_not_trained_again(
    epoch: int, data: Path, whole: Path, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", before_evaluation(epoch, fail))
        with pytest.raises(RuntimeError, match="an unreadable picture"):
            train(recipe("chan", data), tmp_path / "run")
    assert taken == list(range(10 * epoch))
    goes_on_as_if_nothing_happened(tmp_path / "run", data, whole)
    assert taken == list(range(20))


def test_an_evaluation_that_is_repeated_is_logged_once(
    data: Path, whole: Path, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save_last

    def failing(run: RunFolder, model: Any, optimizer: Any, position: Position) -> None:
        if position.epoch == 1 and position.iteration == 0:  # the first save after an evaluation
            raise OSError(28, "No space left on device")
        save(run, model, optimizer, position)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_last", failing)
        with pytest.raises(OSError, match="No space left"):
            train(recipe("chan", data), tmp_path / "run")
    assert [one["kind"] for one in metrics(tmp_path / "run")] == ["train", "train", "dev"]
    goes_on_as_if_nothing_happened(tmp_path / "run", data, whole)
    assert taken == list(range(20))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_an_evaluation(
    stop: signal.Signals, data: Path, whole: Path, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = []

    def stopped() -> None:
        signal.raise_signal(stop)
        went_on.append(stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", before_evaluation(1, stopped))
        with pytest.raises(Interrupted):
            train(recipe("chan", data), tmp_path / "run")
    assert not went_on
    assert taken == list(range(10))
    goes_on_as_if_nothing_happened(tmp_path / "run", data, whole)
    assert taken == list(range(20))


@pytest.mark.parametrize(("epoch", "iteration", "logged"), [(0, 10, ["train"] * 2), (1, 0, ["train"] * 2 + ["dev"])])
def test_a_stop_while_an_epoch_is_saved_begins_nothing_new(
    epoch: int,
    iteration: int,
    logged: list[str],
    data: Path,
    whole: Path,
    taken: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = Trainer._save

    def stopped(trainer: Trainer, position: Position) -> None:
        if (position.epoch, position.iteration) == (epoch, iteration):
            trainer.request_stop()
        save(trainer, position)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", stopped)
        with pytest.raises(Interrupted):
            train(recipe("chan", data), tmp_path / "run")
    assert [one["kind"] for one in metrics(tmp_path / "run")] == logged
    assert taken == list(range(10))
    goes_on_as_if_nothing_happened(tmp_path / "run", data, whole)


def test_a_stop_at_the_very_end_stops_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Trainer._save

    def stopped(trainer: Trainer, position: Position) -> None:
        save(trainer, position)
        if position.finished:
            trainer.request_stop()

    monkeypatch.setattr(Trainer, "_save", stopped)
    assert train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run").position.finished


def test_a_run_without_selection_saves_an_epoch_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], RunFolder.save_last

    def watched(run: RunFolder, model: Any, optimizer: Any, position: Position) -> None:
        saved.append((position.epoch, position.iteration))
        save(run, model, optimizer, position)

    monkeypatch.setattr(RunFolder, "save_last", watched)
    train(recipe("chan", data, {"train": {"select_on": "none"}}), tmp_path / "run")
    assert saved == [(1, 0), (2, 0)]


# ------------------------------------------------------------------ workers that load batches


def lost_worker(monkeypatch: pytest.MonkeyPatch, *, asked: bool) -> None:
    """Let the worker be gone when the fifth batch is asked for, and the run told to stop or not."""
    trainers, init = [], Trainer.__post_init__

    def known(trainer: Trainer) -> None:
        trainers.append(trainer)
        init(trainer)

    def loading(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for k, batch in enumerate(epoch_loader(*args, **kwargs)):
            if k == 4:
                if asked:
                    trainers[0].request_stop()
                raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")
            yield batch

    monkeypatch.setattr(Trainer, "__post_init__", known)
    monkeypatch.setattr(loop, "epoch_loader", loading)


def test_a_worker_that_is_lost_to_a_stop_loses_no_step(
    data: Path, whole: Path, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        lost_worker(patch, asked=True)
        with pytest.raises(Interrupted):
            train(recipe("chan", data), tmp_path / "run")
    goes_on_as_if_nothing_happened(tmp_path / "run", data, whole)
    assert taken == list(range(20))


def test_a_worker_that_is_lost_otherwise_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_worker(monkeypatch, asked=False)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        train(recipe("chan", data), tmp_path / "run")


@pytest.mark.integration
def test_a_stop_of_the_group_of_processes_is_saved(data: Path, tmp_path: Path) -> None:
    changes = {"train": {"epochs": 50, "save_every_steps": 2}, "data": {"workers": 1}}
    path, run, pipe = write_recipe(tmp_path / "tiny.yaml", "chan", data, changes), tmp_path / "run", subprocess.PIPE
    process = subprocess.Popen(
        command("train", path, "--out", run),
        stdout=pipe, stderr=pipe, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: in_mid_epoch(run), process)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved" in one_line(error)
