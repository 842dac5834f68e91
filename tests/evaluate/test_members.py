"""Runs, models and score files together: ensembles, seeds, comparisons."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluate_toys import noisy_scores, saved_scores, toy_model, toy_split
from small import write_precomp

import patchword
from patchword.cli import main
from patchword.errors import ConfigError, ScoreError
from patchword.evaluate.banks import evaluate_banks_of
from patchword.evaluate.benchmarks import evaluate_benchmark
from patchword.evaluate.compare import compare, holm
from patchword.evaluate.ensemble import ensemble
from patchword.evaluate.members import join_members, open_member, open_members, short_names
from patchword.evaluate.result import evaluate_scores
from patchword.evaluate.run import evaluate
from patchword.evaluate.scores_file import load_scores, write_scores
from patchword.evaluate.seeds import evaluate_seeds
from patchword.evaluate.setting import Setting

SPLIT = toy_split([str(k) for k in range(20)], each=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three saved matrices of ``SPLIT``."""
    folder = tmp_path_factory.mktemp("files")
    return [
        write_scores(folder / f"{name}.safetensors", saved_scores(SPLIT, strength=strength, seed=seed))
        for name, strength, seed in (("weak", 0.3, 1), ("middle", 0.6, 2), ("strong", 1.2, 3))
    ]


def test_several_runs_in_one_call_are_their_mean() -> None:
    models = [toy_model("vse_inf", seed=1), toy_model("chan", seed=2)]
    together = patchword.evaluate(models, SPLIT)
    matrices = [open_member(model, SPLIT).saved for model in models]
    expected = evaluate_scores(ensemble(matrices).scores, SPLIT)
    assert together.recall == expected.recall
    assert together.provenance.method == "vse_inf + chan"
    assert any(note.startswith("ensemble (mean) of") for note in together.notes)
    one = evaluate([models[0]], SPLIT)
    assert one.recall == evaluate(models[0], SPLIT).recall
    weighted = evaluate(models, SPLIT, fusion="rank", weights=[3.0, 1.0])
    assert "ensemble (rank, weights 3, 1)" in weighted.notes[0]


@pytest.mark.parametrize(("how", "weights"), [("nonsense", None), ("zscore", None), ("mean", [1.0, 2.0, 3.0])])
def test_one_run_is_not_fused(how: str, weights: list[float] | None) -> None:
    model = toy_model()
    for runs in (model, [model]):
        with pytest.raises(ConfigError, match=r"for one run\. .*add runs\.$"):
            evaluate(runs, SPLIT, fusion=how, weights=weights)
    with pytest.raises(ConfigError, match="for one run"):
        evaluate(model, SPLIT, fusion=how, weights=weights, ranks="streamed")
    with pytest.raises(ConfigError, match="for one run"):
        evaluate_benchmark("eccv", model, SPLIT, fusion=how, weights=weights)


def test_a_setting_is_made_by_name(files: list[Path]) -> None:
    with pytest.raises(TypeError):
        Setting("dev")  # type: ignore[misc]
    assert evaluate(files[0], SPLIT).recall == evaluate([files[0]], SPLIT).recall  # a score file alone, too


def test_a_saved_ensemble_evaluates_to_the_same(tmp_path: Path) -> None:
    models = [toy_model(seed=1), toy_model(seed=2)]
    there = evaluate(models, SPLIT, save_to=tmp_path / "both.safetensors")
    again = evaluate_scores(load_scores(tmp_path / "both.safetensors"), SPLIT)
    assert again.recall == there.recall
    assert again.id_check.endswith("and all captions equal the file's")


def test_members_of_other_splits_are_refused(files: list[Path]) -> None:
    other = replace(SPLIT, image_ids=["x", *SPLIT.image_ids[1:]])
    with pytest.raises(ScoreError, match=r"image id of row 0 is '0' in .* but 'x'"):
        join_members([open_member(files[0]), open_member(toy_model(), other)])
    with pytest.raises(ScoreError, match="image id of row 0 is '0' in 'ensemble' but 'x' in 'toy/test'"):
        evaluate([str(files[0]), str(files[1])], other)
    with pytest.raises(ConfigError, match=r"is a run and needs its data"):
        open_member(toy_model())
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        open_members([])


def test_names_are_as_short_as_they_can_be(files: list[Path]) -> None:
    assert [member.name for member in open_members(files)] == ["weak", "middle", "strong"]
    assert [member.name for member in open_members([files[0], files[0]])] == [f"{files[0]} #1", f"{files[0]} #2"]
    assert short_names(["a/b", "c/b"]) == ["a/b", "c/b"]


def test_seeds_give_mean_and_deviation(files: list[Path]) -> None:
    report = evaluate_seeds(files)
    rsums = [evaluate_scores(load_scores(path)).headline.rsum for path in files]
    assert report.spread("rsum") == pytest.approx((np.mean(rsums), np.std(rsums, ddof=1)))
    assert f"rsum {np.mean(rsums):.1f} +- {np.std(rsums, ddof=1):.1f}" in report.table()
    assert "is not known, so it was not compared" in report.table()
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [run["rsum"] for run in content["runs"]] == rsums
    with pytest.raises(ConfigError, match="1 run was given with --seeds"):
        evaluate_seeds(files[:1])


def write_runs(folder: Path, *recipes: dict[str, Any]) -> list[Path]:
    """Run folders with these recipes."""
    runs = []
    for k, recipe in enumerate(recipes):
        run = folder / f"run{k}"
        toy_model(seed=k).save(run / "best")
        (run / "config.yaml").write_text(yaml.safe_dump({"recipe": recipe}), encoding="utf-8")
        runs.append(run)
    return runs


def recipe(seed: int, **other: Any) -> dict[str, Any]:
    """A recipe, with other values in some of its sections."""
    made: dict[str, Any] = {"method": "vse_inf", "data": {"root": "a/data", "workers": 0}, "model": {"joint_dim": 8}}
    made |= {"loss": {"margin": 0.2}, "train": {"seed": seed, "lr": 0.1}}
    return {key: {**value, **other[key]} if key in other else value for key, value in made.items()}


def test_runs_that_were_trained_otherwise_are_noted(tmp_path: Path) -> None:
    moved = recipe(2, data={"root": "b/data", "workers": 2})
    runs = write_runs(tmp_path, recipe(1), moved, recipe(3, train={"lr": 0.2, "seed": 3}))
    report = evaluate_seeds(runs, SPLIT, Setting(device="cpu"))
    assert report.seeds == (1, 2, 3)
    assert f"the recipe of {runs[2]} differs from that of {runs[0]} in train.lr" in report.table()
    assert f"the recipe of {runs[1]} differs from that of {runs[0]} in data.root, data.workers" in report.table()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (recipe(2, model={"joint_dim": 4}), r"differ in model\.joint_dim \(8, 4\)\."),
        (recipe(2, loss={"margin": 0.1}), r"differ in loss\.margin"),
        (recipe(2, data={"root": "a/others"}), r"differ in data\.root"),
        ({**recipe(2), "method": "chan"}, r"differ in method \(vse_inf, chan\)"),
        (recipe(1), "have the same seed, 1"),
    ],
)
def test_runs_of_other_recipes_are_no_repetitions(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        evaluate_seeds(write_runs(tmp_path, recipe(1), other), SPLIT)


def test_repetitions_are_of_one_method_and_come_once(files: list[Path]) -> None:
    with pytest.raises(ConfigError, match="was given twice"):
        evaluate_seeds([files[0], files[1], files[0]])
    with pytest.raises(ConfigError, match="--seeds needs runs of one recipe"):
        evaluate_seeds([toy_model("vse_inf"), toy_model("chan")], SPLIT)


def test_banks_need_something_random() -> None:
    with pytest.raises(ConfigError, match="hold nothing random"):
        evaluate_banks_of(toy_model(), SPLIT, 3)
    with pytest.raises(ConfigError, match="`banks` is 1"):
        evaluate_banks_of(toy_model(), SPLIT, 1)


def test_a_comparison_says_what_differs_and_where(files: list[Path]) -> None:
    found = compare(files, SPLIT)
    assert found.names == ("weak", "middle", "strong")
    assert len(found.tests) == 2
    table = found.table()
    assert "strong minus weak" in table
    assert "corrected for 2 comparisons (Holm)" in table
    rsum = [one.headline.rsum for one in found.evaluations]
    assert found.tests[1].difference[-1] == pytest.approx(rsum[2] - rsum[0])
    assert found.tests[1].p_permutation[-1] < 0.01
    ratios = [max(one.ranks) / min(one.ranks) for one in found.differences]
    assert ratios == sorted(ratios, reverse=True)
    first = found.differences[0]
    ranks = [getattr(one.queries, first.direction).pessimistic[first.query] + 1 for one in found.evaluations]
    assert list(first.ranks) == [int(rank) for rank in ranks]
    t2i = next(one for one in found.differences if one.direction == "t2i")
    assert t2i.caption == SPLIT.captions[t2i.query]
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [test["b"] for test in content["tests"]] == ["middle", "strong"]
    assert set(content["differences"][0]["ranks"]) == {"weak", "middle", "strong"}


def test_a_run_compared_with_itself_differs_nowhere(files: list[Path]) -> None:
    found = compare([files[0], files[0]])
    assert found.differences == ()
    assert found.tests[0].p_permutation.tolist() == [1.0] * 7


def test_only_the_same_rows_are_compared(files: list[Path], tmp_path: Path) -> None:
    other = toy_split([str(k) for k in range(20)], each=3, seed=5)  # the same images, other captions
    path = write_scores(tmp_path / "o.safetensors", saved_scores(other))
    with pytest.raises(ScoreError, match="caption digest of column"):
        compare([files[0], path])
    with pytest.raises(ConfigError, match="1 run was given"):
        compare(files[:1])
    np.save(tmp_path / "plain.npy", noisy_scores(np.asarray(SPLIT.owner), 20))
    assert "only sizes compared, not image ids and captions" in compare([files[0], tmp_path / "plain.npy"]).table()


def test_holms_correction() -> None:
    np.testing.assert_allclose(holm(np.array([0.5, 0.01])), [0.5, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7, 0.8])), [1.0, 1.0, 1.0])


def test_a_data_folder_serves_runs_and_files(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"test": 8})
    toy_model("chan", width=8).save(tmp_path / "model")
    saved = evaluate([tmp_path / "model"], data, save_to=tmp_path / "s.safetensors")
    found = compare([tmp_path / "model", tmp_path / "s.safetensors"], data)
    assert found.evaluations[0].headline == found.evaluations[1].headline == saved.headline


def test_the_report_of_an_ensemble_warns_of_different_scales(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_precomp(tmp_path / "data", {"test": 20})
    split = patchword.open_split(data, "test", images="features")
    files = []
    for name, scale in (("small", 1.0), ("large", 50.0)):
        saved = saved_scores(split, seed=1)
        files.append(write_scores(tmp_path / f"{name}.safetensors", replace(saved, scores=saved.scores * scale)))
    assert main(["evaluate", *map(str, files), "--data", str(data), "--html", str(tmp_path / "r.html")]) == 0
    capsys.readouterr()
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "mean of 2, warning: scales differ: the scores of" in page
    assert "weigh them alike" in page
