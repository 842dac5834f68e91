"""All systems on the same data: two of them here, tiny; what is printed, what is kept, what a failure looks like."""

import json
from pathlib import Path
from typing import Any

import pytest
from killed import die_or_end
from small import refused

from patchword.bench.leaderboard import (
    SCENES_BUDGET,
    Budget,
    Job,
    _run_all,
    drawn_scenes,
    exit_code,
    leaderboard,
    overrides_of,
    run_job,
)
from patchword.bench.leaderboard_table import COLUMNS, SYSTEMS, Outcome, Row, System, markdown, notes, printed
from patchword.data.open import open_split
from patchword.data.scenes import write_scenes
from patchword.errors import ConfigError
from patchword.evaluate.scores_file import load_scores
from patchword.recipe import load_recipe

pytestmark = pytest.mark.integration

PAIR = (System("VSE-infinity", ("vse_inf",)), System("both", ("vse_inf", "chan"), "mean of two models"))
TINY: dict[str, Any] = {
    "model": {"joint_dim": 32, "text": {"kind": "bigru", "word_dim": 16}},
    "train": {"epochs": 1, "batch_size": 16},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=12, dev=8, test=10, seed=0, pictures=False)
    return folder


def run(scenes: Path, out: Path, systems: tuple[System, ...] = PAIR, **options: Any) -> Any:
    return leaderboard(scenes, out, suffix="scenes", systems=systems, overrides=TINY, **options)


@pytest.fixture(scope="module")
def board(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a finished board of two seeds, and its rows."""
    folder = tmp_path_factory.mktemp("board")
    return folder, run(scenes, folder, seeds=2)


def test_every_system_gets_a_row_and_a_second_call_reads_what_is_there(scenes: Path, board: tuple[Path, Any]) -> None:
    folder, rows = board
    assert [row.system.name for row in rows] == ["VSE-infinity", "both"]
    assert all(len(row.outcomes) == 2 and not row.failed for row in rows)
    single, both = (row.outcomes[0] for row in rows)
    assert 0 <= single.rsum <= 600
    assert single.rsum == pytest.approx(sum(single.recalls))
    assert both.parameters > single.parameters
    assert single.train_pairs_per_s > both.train_pairs_per_s > 0
    assert "±" in rows[0].cells()[1]
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert text == markdown(rows)
    assert "both: mean of two models." in text
    assert len(json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))["rows"]) == 2
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.glob("*/result.json"))]
    again = run(scenes, folder, seeds=2)
    assert [row.outcomes for row in again] == [row.outcomes for row in rows]
    assert stamps == [path.stat().st_mtime_ns for path in sorted(folder.glob("*/result.json"))]


def test_a_system_that_fails_says_why_and_the_others_go_on(scenes: Path, board: tuple[Path, Any]) -> None:
    missing = System("nothing", ("no_such",))
    rows = run(scenes, board[0], (PAIR[0], missing))
    assert rows[0].outcomes
    assert "no_such_scenes" in rows[1].failed
    assert all(len(row.cells()) == len(COLUMNS) for row in rows)
    assert exit_code(rows) == 1
    assert (exit_code(rows[:1]), exit_code(rows[1:])) == (0, 2)
    assert exit_code([Row(missing, failed="CollapseError: all pairs score alike")]) == 1
    assert "nothing failed: ConfigError: recipe 'no_such_scenes' does not exist" in printed(rows, 1000, "x.md")


def test_scores_with_a_random_part_are_evaluated_over_five_draws_and_stand_ins_are_named(
    scenes: Path, tmp_path: Path
) -> None:
    systems = (System("SCTA", ("scta",), "cells"), System("AAHR", ("aahr",)))
    for stem in ("scta", "aahr"):
        assert run_job(Job(f"{stem}_scenes", 0, str(scenes), None, str(tmp_path), Budget(), TINY)) == ""
    rows = run(scenes, tmp_path, systems)
    assert [row.failed for row in rows] == ["", ""]
    assert rows[0].outcomes[0].rsum == pytest.approx(sum(rows[0].outcomes[0].recalls))
    said = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "SCTA: cells; scores hold a random part: recalls are means over 5 banks." in said
    assert "AAHR: pooled local vectors stand in for CLIP's global vectors." in said


def test_the_split_that_the_settings_name_is_tested_on(scenes: Path, tmp_path: Path) -> None:
    overrides = {**TINY, "data": {"test": "dev"}}
    job = Job("vse_inf_scenes", 0, str(scenes), None, str(tmp_path), Budget(), overrides)
    assert run_job(job) == ""
    assert len(load_scores(job.folder / "test.safetensors").image_ids) == 8  # of dev


def outcome(seed: int, rsum: float) -> Outcome:
    return Outcome("r", seed, (52.1, 95.1, 99.6, 49.7, 89.5, 95.6), rsum, 23_120_000, 783.0, 87_230_289.0, 2.85, 40.0)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_printed_table_fits_the_terminal(width: int, seeds: int) -> None:
    rows = [Row(system, tuple(outcome(seed, 481.6 + seed) for seed in range(seeds))) for system in SYSTEMS]
    lines = printed(rows, width, "runs/x/leaderboard.md").splitlines()
    assert max(map(len, lines)) <= width
    assert "rsum" in lines[1].split()
    whole = all(head in " ".join(lines[:2]) for head in ("R@10", "GiB", "pairs/s", "parameters"))
    assert whole == (width == 200)
    said = " ".join(lines)
    assert ("The whole table: runs/x/leaderboard.md" in said) == (not whole)
    assert all(note in said for note in notes(rows))


def test_a_budget_shortens_every_schedule(scenes: Path, tmp_path: Path) -> None:
    job = Job(
        "hrem_scenes", 3, str(scenes), None, str(tmp_path), Budget(epochs=2, train_images=6), {"loss": {"margin": 0.3}}
    )
    whole, found = load_recipe("hrem_scenes"), load_recipe("hrem_scenes", overrides_of(job))
    assert (found.train.epochs, found.train.seed, found.data.limit_train) == (2, 3, 6)
    factor = 2 / whole.train.epochs
    assert found.train.lr_steps == tuple(max(1, round(step * factor)) for step in whole.train.lr_steps)
    assert found.loss.graph_from_step == max(1, round(whole.loss.graph_from_step * factor / 2))  # half of the images
    assert found.loss.margin == 0.3
    rows = run(scenes, tmp_path / "board", PAIR[:1], budget=Budget(train_images=6))
    metrics = tmp_path / "board" / "vse_inf_scenes_0" / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert max(one["pairs"] for one in steps if one["kind"] == "train") == 16  # of 30 pairs, whole batches of 16
    assert rows[0].outcomes


def test_results_of_other_settings_are_not_taken_for_these(scenes: Path, board: tuple[Path, Any]) -> None:
    with pytest.raises(ConfigError, match=r"a result with train_images None. Expected 6"):
        run(scenes, board[0], PAIR[:1], budget=Budget(train_images=6))


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    job = Job("chan_scenes", 0, "data", None, str(tmp_path), Budget(), {})
    job.folder.mkdir()
    for kept, message in (
        ({"settings": {**job.settings, "batch": 3}}, "a result with batch 3. Expected None"),
        ({}, "a result with data None. Expected 'data'"),
    ):
        (job.folder / "result.json").write_text(json.dumps(kept), encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            list(_run_all([job], 1))
    (job.folder / "result.json").write_text(json.dumps({"settings": {**job.settings, "later": None}}), encoding="utf-8")
    assert list(_run_all([job], 1)) == [(job, "")]


def test_a_killed_process_fails_its_own_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.bench.leaderboard.run_job", die_or_end)
    jobs = [Job("chan_scenes", seed, "data", None, str(tmp_path), Budget(), {}) for seed in range(3)]
    said = {job.seed: failure for job, failure in _run_all(jobs, 2)}
    assert said.pop(0).startswith("unexpected BrokenProcessPool")
    assert said == {1: "seed 1", 2: "seed 2"}


def test_nothing_to_run_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to run"):
        run(scenes, tmp_path / "board", ())


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--processes", "0"], "ConfigError", "`processes` is 0. Expected 1 or more."),
        (["--epochs", "0"], "ConfigError", "`epochs` is 0. Expected 1 or more."),
        (["--train-images", "-1"], "ConfigError", "`train_images` is -1. Expected 1 or more."),
        (["--data", "nosuch"], "DataError", "nosuch"),
    ],
)
def test_what_can_not_run_is_refused_in_one_line(
    words: list[str], kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board: list[str | Path] = ["bench", "leaderboard", "--out", tmp_path / "board", *words]
    assert message in refused(board, capsys, kind=kind)
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("suffix", ["scenes", "flickr8k_grid36_bigru", "flickr8k_grid36_minilm"])
def test_every_system_has_its_recipes(suffix: str) -> None:
    recipes = Path(__file__).parent.parent / "recipes"
    missing = [
        stem for system in SYSTEMS for stem in system.recipes if not (recipes / f"{stem}_{suffix}.yaml").exists()
    ]
    assert not missing


def test_data_called_scenes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.bench.leaderboard.SCENES", {"train": 8, "dev": 4, "test": 6})
    folder = drawn_scenes(tmp_path)
    assert open_split(folder, "test").n_images == 6
    assert drawn_scenes(tmp_path) == folder == tmp_path / "data"


def test_drawn_scenes_have_a_smaller_budget_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.bench.leaderboard.SCENES", {"train": 8, "dev": 4, "test": 6})
    drawn_scenes(tmp_path)
    assert Budget().or_else(SCENES_BUDGET) == Budget(5, 500)
    assert Budget(epochs=6, train_images=900).or_else(SCENES_BUDGET) == Budget(6, 900)
    seen: list[Job] = []

    def note_jobs(jobs: list[Job], processes: int) -> list[tuple[Job, str]]:
        seen.extend(jobs)
        return [(job, "DataError: not run") for job in jobs]

    monkeypatch.setattr("patchword.bench.leaderboard._run_all", note_jobs)
    for data, budget in ((None, None), (None, Budget(6, 900)), (tmp_path / "data", None)):
        leaderboard(data, tmp_path / "out", suffix="scenes", systems=PAIR[:1], budget=budget)
    assert [job.budget for job in seen] == [Budget(5, 500), Budget(6, 900), Budget()]
