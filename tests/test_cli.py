import errno
import json
import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import command, one_line, refused, write_precomp, write_recipe

import patchword
from patchword import cli
from patchword.cli import VERBS, main, split_overrides
from patchword.config import TrainConfig
from patchword.methods import METHODS, method_class
from patchword.train.run import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``tiny.yaml`` and a trained ``run``."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_recipe(
        folder / "tiny.yaml", "vse_inf", write_precomp(folder / "data", {"train": 8, "dev": 4, "test": 6})
    )
    train(path, folder / "run")
    return folder


def says(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of a verb that succeeds."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------ help and version


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_one_screen_and_ends_with_two_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = says([verb, "--help"], capsys).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines[:-2])) <= 120
    assert lines[-3] == "examples:"
    assert all(line.startswith(f"  patchword {verb} ") or line == f"  patchword {verb}" for line in lines[-2:])
    assert says([verb, "-h"], capsys).splitlines() == lines


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_names_every_verb(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = says(arguments, capsys).splitlines()
    assert len(lines) <= 40
    assert all(any(line.startswith(f"  {verb} ") for line in lines) for verb in VERBS)


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says([word], capsys) == f"patchword {patchword.__version__}\n"


@pytest.mark.parametrize(("verb", "entry"), VERBS.items())
def test_the_examples_parse(verb: str, entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    called: list[str] = []
    module, _, name = entry[0].partition(":")
    function = getattr(import_module(module), name)

    def pretend(*args: Any, **kwargs: Any) -> int:
        called.append(verb)
        return 0

    pretend.__dict__.update(function.__dict__)
    pretend.__wrapped__ = function  # type: ignore[attr-defined]
    pretend.__doc__, pretend.__annotations__ = function.__doc__, function.__annotations__
    monkeypatch.setattr(import_module(module), name, pretend)
    for example in entry[2]:
        assert main(shlex.split(example)[1:]) == 0
    assert called == [verb, verb]


# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], r"unknown verb 'trian'. Did you mean `train`?"),
        (["zzz"], "unknown verb 'zzz'."),
        (["--json"], "unknown verb '--json'."),
        (["train"], "RECIPE"),
        (["train", "a", "b"], "Unrecognized options: b"),
        (["train", "a", "--seeed", "3"], "Unrecognized options: --seeed, 3"),
        (["train", "a", "--epochs", "1"], "Unrecognized options: --epochs, 1. Did you mean `--train.epochs`?"),
        (["train", "a", "--lr=0.1"], "Did you mean `--train.lr`?"),
        (["doctor", "recipe", "a", "--learning_rate", "1"], "Did you mean `--train.lr` (called learning_rate in"),
        (["train", "absent_recipe"], "recipe 'absent_recipe' does not exist."),
        (["train", "absent_recipe", "--train.lr"], "does not exist"),
        (["train", "chan_scenes", "--train.lr_steps", "1,2"], 'write "[1, 2]"'),
        (["search", "x"], "--data"),
        (["search", "x", "a dog"], "'x' does not exist"),
        (["search", "x", "a dog:2", "--data", "d"], "weights need an index, and 'a dog:2' has one"),
        (["search", "x", "a dog", "--data", "d", "--device", "gpu"], "unknown device 'gpu'"),
        (["search", "x", "a dog", "--data", "d", "-k", "many"], "-k"),
        (["search", "x", "a dog", "--data", "d", "-k", "0"], "`k` is 0"),
        (["search", "x", "--data", "d"], "nothing to search for"),
        (["doctor", "photos", "x"], "'photos'"),
        (["doctor", "recipe", "absent.yaml"], "does not exist"),
        (["evaluate"], "nothing to evaluate"),
        (["evaluate", "x"], "'x' is a run and needs its data. Add --data DIR."),
        (["evaluate", "x", "--data", "d", "--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["evaluate", "x", "--bogus", "1"], "--bogus"),
        (["compare", "x", "y", "--data", "d", "--device", "cuda:99"], "there is no device 'cuda:99'"),
        (["explain", "x", "0", "a dog", "--device", "tpu"], "unknown device 'tpu'"),
        (["index", "build", "x", "-o", "y", "--model", "m", "--device", "tpu"], "unknown device 'tpu'"),
        (["index", "sync", "x", "--device", "cuda:99"], "there is no device 'cuda:99'"),
        (["serve", "x", "--device", "tpu"], "unknown device 'tpu'"),
        (["extract", "clip", "x", "--clip", "m", "--device", "tpu"], "unknown device 'tpu'"),
        (["explain", "x", "0", "a dog", "--model", "y"], "--model names the model of an index"),
        (["evaluate", "x", "--scores", "y.npy"], "not both"),
        (["evaluate", "--scores", "y.npy", "--name", "f30k"], "--name does not go with saved scores without --data"),
        (["evaluate", "y.npy", "--limit", "5"], "--limit does not go with saved scores without --data"),
        (["ensemble", "a.npy"], "an ensemble of 1 matrices"),
        (
            ["bench", "everything"],
            "everything. Available subcommands: score, bounds, train, load, search, service, leaderboard.",
        ),
        (["bench", "score", "--images", "x"], "no type matching INT"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(
    arguments: list[str | Path], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(arguments, capsys, kind="ConfigError")


def test_a_bug_of_ours_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(verb: str, words: list[str]) -> int:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(cli, "run_verb", broken)
    said = refused(["train"], capsys, kind="unexpected ZeroDivisionError", code=1)
    assert "two lines" in said
    assert main(["train", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_in_a_method_says_where_and_whose_it_may_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_method.py").write_text(
        "def score():\n    raise RuntimeError('shape mismatch')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "own", "own_method:Missing")
    monkeypatch.setattr(cli, "run_verb", lambda verb, words: import_module("own_method").score())
    said = refused(["train"], capsys, kind="unexpected RuntimeError", code=1)
    assert "shape mismatch (at " in said
    assert "own_method.py line 2: a mistake there if the method is yours, else a bug; --debug shows all)" in said
    monkeypatch.setattr(cli, "run_verb", lambda verb, words: method_class("own"))
    assert "own_method.py defines no Missing" in refused(["train"], capsys, kind="ConfigError")
    monkeypatch.setitem(METHODS, "own", "no_such_method:Missing")
    assert "there is no no_such_method.py" in refused(["train"], capsys, kind="ConfigError")


def test_ctrl_c_is_one_line_and_exit_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(verb: str, words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_verb", stopped)
    assert main(["train"]) == 130
    assert one_line(capsys.readouterr().err) == "stopped"


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "x"),
        OSError(28, "No space left", "x"),
        OSError(errno.ENAMETOOLONG, "File name too long", "x"),
        OSError(errno.ELOOP, "Too many levels of symbolic links", "x"),
    ],
)
def test_what_the_system_refuses_is_the_users_to_solve(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(verb: str, words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "run_verb", refusing)
    assert main(["train"]) == 2
    assert one_line(capsys.readouterr().err).startswith("'x' can not be read or written: ")


@pytest.mark.parametrize(
    ("verb", "advice"),
    [
        ("train", ["--train.micro_batch", "--train.eval_batch", "patchword doctor memory"]),
        ("doctor", ["CUDA_VISIBLE_DEVICES= patchword doctor"]),
        ("demo", ["CUDA_VISIBLE_DEVICES= patchword demo"]),
        *((verb, ["--device cpu"]) for verb in ("evaluate", "compare", "search", "explain", "extract", "serve")),
    ],
)
def test_a_device_without_room_is_the_users_to_solve(
    verb: str, advice: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = says([verb, "--help"], capsys)
    assert ("--device " in known) == ("--device cpu" in advice)  # only what there is

    def refusing(verb: str, words: list[str]) -> int:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.02 GiB "
            "is free. Including non-PyTorch memory, this process has 14.74 GiB memory in use. See documentation."
        )

    monkeypatch.setattr(cli, "run_verb", refusing)
    assert main([verb]) == 2
    said = one_line(capsys.readouterr().err)
    assert said.startswith("the device has no room: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ")
    assert "1.02 GiB is free. " in said
    assert "non-PyTorch" not in said
    assert [words for words in advice if words not in said] == []


def test_the_settings_that_make_room_exist() -> None:
    assert {"micro_batch", "eval_batch"} <= set(TrainConfig.model_fields)


def test_another_system_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["search", "my.index", "a dog"]) == 2
    assert capsys.readouterr().err.startswith("patchword runs on Linux and macOS. On Windows run it in WSL")


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "absent_recipe", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("ConfigError: recipe 'absent_recipe'")


@pytest.mark.integration
def test_a_closed_pipe_is_quiet() -> None:
    for arguments in ([], ["train", "--help"]):
        with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 0


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("words", "own", "dotted"),
    [
        (["a.yaml", "--train.lr", "1"], ["a.yaml"], ["--train.lr", "1"]),
        (["--train.lr", "1", "a.yaml"], ["a.yaml"], ["--train.lr", "1"]),
        (["--train.lr=1", "a.yaml", "--json"], ["a.yaml", "--json"], ["--train.lr=1"]),
        (["a.yaml", "--train.lr", "-1"], ["a.yaml"], ["--train.lr", "-1"]),
        (["a.yaml", "--train.lr", "--out", "x.y"], ["a.yaml", "--out", "x.y"], ["--train.lr"]),
        (["a.yaml", "--out=x.y"], ["a.yaml", "--out=x.y"], []),
    ],
)
def test_dotted_options_may_stand_anywhere(words: list[str], own: list[str], dotted: list[str]) -> None:
    assert split_overrides(words) == (own, dotted)


def test_an_override_before_the_recipe_is_understood(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", "--train.lr", "fast", trained / "tiny.yaml"], capsys, kind="ConfigError")
    assert "option --train.lr: `train.lr` is 'fast'" in said


def test_doctor_recipe_prints_the_whole_recipe(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = says(["doctor", "recipe", trained / "tiny.yaml"], capsys)
    assert "is a valid recipe of vse_inf" in said
    assert "clip_norm: 2.0" in said


# ------------------------------------------------------------------ machine output


def test_json_is_all_that_is_printed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data, scores = trained / "run", trained / "data", tmp_path / "scores.safetensors"
    golden = Path(__file__).parent / "golden" / "evaluation"

    def parsed(*arguments: str | Path) -> Any:
        return json.loads(says([*arguments, "--json"], capsys))

    assert parsed("doctor", "recipe", trained / "tiny.yaml")["method"] == "vse_inf"
    assert isinstance(parsed("doctor", "data", data), dict)
    assert parsed("train", trained / "tiny.yaml", "--out", run)["finished"] is True
    evaluated = parsed("evaluate", run, "--data", data, "--save-scores", scores)
    assert evaluated["selected_on"] == "dev"
    assert parsed("evaluate", "--scores", scores)["rsum"] == evaluated["rsum"]
    assert parsed("evaluate", "--scores", scores, "--data", data)["rsum"] == evaluated["rsum"]
    assert parsed("ensemble", scores, scores)["ensemble"]["rsum"] == evaluated["rsum"]
    found = parsed("search", run, "a dog and a cat", "a boat", "--data", data, "-k", "3")
    assert {query: len(hits) for query, hits in found.items()} == {"a dog and a cat": 3, "a boat": 3}
    assert parsed("parity", golden)["passed"] is True


def test_the_plain_output_of_the_same_verbs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = trained / "run", trained / "data"
    said = says(["train", trained / "tiny.yaml", "--out", run], capsys)
    assert said.splitlines()[-1].startswith("best epoch ")
    assert "rsum" in says(["evaluate", run, "--data", data], capsys)
    lines = says(["search", run, "a dog", "--data", data, "-k", "2"], capsys).splitlines()
    assert (lines[0], len(lines)) == ("a dog", 3)
    np.save(tmp_path / "scores.npy", np.eye(4, dtype=np.float32))
    assert "rsum 600.0" in says(["evaluate", "--scores", tmp_path / "scores.npy"], capsys)


@pytest.mark.parametrize("name", ["mit Leerzeichen", "größe 图像", "[red]a[/b]", "a'b\"c"])
def test_any_name_of_a_folder_works(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / name
    data = write_precomp(home / "data", {"train": 8, "dev": 4, "test": 4})
    path = write_recipe(home / "klein.yaml", "vse_inf", data, {"train": {"epochs": 1}})
    said = says(["train", path, "--out", home / "run"], capsys)
    assert f"into {home / 'run'}" in said
    assert "rsum" in says(["evaluate", home / "run", "--data", data], capsys)


def test_letters_that_the_terminal_lacks_are_shown_by_number(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "patchword", "evaluate", "runs/\u00fc", "--data", str(tmp_path)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "runs/\\xfc" in done.stderr


def test_a_warning_of_the_package_is_one_line() -> None:
    assert main(["--version"]) == 0
    assert warnings.formatwarning("3 were cut", UserWarning, cli.__file__, 7) == "warning: 3 were cut\n"
    assert warnings.formatwarning("old", UserWarning, "/else/where.py", 7) == "/else/where.py:7: UserWarning: old\n"


def test_an_error_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.fail(2, "DataError: no\x1b[31m\nköln.png", debug=False) == 2
    assert capsys.readouterr().err == "DataError: no\\x1b[31m köln.png\n"
