"""Checkpoint folders: what they may replace, who may read them, and what other files are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from evaluate_toys import saved_scores, toy_model, toy_split
from small import refused

from patchword.data.text_files import LFS_MARK
from patchword.errors import CheckpointError, ScoreError
from patchword.evaluate.scores_file import load_scores, write_scores
from patchword.loading import load


def test_nothing_but_a_checkpoint_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model().save(tmp_path / "checkpoints" / "vse")
    (tmp_path / "checkpoints" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"holds 'thesis.txt', 'vse', which a new checkpoint would replace"):
        toy_model().save(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="would replace"):
        toy_model().save(".")
    with pytest.raises(CheckpointError, match="is a file"):
        toy_model().save("checkpoints/thesis.txt")
    toy_model("chan").save("checkpoints/vse")  # a checkpoint is
    assert load("checkpoints/vse").method.name == "chan"
    (tmp_path / "empty").mkdir()
    toy_model().save(tmp_path / "empty")
    assert load(tmp_path / "empty").method.name == "vse_inf"


def test_what_was_downloaded_in_place_of_a_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "a web page, not a checkpoint": b"<!DOCTYPE html><html>",
        "a Git LFS pointer, not the checkpoint": LFS_MARK + b"/spec/v1",
        "truncated or not a torch checkpoint": b"xyz",
    }
    for message, content in contents.items():
        (tmp_path / "best.pth").write_bytes(content)
        line = refused(
            ["import", "chan", tmp_path / "best.pth", "-o", tmp_path / "out"], capsys, kind="CheckpointError"
        )
        assert message in line
        assert "weights_only" not in line


def test_a_file_where_a_folder_is_expected_names_the_import(tmp_path: Path) -> None:
    (tmp_path / "model_best.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"is a file, and checkpoints are folders.*patchword import METHOD FILE"):
        load(tmp_path / "model_best.pth")


def test_others_may_read_what_they_may_read_of_other_files(tmp_path: Path) -> None:
    split = toy_split(["1", "2"])
    before = os.umask(0o022)
    try:
        toy_model().save(tmp_path / "run")
        write_scores(tmp_path / "s.safetensors", saved_scores(split))
    finally:
        os.umask(before)
    for path in (*(tmp_path / "run").iterdir(), tmp_path / "s.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o644, path.name


def test_what_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model().save(tmp_path / "run")
    write_scores(tmp_path / "s.safetensors", saved_scores(toy_split(["1", "2"])))
    plain = Path.open

    def forbidden(path: Path, *args: Any, **options: Any) -> Any:
        if path.suffix == ".safetensors":  # as the system answers those who are not root
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, *args, **options)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(CheckpointError, match="can not be read: Permission denied"):
        load(tmp_path / "run")
    with pytest.raises(ScoreError, match="can not be read: Permission denied"):
        load_scores(tmp_path / "s.safetensors")
