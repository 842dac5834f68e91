"""HREM and AAHR through the trainer. Run as a program, this file is what each of two processes does."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair import group
from safetensors.torch import load_file
from small import effective, recipe, same_tensors, training_state, weights, write_precomp, write_recipe

import patchword
from patchword.config import merge
from patchword.recipe import load_recipe
from patchword.train.loop import Trainer
from patchword.train.run import train

SIZES = {"train": 17, "dev": 8}  # 85 captions in batches of 20: the last one has 5 pairs
EARLY = {"loss": {"graph_from_step": 2, "warmup_epochs": 1}, "model": {"heads": 2, "top_k": 3}}
STILL = {"model": {"dropout": 0.0}, "data": {"region_drop": 0.3}, "train": {"drop_last": False, "lr": 1e-3}}
AAHR = {
    "model": {"guide": "pooled", "guide_heads": 2, "prototypes": 5, "queue": 40},
    "loss": {"swav_from_step": 1},
}
RUNS: dict[str, dict[str, Any]] = {
    "hrem": merge(merge(EARLY, STILL), {"loss": {"graph": "vse"}}),
    "aahr": merge(merge(EARLY, STILL), AAHR),  # with the dropout of its convolutions, which is drawn in the loss
}


def record_steps(into: list[dict[str, Any]]) -> None:
    """Note what every training step in this process logs."""
    step = Trainer.train_step

    def recording(trainer: Trainer, batch: Any, position: Any) -> dict[str, float]:
        numbers = step(trainer, batch, position)
        into.append({"method": trainer.method.name, "pairs": len(batch), **numbers})
        return numbers

    Trainer.train_step = recording  # type: ignore[method-assign]


def worker(folder: Path) -> None:
    """What each process does: both runs, one after the other in one process group."""
    noted: list[dict[str, Any]] = []
    record_steps(noted)
    for run in RUNS:
        train(load_recipe(folder / f"{run}.yaml"), folder / run)
    (folder / f"steps{torch.distributed.get_rank()}.json").write_text(json.dumps(noted), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the two processes, and what one process noted on the same recipes."""
    folder = tmp_path_factory.mktemp("pair")
    data = write_precomp(folder / "data", SIZES)
    for run, changes in RUNS.items():
        write_recipe(folder / f"{run}.yaml", run, data, changes)
    for done in group(*[[sys.executable, __file__, folder]] * 2):
        assert done.returncode == 0, done.stderr
    noted: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", Trainer.train_step)  # undone afterwards
        record_steps(noted)
        for run, changes in RUNS.items():
            train(recipe(run, data, changes), folder / f"{run}_alone")
    return folder, noted


@pytest.mark.integration
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_make_the_steps_of_one(rank: int, pair: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, alone = pair
    steps = json.loads((folder / f"steps{rank}.json").read_text(encoding="utf-8"))
    assert [one["pairs"] for one in steps] == [10, 10, 10, 10, 3 - rank] * 4
    assert len(steps) == len(alone) == 20
    for one, other in zip(steps, alone, strict=True):
        assert set(one) == set(other)
        for name in ("loss", "base", "graph", "regulariser", "swav", "moco", "trip_zeroed", "trip_far_anchors"):
            if name in other:
                assert one[name] == pytest.approx(other[name], rel=2e-5, abs=1e-6), name
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-4)
    late = [one for one in alone if one["method"] == "aahr"][-1]
    assert {"graph", "swav", "moco"} <= set(late)


@pytest.mark.integration
@pytest.mark.parametrize("run", RUNS)
def test_two_processes_end_with_the_weights_of_one(run: str, pair: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = pair
    for name in ("model.safetensors", "training_only.safetensors"):
        found = effective(load_file(folder / run / "last" / name))
        expected = effective(load_file(folder / f"{run}_alone" / "last" / name))
        assert set(found) == set(expected)
        for key, value in expected.items():
            if value.is_floating_point():
                assert float((found[key] - value).norm() / value.norm()) < 2e-5, key
            else:
                assert torch.equal(found[key], value), key


@pytest.mark.integration
@pytest.mark.parametrize("run", RUNS)
def test_a_resumed_run_makes_the_steps_of_one_that_was_not(run: str, tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", SIZES)
    changes = merge(RUNS[run], {"model": {"dropout": 0.2}})
    train(recipe(run, data, changes), tmp_path / "whole")
    train(recipe(run, data, merge(changes, {"train": {"epochs": 1}})), tmp_path / "parts")
    train(recipe(run, data, changes), tmp_path / "parts")
    whole, parts = (training_state(tmp_path / name) for name in ("whole", "parts"))
    assert same_tensors(whole, parts)
    extra = [load_file(tmp_path / name / "last" / "training_only.safetensors") for name in ("whole", "parts")]
    assert same_tensors(*extra)
    assert int(extra[0].get("queue.seen", torch.tensor(170))) == 170


@pytest.mark.integration
@pytest.mark.parametrize("run", RUNS)
def test_the_best_checkpoint_is_what_scoring_needs(run: str, tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", SIZES)
    result = train(recipe(run, data, merge(RUNS[run], {"train": {"epochs": 1}})), tmp_path / "run")
    kept = {key.partition(".")[0] for key in weights(tmp_path / "run" / "best")}
    heads = {"image_pool", "text_pool"} if run == "hrem" else {"image_head", "text_head"}
    assert kept == {"image", "text", *heads}
    found = patchword.evaluate(tmp_path / "run", data, split="dev")
    assert found.headline.rsum == pytest.approx(result.position.best_rsum)


@pytest.mark.integration
def test_training_reads_clip_vectors_through_the_data_layer(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", SIZES)
    draw = np.random.default_rng(0)
    for split, count in SIZES.items():
        vectors = draw.normal(size=(count, 6)).astype(np.float32)
        np.save(data / f"{split}_ims_clip.npy", vectors)
        np.save(data / f"{split}_caps_clip.npy", np.repeat(vectors, 5, axis=0))
    changes = merge(RUNS["aahr"], {"model": {"guide": "clip", "clip_dim": 6}, "train": {"epochs": 3, "lr": 0.01}})
    result = train(recipe("aahr", data, changes), tmp_path / "run")
    assert result.position.best_rsum > 300  # of 8 images; the vectors alone tell which caption belongs to which


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
