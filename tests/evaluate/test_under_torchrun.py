"""The verb under torchrun: two processes give what one gives, one speaks, and both end alike."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import WIDTH, toy_model, toy_split
from pair import group, two_processes
from safetensors.numpy import load_file
from small import command

from patchword.errors import DataError, exit_code
from patchword.verbs.processes import together

IMAGES = 600  # more than two batches, so that both processes encode some


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a model in ``run``, and one without a data set in ``empty``."""
    folder = tmp_path_factory.mktemp("pair")
    draw = np.random.default_rng(0)
    np.save(folder / "test_ims.npy", draw.normal(size=(IMAGES, 4, WIDTH)).astype(np.float32))
    captions = toy_split([str(k) for k in range(IMAGES)]).captions
    (folder / "test_caps.txt").write_text("".join(f"{text}\n" for text in captions), encoding="utf-8")
    toy_model("chan").save(folder / "run")
    (folder / "empty").mkdir()
    return folder


def alone(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in one process, with as many threads as each of two has."""
    return subprocess.run(command(*words), capture_output=True, text=True, check=True)


@pytest.mark.integration
@pytest.mark.parametrize("how", ["matrix", "certified"])
def test_two_processes_give_the_numbers_of_one_and_one_of_them_speaks(place: Path, how: str, tmp_path: Path) -> None:
    words: list[str | Path] = ["evaluate", place / "run", "--data", place, "--ranks", how]
    files = (
        [] if how == "certified" else ["--save-scores", "s.safetensors", "--per-query", "q.jsonl", "--html", "r.html"]
    )
    shown = []
    for name in ("one", "two"):
        there = [word if word.startswith("--") else str(tmp_path / name / word) for word in files]
        (tmp_path / name).mkdir()
        asked = [*words, *there, "--resume", tmp_path / name / "kept", "--memory", "1GiB", "--json"]
        done = alone(*asked) if name == "one" else two_processes(*command(*asked)[1:])
        assert done.returncode == 0, done.stderr
        shown.append(json.loads(done.stdout))  # printed once, else this is no JSON
        for word in there[1::2]:
            assert done.stderr.count(f"wrote '{word}'") == 1
    times = {"encode_s", "score_s"}
    assert {key: value for key, value in shown[1].items() if key not in times} == {
        key: value for key, value in shown[0].items() if key not in times
    }
    if files:
        ours, theirs = (load_file(tmp_path / name / "s.safetensors") for name in ("one", "two"))
        assert {key: value.tobytes() for key, value in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
        assert (tmp_path / "one" / "q.jsonl").read_bytes() == (tmp_path / "two" / "q.jsonl").read_bytes()
    # The same parts, so what two processes began one can finish.
    kept = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name / "kept").rglob("*.*"))
            for name in ("one", "two")]  # fmt: skip
    assert len(kept[0]) > 5
    assert kept[0] == kept[1]


@pytest.mark.integration
def test_a_process_that_fails_takes_the_other_with_it(place: Path) -> None:
    """Process 1 finds no data while process 0 waits for its share; there is no torchrun that would end it."""
    first, second = group(
        *(command("evaluate", place / "run", "--data", data) for data in (place, place / "empty")), timeout_s=60
    )
    assert [first.returncode, second.returncode] == [2, 2]
    assert [first.stdout, second.stdout] == ["", ""]
    assert first.stderr == ""
    assert second.stderr.startswith("DataError: ")
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.integration
def test_the_others_end_with_the_outcome_of_the_one_that_writes(place: Path, tmp_path: Path) -> None:
    asked = command("evaluate", place / "run", "--data", place, "--limit", "20", "--per-query", tmp_path / "x.txt")
    first, second = group(asked, asked, timeout_s=60)
    assert [first.returncode, second.returncode] == [2, 2]
    assert "expected a name that ends in .jsonl" in first.stderr
    assert second.stderr == ""


def test_one_process_works_alone() -> None:
    assert together(lambda: 7) == 7


def test_errors_have_the_codes_of_the_command_line() -> None:
    errors = (DataError("x"), PermissionError(13, "x"), OSError(5, "x"), ValueError("x"), KeyboardInterrupt())
    assert [exit_code(error) for error in errors] == [2, 2, 1, 1, 130]
