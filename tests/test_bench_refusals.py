"""Options of ``patchword bench`` that would change nothing, or that nothing can be measured with, are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import refused

from patchword.bench.load import bench_load
from patchword.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "--data", "nowhere"], "--data 'nowhere' was given without a run"),
        (["score", "--name", "f30k"], "--name 'f30k' was given without a run"),
        (
            ["score", "--run", "run", "--data", "data", "--method", "chan"],
            "--method 'chan' was given with the run 'run'",
        ),
        (["score", "--run", "run"], "'run' was given without data. Give --data"),
        (["search", "--data", "nowhere"], "--data 'nowhere' was given without a run"),
        (["search", "--name", "f30k"], "--name 'f30k' was given without a run"),
        (["search", "--run", "run"], "'run' was given without data. Give --data"),
    ],
)
def test_what_would_change_nothing(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(["bench", *words], capsys, kind="ConfigError")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["load", "--gigabytes", "nan"], "`gigabytes` is nan. Expected more than 0."),
        (["load", "--gigabytes", "inf"], "`gigabytes` is inf. Expected more than 0, and finite."),
        (["load", "--gigabytes=-inf"], "`gigabytes` is -inf. Expected more than 0."),
        (["service", "no.index", "--seconds", "nan"], "`seconds` is nan. Expected more than 0."),
        (["service", "no.index", "--seconds", "inf"], "`seconds` is inf. Expected more than 0, and finite."),
    ],
)
def test_numbers_that_count_nothing(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(["bench", *words], capsys, kind="ConfigError")


@pytest.mark.parametrize(("gigabytes", "message"), [(9e9, "can not be made in"), (1e300, "more than any system holds")])
def test_a_file_that_no_system_holds(gigabytes: float, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.* Give fewer --gigabytes"):
        next(bench_load(gigabytes=gigabytes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "2", "--train.seed", "5"], "--train.seed 5 would overrule"),
        (["--data.root", "B"], "Use its own option: --data DIR is trained and tested on."),
        (["--data.name", "f30k"], "Use its own option: --name NAME is trained and tested on."),
        (["--epochs", "2", "--train.epochs", "3"], "Use its own option: --epochs N shortens the schedules too."),
        (["--train-images", "9", "--data.limit-train=5"], "Use its own option: --train-images N"),
    ],
)
def test_settings_that_a_leaderboard_gives_every_run(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board: list[str | Path] = ["bench", "leaderboard", "--out", tmp_path / "board", "--data", tmp_path, *words]
    assert message in refused(board, capsys, kind="ConfigError")
    assert not (tmp_path / "board").exists()
