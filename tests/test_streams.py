"""Standard streams as shells make them: of another encoding, and closed."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from held import random_model
from small import WIDTH, command, write_precomp

import patchword
from patchword.verbs.output import json_line, say_json

TEXT = "café 猫 😀 a\\b"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "UTF8"])
def test_json_is_json_whatever_the_terminal_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")  # as the command line opens it
    monkeypatch.setattr(sys, "stdout", stream)
    say_json({TEXT: TEXT})
    line = json_line(TEXT)
    stream.flush()
    printed = raw.getvalue().decode(encoding)
    assert json.loads(printed) == {TEXT: TEXT}
    assert json.loads(line) == TEXT
    assert ("café" in printed) == ("café" in line) == encoding.lower().startswith("utf")


def test_a_verb_prints_json_on_a_terminal_without_the_letters(tmp_path: Path) -> None:
    random_model("vse_inf", ["a café"], width=WIDTH).save(tmp_path / "run")
    data = write_precomp(tmp_path / "data", {"train": 4, "dev": 4, "test": 4})
    done = subprocess.run(
        command("search", tmp_path / "run", "a café", "--data", data, "--json"),
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert list(json.loads(done.stdout)) == ["a café"]


def closed(stream: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with a stream that the shell has closed."""
    return subprocess.run(
        ["sh", "-c", f"{shlex.join(command(*arguments))} {stream}"], capture_output=True, text=True, check=False
    )


def test_a_closed_stream_changes_neither_the_exit_code_nor_the_other_stream() -> None:
    done = closed(">&-", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = closed("2>&-", "--version")
    assert (done.returncode, done.stdout) == (0, f"patchword {patchword.__version__}\n")
    done = closed("2>&-", "nosuch")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = closed(">&-", "nosuch")
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: unknown verb 'nosuch'.")
