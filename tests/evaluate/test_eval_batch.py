"""A split is encoded in the batches of the training where vectors depend on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluate_toys import toy_model
from small import WIDTH, recipe, refused, write_precomp
from test_rococo import write_attack

from patchword.cli import main
from patchword.errors import ConfigError
from patchword.evaluate.banks import evaluate_banks_of
from patchword.evaluate.benchmarks import evaluate_benchmark
from patchword.evaluate.encoding import BATCH, batch_of
from patchword.evaluate.members import join_members, open_members
from patchword.evaluate.run import evaluate
from patchword.evaluate.setting import Setting
from patchword.loading import load
from patchword.train.run import train

SMALL: dict[str, Any] = {"guide": "pooled", "heads": 2, "guide_heads": 2, "prototypes": 4, "queue": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_precomp(tmp_path_factory.mktemp("batches") / "data", {"train": 12, "dev": 12, "test": 6})


def trained(data: Path, folder: Path, padding: str) -> Path:
    """A run that was selected in batches of 3."""
    over = {
        "model": {**SMALL, "pool_padding": padding, "residual_weight": 0.1},
        "train": {"epochs": 1, "batch_size": 20, "eval_batch": 3},
    }
    train(recipe("aahr", data, over, image={"kind": "regions", "width": WIDTH}), folder)
    assert load(folder).about["eval_batch"] == 3
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("run") / "aahr", "reference")


def logged(run: Path) -> float:
    """The rsum that the trainer wrote down for the dev split."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(next(line["rsum"] for line in lines if line["kind"] == "dev"))


def matrix(run: Path, data: Path, **how: Any) -> torch.Tensor:
    """Scores of the dev split."""
    scores = open_members([run], data, Setting(split="dev", **how))[0].saved.scores
    assert isinstance(scores, torch.Tensor)
    return scores


def test_the_dev_rsum_of_the_trainer_is_found_again(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--data", str(data), "--split", "dev", "--json"]
    for more in ([], ["--ranks", "streamed"], ["--eval-batch", "3"]):
        assert main([*words, *more]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["rsum"] == logged(run) == load(run).about["rsum"]
        assert any("encoded 3 at a time" in note for note in said["notes"])
    assert main([*words, "--eval-batch", "60"]) == 0
    assert any("encoded 60 at a time" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_another_batch_gives_other_scores(run: Path, data: Path) -> None:
    own = matrix(run, data)
    assert torch.equal(own, matrix(run, data, eval_batch=3))
    assert not torch.allclose(own, matrix(run, data, eval_batch=60), atol=1e-5)
    assert evaluate(run, data, split="dev", eval_batch=60).notes != evaluate(run, data, split="dev").notes


def test_where_it_does_not_matter_nothing_is_said(data: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path / "masked", "masked")
    torch.testing.assert_close(matrix(run, data), matrix(run, data, eval_batch=60))
    assert not any("at a time" in note for note in evaluate(run, data, split="dev").notes)


def test_the_note_goes_with_saved_scores_and_ensembles(run: Path, data: Path, tmp_path: Path) -> None:
    evaluate(run, data, split="dev", save_to=tmp_path / "scores.safetensors")
    for sources in ([tmp_path / "scores.safetensors"], [tmp_path / "scores.safetensors", run]):
        members = open_members(sources, data, Setting(split="dev"))
        one = members[0] if len(members) == 1 else join_members(members)
        assert any("encoded 3 at a time" in note for note in one.evaluate().notes)


def test_a_checkpoint_without_a_batch_is_encoded_as_ever() -> None:
    model = toy_model()
    assert batch_of(model) == BATCH == 256
    for stored in (None, 0, -1, "8", True, 2.0):
        model.about = {"eval_batch": stored}
        assert batch_of(model) == BATCH
    model.about = {"eval_batch": 7}
    assert (batch_of(model), batch_of(model, 5)) == (7, 5)
    with pytest.raises(ConfigError, match=r"`eval_batch` is 0\. Expected 1 or more"):
        batch_of(model, 0)


def test_it_is_refused_where_nothing_is_encoded(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run, data, split="dev", save_to=tmp_path / "scores.safetensors")
    line = refused(["evaluate", tmp_path / "scores.safetensors", "--eval-batch", "4"], capsys, kind="ConfigError")
    assert "--eval-batch does not go with saved scores" in line
    line = refused(["evaluate", run, "--data", data, "--eval-batch", "0"], capsys, kind="ConfigError")
    assert "`eval_batch` is 0" in line
    with pytest.raises(ConfigError, match="hold nothing random"):
        evaluate_banks_of(run, data, 2, Setting(split="dev", eval_batch=4))


# ------------------------------------------------------------------ benchmarks


@pytest.fixture(scope="module")
def rated(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The run on data whose dev images have COCO numbers, and the files of two benchmarks."""
    folder = tmp_path_factory.mktemp("rated") / "coco_precomp"
    shutil.copytree(data, folder)
    (folder / "dev_ids.txt").write_text("".join(f"{100 + k}\n" for k in range(12)))
    rows = [{"image_id": 100 + k, "category_id": 1 + k % 3} for k in range(12)]
    (folder / "instances_val2014.json").write_text(json.dumps({"annotations": rows}))
    write_attack(folder / "danger.json", [100 + k for k in range(12)])
    return ["evaluate", str(run), "--data", str(folder), "--split", "dev", "--json"]


@pytest.mark.parametrize(
    ("protocol", "file"), [("pmrp", "instances_val2014.json"), ("rococo", "danger.json"), ("choices", "own.json")]
)
def test_benchmarks_encode_in_the_batches_of_the_training_or_as_asked(
    protocol: str, file: str, rated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(rated[3])
    items = [{"images": [str(100 + k)], "captions": [f"a dog and a {w}" for w in ("cat", "hat")]} for k in range(12)]
    (folder / "own.json").write_text(json.dumps({"name": "own", "items": items}))
    words = [*rated, "--protocol", protocol, "--annotations", str(folder / file)]
    for more, batch in (([], 3), (["--eval-batch", "60"], 60)):
        assert main([*words, *more]) == 0
        assert any(f"encoded {batch} at a time" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert "`eval_batch` is 0" in refused([*words, "--eval-batch", "0"], capsys, kind="ConfigError")


def test_a_benchmark_of_saved_scores_encodes_nothing(rated: list[str]) -> None:
    run, data = rated[1], Path(rated[3])
    own = evaluate_benchmark("pmrp", run, data, Setting(split="dev"), annotations=data)
    saved = open_members([run], data, Setting(split="dev"))[0].saved
    assert evaluate_benchmark("pmrp", saved, annotations=data).numbers == own.numbers
    with pytest.raises(ConfigError, match="`eval_batch` is 3, and nothing is encoded"):
        evaluate_benchmark("pmrp", saved, None, Setting(eval_batch=3), annotations=data)
