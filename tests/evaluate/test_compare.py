"""``patchword compare``: memory, parts that survive a kill, and what is said of the runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import WIDTH, saved_scores, toy_model, toy_split, write_lines
from small import refused

from patchword.cli import main
from patchword.evaluate.scores_file import write_scores
from patchword.scoring.jobs import Job


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data folder with two models in ``a`` and ``b``."""
    ids = [str(k) for k in range(200)]
    np.save(tmp_path / "test_ims.npy", np.random.default_rng(0).normal(size=(200, 4, WIDTH)).astype(np.float32))
    write_lines(tmp_path / "test_caps.txt", toy_split(ids).captions)
    for seed, name in enumerate(("a", "b")):
        toy_model("chan", seed=seed).save(tmp_path / name)
    return tmp_path


def test_parts_are_kept_and_not_computed_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[int] = []
    write = Job._write
    monkeypatch.setattr(Job, "_write", lambda job, unit, found: (written.append(unit), write(job, unit, found))[1])
    words = ["compare", str(place / "a"), str(place / "b"), "--data", str(place), "--device", "cpu", "--json"]
    assert main(words) == 0
    wanted = json.loads(capsys.readouterr().out)
    written.clear()
    found = []
    for _ in range(2):
        assert main([*words, "--resume", str(place / "kept"), "--memory", "64MiB"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert sorted(path.name for path in (place / "kept").iterdir()) == ["1", "2"]
    assert len(written) == len(list((place / "kept").rglob("*.safetensors"))) >= 2
    for one in (wanted, *found):
        for run in one["runs"]:
            del run["encode_s"], run["score_s"]
    assert found == [wanted, wanted]
    victim = next((place / "kept" / "2").rglob("*.safetensors"))
    victim.unlink()
    before = len(written)
    assert main([*words, "--resume", str(place / "kept"), "--memory", "64MiB"]) == 0
    assert len(written) == before + 1


def test_wrong_amounts_and_saved_scores(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str | Path] = ["compare", place / "a", place / "b", "--data", place, "--memory"]
    assert "'much' is no amount of memory" in refused([*words, "much"], capsys, kind="ConfigError")
    assert "give at least that" in refused([*words, "1k"], capsys, kind="ScoreError")
    for option in (["--memory", "1GiB"], ["--resume", "kept"]):
        said = refused(["compare", "a.npy", "b.safetensors", *option], capsys, kind="ConfigError")
        assert f"{option[0]} does not go with saved scores: nothing is scored" in said


def test_the_table_has_the_notes_and_warnings_of_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was chosen or trained on these rows, and what stands in for an input, is read in the text too."""
    plain = replace(saved_scores(toy_split(["1", "2", "3"])), notes=("both know this",))
    where = replace(plain.provenance, selected_on="test", trained_on="train + test")
    other = replace(plain, provenance=where, notes=("both know this", "a stand-in took the place of an input"))
    files = [str(write_scores(tmp_path / f"{name}.safetensors", one)) for name, one in (("a", plain), ("b", other))]
    assert main(["compare", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("note: both know this") == 1
    assert "note: b: a stand-in took the place of an input" in lines
    assert sum(line.startswith("warning: b: the checkpoint was chosen on this split") for line in lines) == 1
    assert sum(line.startswith("warning: b: the model was trained on this split") for line in lines) == 1
    assert main(["compare", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][1]["notes"][-1] == "a stand-in took the place of an input"
