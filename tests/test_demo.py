"""The demo from end to end at a tiny size: what it writes, that it is reused, and that it goes on after a stop."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

import patchword
from patchword import demo
from patchword.cli import main
from patchword.data.scenes_language import is_true
from patchword.demo import example_queries, program, run_demo
from patchword.errors import ConfigError, DataError
from patchword.train.loop import Interrupted

SMALL = {"model": {"joint_dim": 16, "text": {"word_dim": 8}}, "train": {"batch_size": 32}}


def tell(out: Path, **options: object) -> str:
    """Run the tiny demo and return what it prints."""
    console = Console(file=io.StringIO(), width=200)
    settings = {"images": 40, "epochs": 1, "overrides": SMALL, **options}
    assert run_demo(out, console=console, **settings) == out / "report.html"  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished demo and its story."""
    out = tmp_path_factory.mktemp("a demo") / "demo"
    return out, tell(out)


@pytest.mark.integration
def test_everything_is_written(told: tuple[Path, str]) -> None:
    out, story = told
    for name in (
        "data/scenes.json",
        "config.yaml",
        "last/training.pt",
        "best/model.safetensors",
        "vse_inf/best/config.json",
        "index/manifest.json",
    ):
        assert (out / name).is_file(), name
    assert patchword.load(out).method.name == "chan"
    assert patchword.load(out / "vse_inf").method.name == "vse_inf"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert "data:image/jpeg;base64," in page
    assert page.count('class="card pair"') == 3
    assert page.count("<polyline") == 4  # loss and rsum of both runs
    for line in ("chance", "VSE-infinity", "CHAN", "rsum", "What to try next"):
        assert line in story
    shown = story[story.index("right caption, %") :].splitlines()
    assert {"shape", "colour", "size", "texture", "relation"} & set(shown[0].split())
    assert [line.split()[0] for line in shown[1:4]] == ["chance", "VSE-infinity", "CHAN"]
    assert shown[1].split()[-1] == "50.0"
    assert "Each of the 100 sentences beside the same with one word made false" in story
    assert shown[3].split()[-1] in page[page.index('id="negatives"') : page.index('id="certainty"')]
    assert story.count('"\n  1  0.') == 3  # three queries and their first answers


def test_help_says_what_the_flag_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--no-pictures draw none; the report shows ids then" in shown
    assert "--pictures" not in shown.replace("--no-pictures", "")


@pytest.mark.integration
def test_the_second_time_everything_is_reused(told: tuple[Path, str]) -> None:
    out, _ = told
    before = (out / "last" / "training.pt").stat().st_mtime_ns
    story = tell(out)
    assert story.count("reused") == 3  # data and both runs
    assert "epoch 1:" not in story
    assert (out / "last" / "training.pt").stat().st_mtime_ns == before


@pytest.mark.integration
def test_more_epochs_go_on_and_other_settings_are_refused(told: tuple[Path, str]) -> None:
    out, _ = told
    assert "resuming" in tell(out, epochs=2)
    with pytest.raises(DataError, match="holds other scenes"):
        tell(out, images=50)
    with pytest.raises(ConfigError, match=r"model\.joint_dim"):
        tell(out, overrides={**SMALL, "model": {"joint_dim": 8}})


@pytest.mark.integration
def test_the_commands_it_ends_with_work(told: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, story = told
    commands = [line.strip() for line in story.splitlines() if line.startswith(f"    {program()} ")]
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command.removeprefix(program()))
        if words[0] in ("search", "evaluate"):
            assert main(words) == 0
    assert "images/test_" in capsys.readouterr().out
    index = next(shlex.split(command)[-1] for command in commands if " serve " in command)
    assert main(["search", index, "a red ball"]) == 0
    assert ".png" in capsys.readouterr().out


@pytest.mark.integration
def test_an_interrupted_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(demo, "train", stop)
        with pytest.raises(Interrupted):
            tell(tmp_path / "demo")
        patched.setattr(demo, "run_demo", stop)
        assert main(["demo", "--out", str(tmp_path / "demo")]) == 130
    story = tell(tmp_path / "demo", pictures=False)
    assert story.count("reused") == 1  # the data
    assert "What to try next" in story


def test_queries_are_true_of_a_picture_of_the_split() -> None:
    from itertools import islice

    from patchword.data.scenes import members

    scenes = [member.scene for member in islice(members(3, "test"), 25)]
    queries = example_queries(3, 25)
    assert len(queries) == 3
    assert all(any(is_true(query, scene) for scene in scenes) for query in queries)
