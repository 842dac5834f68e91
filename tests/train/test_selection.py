import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small import recipe, same_tensors, weights, write_precomp, write_recipe

from patchword.cli import main
from patchword.errors import ConfigError, DataError
from patchword.evaluate.result import evaluate_scores
from patchword.evaluate.run import evaluate
from patchword.evaluate.scores_file import load_scores
from patchword.train.loop import Trainer
from patchword.train.run import train


def script_rsums(monkeypatch: pytest.MonkeyPatch, rsums: list[float]) -> None:
    """Let the epochs score as given."""
    monkeypatch.setattr(Trainer, "_select", lambda trainer, position, epoch: rsums[epoch])


def config_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("method", ["chan", "vse_inf"])
def test_twenty_steps_lift_rsum_far_above_chance(method: str, tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    train(recipe(method, data), tmp_path / "run")
    found = evaluate(tmp_path / "run", data)
    assert found.headline.rsum > found.chance.rsum + 80


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_precomp(tmp_path / "data")
    script_rsums(monkeypatch, [100.0, 300.0, 300.0, 200.0])
    train(recipe("chan", data, {"train": {"epochs": 4}}), tmp_path / "run")
    train(recipe("chan", data, {"train": {"epochs": 2}}), tmp_path / "two")
    assert same_tensors(weights(tmp_path / "run" / "best"), weights(tmp_path / "two" / "last"))
    about = config_of(tmp_path / "run" / "best")["about"]
    assert (about["epoch"], about["step"], about["rsum"], about["selected_on"]) == (2, 20, 300.0, "dev")
    about = config_of(tmp_path / "run" / "last")["about"]
    assert (about["epoch"], about["step"], about["selected_on"]) == (4, 40, "none")


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 5), (None, 6)])
def test_patience_counts_epochs_without_a_better_one(
    patience: int | None, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    script_rsums(monkeypatch, [100.0, 300.0, 200.0, 250.0, 250.0, 400.0])
    result = train(recipe("chan", data, {"train": {"epochs": 6, "patience": patience}}), tmp_path / "run")
    assert result.position.epoch == epochs
    assert result.position.best_rsum == (400.0 if patience is None else 300.0)


def test_a_finished_run_says_how_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    script_rsums(monkeypatch, [100.0, 300.0, 200.0, 250.0, 250.0])
    run = tmp_path / "my run"

    def told(**changes: Any) -> str:
        console = Console(file=io.StringIO(), width=1000)
        train(recipe("chan", data, {"train": {"lr_steps": [], **changes}}), run, console=console)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text

    assert "resuming" not in told(epochs=2)
    said = told(epochs=2)
    assert f"'{run}' is finished: all of its 2 epochs are done. To train on, add --train.epochs 7, or start" in said
    assert f"--train.start_from '{run}' --out DIR" in said
    assert "resuming" not in said
    assert f"resuming '{run}' at epoch 3, step" in told(epochs=9, patience=2)
    assert "is finished: 2 epochs were no better than the best one. To train on, add --train.patience 4" in told(
        epochs=9, patience=2
    )
    assert "resuming" in told(epochs=9, patience=3)


def test_evaluating_on_what_was_trained_on_is_said(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    assert config_of(tmp_path / "run" / "best")["about"]["trained_on"] == "train"
    saved = tmp_path / "scores.safetensors"
    result = evaluate(tmp_path / "run", data, split="train", save_to=saved)
    assert result.used_for_training
    assert "trained on this split" in result.table()
    assert evaluate_scores(load_scores(saved)).used_for_training  # the file says so, too
    other = evaluate(tmp_path / "run", data, split="dev")
    assert not other.used_for_training
    assert "trained on this split" not in other.table()


def test_selecting_on_test_is_said_wherever_the_numbers_go(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    train(recipe("chan", data, {"train": {"select_on": "test", "epochs": 1}}), tmp_path / "run")
    assert config_of(tmp_path / "run" / "best")["about"]["selected_on"] == "test"
    result = evaluate(tmp_path / "run", data)
    assert result.used_for_selection is True
    assert "chosen on this split" in result.table()
    assert evaluate(tmp_path / "run", data, split="dev").used_for_selection is False


def test_selecting_on_nothing_keeps_the_last_epoch_and_needs_no_dev(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 12, "test": 4})
    train(recipe("chan", data, {"train": {"select_on": "none"}}), tmp_path / "run")
    assert same_tensors(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))
    about = config_of(tmp_path / "run" / "best")["about"]
    assert (about["epoch"], about["selected_on"], about["rsum"]) == (2, "none", None)
    result = evaluate(tmp_path / "run", data)
    assert result.used_for_selection is False
    assert "checkpoint selected on: none" in result.table()


def test_the_logged_rsum_is_the_one_that_evaluate_finds(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    result = train(recipe("vse_inf", data, {"train": {"epochs": 1}}), tmp_path / "run")
    assert evaluate(tmp_path / "run", data, split="dev").headline.rsum == result.position.best_rsum


def test_a_batch_that_is_never_full_is_refused_before_training(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 3, "dev": 4})
    with pytest.raises(ConfigError, match="15 captions, fewer than one batch of 20"):
        train(recipe("chan", data), tmp_path / "run")
    changes = {"train": {"drop_last": False, "epochs": 1}}
    assert train(recipe("chan", data, changes), tmp_path / "run").position.step == 1


@pytest.mark.parametrize("side", ["ims", "caps"])
def test_side_inputs_of_dev_are_looked_at_before_training(side: str, tmp_path: Path) -> None:
    sizes = {"train": 8, "dev": 4}
    data = write_precomp(tmp_path / "data", sizes)
    for split, count in sizes.items():
        np.save(data / f"{split}_ims_clip.npy", np.ones((count, 6), np.float32))
        np.save(data / f"{split}_caps_clip.npy", np.ones((5 * count, 6), np.float32))
    small = {"guide": "clip", "clip_dim": 6, "heads": 2, "guide_heads": 2, "top_k": 3, "prototypes": 5, "queue": 40}
    wanted = recipe("aahr", data, {"model": small, "train": {"epochs": 1}})
    path = data / f"dev_{side}_clip.npy"
    broken = np.load(path)
    broken[3, 1] = np.nan
    np.save(path, broken)
    with pytest.raises(DataError, match=rf"dev_{side}_clip.npy' row 3 holds NaN or infinite"):
        train(wanted, tmp_path / "run")
    path.unlink()
    with pytest.raises(DataError, match=rf"reads `clip` .* Expected 'dev_{side}_clip.npy'"):
        train(wanted, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_same_recipe_gives_the_same_weights_whatever_was_drawn_before(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    for name in ("a", "b"):
        torch.rand(7)
        train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / name)
    assert same_tensors(weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last"))
    train(recipe("chan", data, {"train": {"epochs": 1, "seed": 2}}), tmp_path / "c")
    assert not same_tensors(weights(tmp_path / "a" / "last"), weights(tmp_path / "c" / "last"))


def test_the_next_command_names_a_split_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_precomp(tmp_path / "data", {"all": 12})
    changes = {"data": {"train": "all"}, "train": {"select_on": "none", "epochs": 1}}
    file = write_recipe(tmp_path / "tiny.yaml", "chan", tmp_path / "data", changes)
    assert main(["train", str(file), "--out", str(tmp_path / "run")]) == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("Next: patchword ")[2].split()
    assert command[-2:] == ["--split", "all"]
    assert main(command) == 0
