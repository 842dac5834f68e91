"""One recipe trained with several seeds by one command."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from small import recipe, refused, same_tensors, weights, write_precomp, write_recipe

from patchword.cli import main
from patchword.methods.vse_inf import VseInfinity
from patchword.train import loop
from patchword.train.collapse import CollapseWatch
from patchword.train.run import train
from patchword.train.seeds import rsum_over, train_seeds


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_precomp(tmp_path / "data")


def lines(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())


def test_every_run_is_the_run_of_its_seed(data: Path, tmp_path: Path) -> None:
    runs = train_seeds(recipe("chan", data), tmp_path / "runs", seeds=3)
    assert [one.seed for one in runs] == [1, 2, 3]
    assert [one.run for one in runs] == [tmp_path / "runs" / f"seed_{seed}" for seed in (1, 2, 3)]
    alone = train(recipe("chan", data, {"train": {"seed": 3}}), tmp_path / "alone")
    assert same_tensors(weights(runs[2].run / "best"), weights(tmp_path / "alone" / "best"))
    assert not same_tensors(weights(runs[0].run / "best"), weights(runs[1].run / "best"))
    assert runs[2].rsum == alone.position.best_rsum
    found = [one.rsum for one in runs if one.rsum is not None]
    assert rsum_over(runs) == (statistics.mean(found), statistics.stdev(found))


def test_called_again_it_adds_runs_and_keeps_the_finished_ones(data: Path, tmp_path: Path) -> None:
    first = train_seeds(recipe("chan", data), tmp_path / "runs", seeds=2)
    before = [(lines(one.run), weights(one.run / "best")) for one in first]
    again = train_seeds(recipe("chan", data), tmp_path / "runs", seeds=3)
    assert [one.rsum for one in again[:2]] == [one.rsum for one in first]
    assert [lines(one.run) for one in first] == [count for count, _ in before]
    assert all(same_tensors(weights(one.run / "best"), kept) for one, (_, kept) in zip(first, before, strict=True))
    assert again[2].result is not None
    assert again[2].result.position.finished


def test_the_command_reports_the_spread_and_what_comes_next(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_recipe(tmp_path / "tiny.yaml", "chan", data), tmp_path / "runs"
    words = ["train", str(file), "--out", str(out), "--seeds", "2", "--train.seed", "5", "--train.epochs", "1"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rsums = [one["best_rsum"] for one in said["runs"]]
    assert [one["seed"] for one in said["runs"]] == [5, 6]
    assert said["rsum"] == {"mean": statistics.mean(rsums), "sd": statistics.stdev(rsums)}
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"rsum {said['rsum']['mean']:.1f} +- {said['rsum']['sd']:.1f} over 2 seeds" in shown
    command = shown[-1].removeprefix("Next: patchword ").split()
    assert command == ["evaluate", str(out / "seed_5"), str(out / "seed_6"), "--data", str(data), "--seeds"]
    assert main(command) == 0
    assert "2 runs of one recipe" in capsys.readouterr().out
    said = refused(["evaluate", out, "--data", data], capsys, kind="CheckpointError")
    assert "holds the runs of 2 seeds: seed_5, seed_6. Name one of them" in said
    assert f"patchword evaluate {out}/seed_* --seeds" in said


def test_one_seed_is_no_spread_and_a_run_folder_no_place_for_several(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_recipe(tmp_path / "tiny.yaml", "chan", data)
    said = refused(["train", file, "--out", tmp_path / "runs", "--seeds", "1"], capsys, kind="ConfigError")
    assert "--train.seed" in said
    train(recipe("chan", data, {"train": {"epochs": 1}}), tmp_path / "single")
    said = refused(["train", file, "--out", tmp_path / "single", "--seeds", "2"], capsys, kind="ConfigError")
    assert "run of one seed" in said


def test_a_run_that_collapses_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode, calls = VseInfinity.encode_images, 0

    def constant_in_the_second_run(method: VseInfinity, images: Any) -> Any:
        nonlocal calls
        calls += method.training
        encoded = encode(method, images)
        if not method.training or calls <= 110:  # 7 epochs of 10 batches a run, hardest negatives from the fifth on
            return encoded
        return type(encoded)(encoded.vectors * 0 + encoded.vectors.detach()[:1], encoded.lengths)

    monkeypatch.setattr(VseInfinity, "encode_images", constant_in_the_second_run)
    monkeypatch.setattr(loop, "CollapseWatch", lambda: CollapseWatch(window=10))
    changes: dict[str, Any] = {"loss": {"warmup_epochs": 4}, "train": {"epochs": 7, "lr": 0.03}}
    file = write_recipe(tmp_path / "tiny.yaml", "vse_inf", data, changes)
    assert main(["train", str(file), "--out", str(tmp_path / "runs"), "--seeds", "2", "--json"]) == 2
    healthy, stopped = json.loads(capsys.readouterr().out)["runs"]
    assert healthy["finished"]
    assert stopped["seed"] == 2
    assert "--loss.warmup_epochs" in stopped["collapse"]
    assert (tmp_path / "runs" / "seed_2" / "best" / "model.safetensors").is_file()
