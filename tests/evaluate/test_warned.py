"""Warnings about a result are seen, and once: whether output and errors go to a terminal, one file, or two."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from patchword.verbs.warned import warn


def written(out: Path, errors: Path, monkeypatch: pytest.MonkeyPatch, *, json: bool = False) -> str:
    """What a warning writes to ``errors`` while output goes to ``out``."""
    with out.open("a") as first, errors.open("a") as second, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", first)
        patch.setattr(sys, "stderr", second)
        warn(["look"], json=json)
    return errors.read_text()


def test_a_table_in_a_file_of_its_own_needs_the_warning_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(tmp_path / "out", tmp_path / "err", monkeypatch) == "warning: look\n"
    assert (tmp_path / "out").read_text() == ""


def test_one_place_for_both_has_the_warning_in_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(tmp_path / "log", tmp_path / "log", monkeypatch) == ""
    assert written(tmp_path / "log", tmp_path / "log", monkeypatch, json=True) == "warning: look\n"


def test_a_terminal_shows_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = os.openpty()
    try:
        assert written(Path(os.ttyname(terminal)), tmp_path / "err", monkeypatch) == ""
        assert written(Path(os.ttyname(terminal)), tmp_path / "err", monkeypatch, json=True) == "warning: look\n"
    finally:
        os.close(master)
        os.close(terminal)
