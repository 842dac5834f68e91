"""Two processes over gloo against one, for every method. Run as a program, this file is what each of the two does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair import group, two_processes
from small import REGIONS, command, effective, recipe, weights, write_precomp, write_recipe

from patchword.config import merge
from patchword.recipe import load_recipe
from patchword.train.loop import Trainer
from patchword.train.run import train

# 85 captions in batches of 20: the last one has 5 pairs, 3 for one process and 2 for the other.
SIZES = {"train": 17, "dev": 8}
TRAIN: dict[str, Any] = {"train": {"drop_last": False, "epochs": 2, "lr": 1e-3, "lr_factors": {"text": 0.5}}}
USUAL = merge(TRAIN, {"data": {"region_drop": 0.3}, "loss": {"warmup_epochs": 1}})
CEFG = {
    "model": {"joint_dim": 8, "sim_dim": 6, "regions": REGIONS, "adjacency": "precomputed"},
    "data": {"region_drop": 0.0},  # an adjacency has every region
}
STILL = {"model": {"dropout": 0.0, "word_dropout": 0.0}}  # masks of dropout are drawn by each process for its share
# Name of a run: method and changes of its tiny recipe.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "chan": ("chan", {"loss": {"same_image": "ignored"}}),
    "chan_micro": ("chan", {"train": {"micro_batch": 4}, "loss": {"warmup_epochs": 2}}),
    "vse_inf": ("vse_inf", {}),
    "esl_h": ("esl", {"model": {"pyramid": "heuristic", "levels": 3}}),
    "esl_a": ("esl", {"model": {"pyramid": "adaptive", "levels": 3}}),
    "laps": ("laps", {"loss": {"same_image": "ignored"}}),
    "scta": ("scta", {"loss": {"same_image": "ignored"}}),
    "cefg_sgr": ("cefg", merge(merge(CEFG, STILL), {"model": {"head": "sgr"}})),
    "cefg_saf": ("cefg", merge(merge(CEFG, STILL), {"model": {"head": "saf"}})),
}


def changes_of(run: str) -> dict[str, Any]:
    """Changes of the tiny recipe for one of the runs."""
    return merge(USUAL, RUNS[run][1])


def write_data(folder: Path) -> Path:
    """The tiny data with a neighbourhood of every region."""
    write_precomp(folder, SIZES)
    draw = np.random.default_rng(0)
    for split, count in SIZES.items():
        near = draw.random((count, REGIONS, REGIONS)) < 0.3
        np.save(folder / f"{split}_ims_adjacency.npy", near | np.eye(REGIONS, dtype=bool))
    return folder


def record_steps(into: list[dict[str, Any]]) -> None:
    """Note the loss, and the gradients of the first step before they are cut, of every training in this process."""
    step = Trainer.train_step

    def recording(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        numbers = step(trainer, batch, position)
        kept = {"loss": numbers["loss"], "grad_norm": numbers["grad_norm"], "pairs": len(batch)}
        if position.step == 0:
            gradients = {n: p.grad.clone() for n, p in trainer.method.named_parameters() if p.grad is not None}
            into.append({"gradients": gradients, "steps": []})
        into[-1]["steps"].append(kept)
        return numbers

    Trainer.train_step = recording  # type: ignore[method-assign]


def worker(folder: Path) -> None:
    """What each process does: all runs, one after the other in one process group."""
    noted: list[dict[str, Any]] = []
    record_steps(noted)
    for run in RUNS:
        train(load_recipe(folder / f"{run}.yaml"), folder / run)
    rank = torch.distributed.get_rank()
    torch.save([one["gradients"] for one in noted], folder / f"gradients{rank}.pt")
    (folder / f"steps{rank}.json").write_text(json.dumps([one["steps"] for one in noted]), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the two processes, and what one process noted on the same recipes."""
    folder = tmp_path_factory.mktemp("pair")
    data = write_data(folder / "data")
    for run, (method, _) in RUNS.items():
        write_recipe(folder / f"{run}.yaml", method, data, changes_of(run))
    for done in group(*[[sys.executable, __file__, folder]] * 2):
        assert done.returncode == 0, done.stderr
    noted: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", Trainer.train_step)  # undone afterwards
        record_steps(noted)
        for run, (method, _) in RUNS.items():
            train(recipe(method, data, changes_of(run)), folder / f"{run}_alone")
    return folder, noted


@pytest.mark.integration
@pytest.mark.parametrize("run", RUNS)
def test_two_processes_make_the_steps_of_one(run: str, pair: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, noted = pair
    k = list(RUNS).index(run)
    alone = noted[k]
    for rank in (0, 1):
        steps = json.loads((folder / f"steps{rank}.json").read_text(encoding="utf-8"))[k]
        assert [one["pairs"] for one in steps] == ([10, 10, 10, 10, 3 - rank] * 2)
        assert [one["loss"] for one in steps] == pytest.approx([one["loss"] for one in alone["steps"]], rel=1e-5)
        assert [one["grad_norm"] for one in steps] == pytest.approx(
            [one["grad_norm"] for one in alone["steps"]], rel=5e-4
        )
        gradients = torch.load(folder / f"gradients{rank}.pt", weights_only=True)[k]
        assert set(gradients) == set(alone["gradients"])
        for name, expected in alone["gradients"].items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                gradients[name],
                expected,
                rtol=1e-5,
                atol=3e-5 * scale + 1e-6,
                msg=name,
            )


@pytest.mark.integration
@pytest.mark.parametrize("run", ["chan", "chan_micro", "vse_inf", "esl_h", "laps", "scta"])
def test_two_processes_end_with_the_weights_of_one(run: str, pair: tuple[Path, list[dict[str, Any]]]) -> None:
    """Not for ESL-A and CEFG: AdamW takes whole steps along gradients of theirs that are nothing but rounding."""
    folder, _ = pair
    found = effective(weights(folder / run / "last"))
    for name, expected in effective(weights(folder / f"{run}_alone" / "last")).items():
        if expected.is_floating_point():
            assert float((found[name] - expected).norm() / expected.norm()) < 1e-4, name
        else:
            assert torch.equal(found[name], expected), name


@pytest.mark.integration
def test_the_command_line_under_torchrun_goes_on_with_the_run_of_one_process(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "chan", write_precomp(tmp_path / "data", SIZES), TRAIN)
    train(path, tmp_path / "run", overrides=["--train.epochs", "1"])
    done = two_processes("-m", *command("train", path, "--out", tmp_path / "run")[2:])
    assert done.returncode == 0, done.stderr
    for said in ("resuming", "epoch 2: dev", "Next: patchword evaluate"):
        assert done.stdout.count(said) == 1
    train(path, tmp_path / "alone")
    found = effective(weights(tmp_path / "run" / "last"))
    for name, expected in effective(weights(tmp_path / "alone" / "last")).items():
        assert float((found[name] - expected).norm() / expected.norm()) < 1e-5, name


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
