"""A long evaluation: memory, and parts that survive a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import WIDTH, toy_model, toy_split
from small import refused, start, wait_for

from patchword.cli import main
from patchword.errors import ConfigError
from patchword.evaluate.run import evaluate
from patchword.scoring.jobs import Job
from patchword.verbs.sizes import bytes_of

IMAGES = 1000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data folder with a model in ``run``."""
    draw = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", draw.normal(size=(IMAGES, 4, WIDTH)).astype(np.float32))
    captions = toy_split([str(k) for k in range(IMAGES)]).captions
    (tmp_path / "test_caps.txt").write_text("".join(f"{text}\n" for text in captions), encoding="utf-8")
    toy_model("chan").save(tmp_path / "run")
    return tmp_path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that are computed in this process."""
    units: list[int] = []
    write = Job._write

    def noting(job: Job, unit: int, found: dict) -> None:  # type: ignore[type-arg]
        units.append(unit)
        write(job, unit, found)

    monkeypatch.setattr(Job, "_write", noting)
    return units


@pytest.mark.integration
def test_a_killed_evaluation_goes_on_where_it_stopped(
    place: Path, written: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(place / "run"), "--data", str(place), "--device", "cpu", "--json"]
    kept = place / "kept"
    running = start(*words, "--resume", kept)
    wait_for(lambda: len(list(kept.rglob("*.safetensors"))) >= 2, running)
    running.kill()
    running.communicate()
    before = {path.name: path.read_bytes() for path in kept.rglob("*.safetensors") if not path.name.startswith(".")}
    assert main([*words, "--resume", str(kept)]) == 0
    found = json.loads(capsys.readouterr().out)
    after = {path.name: path.read_bytes() for path in kept.rglob("*.safetensors") if not path.name.startswith(".")}
    assert len(written) == len(after) - len(before)
    assert {name: after[name] for name in before} == before
    assert main(words) == 0
    wanted = json.loads(capsys.readouterr().out)
    for key in ("encode_s", "score_s"):
        del found[key], wanted[key]
    assert found == wanted


@pytest.mark.parametrize("how", ["matrix", "streamed", "certified"])
def test_what_is_there_is_not_computed_again(place: Path, written: list[int], how: str) -> None:
    model = toy_model("chan")
    first, again = (evaluate(model, place, ranks=how, resume=place / "kept") for _ in range(2))  # type: ignore[arg-type]
    parts = len(list((place / "kept").rglob("*.safetensors")))
    assert len(written) == parts > 5
    assert first.recall == again.recall == evaluate(model, place).recall


def test_the_parts_of_several_runs_lie_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_model("chan", seed=1).save(place / "other")
    runs = [str(place / "run"), str(place / "other")]
    for more in ([], ["--seeds"]):
        kept = place / f"kept{len(more)}"
        assert main(["evaluate", *runs, "--data", str(place), "--resume", str(kept), *more]) == 0
        assert sorted(path.name for path in kept.iterdir()) == ["1", "2"]
    capsys.readouterr()


def test_parts_of_another_model_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(toy_model("chan"), place, resume=place / "kept")
    toy_model("chan", seed=1).save(place / "other")
    words: list[str | Path] = ["evaluate", place / "other", "--data", place, "--resume", place / "kept"]
    said = refused(words, capsys, kind="ScoreError")
    assert "holds the parts of another scoring job" in said
    assert "Give another folder" in said


def test_amounts_of_memory(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bytes_of("1.5 GiB") == 3 << 29
    for wrong in ("", "2 apples", "-1GiB", "0"):
        with pytest.raises(ConfigError, match="is no amount of memory"):
            bytes_of(wrong)
    words: list[str | Path] = ["evaluate", place / "run", "--data", place, "--memory"]
    assert "give at least that" in refused([*words, "1k"], capsys, kind="ScoreError")
    assert "'much' is no amount of memory" in refused([*words, "much"], capsys, kind="ConfigError")


def test_what_scores_nothing_needs_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "s.npy", np.eye(4))
    for option in (["--memory", "1GiB"], ["--resume", str(tmp_path / "kept")]):
        said = refused(["evaluate", tmp_path / "s.npy", *option], capsys, kind="ConfigError")
        assert f"{option[0]} does not go with saved scores" in said
        words = ["evaluate", "run", "--data", "d", "--protocol", "rococo", "--annotations", "a"]
        said = refused([*words, *option], capsys, kind="ConfigError")
        assert f"{option[0]} does not go with --protocol rococo" in said
