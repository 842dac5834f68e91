"""The adjacency of the authors' 5-fold evaluation, asked for on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cefg_models import cefg_model
from held import random_model
from small import REGIONS, THINGS, WIDTH, refused, write_precomp

from patchword.cli import main
from patchword.data.adjacency import compat_fold_adjacency
from patchword.data.open import open_split
from patchword.evaluate.protocols import PROTOCOLS
from patchword.evaluate.run import evaluate

WORDS = [" ".join(THINGS), "and a ."]
FLAG = "--compat-fold-adjacency"
FOLDS = ("--protocol", "coco-1k-5fold")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COCO with boxes."""
    folder = write_precomp(tmp_path_factory.mktemp("folds") / "coco", {"testall": 15})
    corners = np.random.default_rng(0).random((15, REGIONS, 2)) * 0.5
    np.save(folder / "testall_boxes.npy", np.concatenate([corners, corners + 0.1], axis=2).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CEFG and a method without adjacency."""
    folder = tmp_path_factory.mktemp("runs")
    cefg_model(WORDS).save(folder / "cefg")
    random_model("vse_inf", WORDS, width=WIDTH).save(folder / "vse_inf")
    return {name: folder / name for name in ("cefg", "vse_inf")}


def test_it_gives_the_numbers_of_the_authors_folds(
    data: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(PROTOCOLS["coco-1k-5fold"], images=15, captions=75)  # five folds of three images
    monkeypatch.setitem(PROTOCOLS, "coco-1k-5fold", small)
    words = ["evaluate", str(runs["cefg"]), "--data", str(data), "--split", "testall", *FOLDS, "--json"]
    found = {}
    for name, more in (("own", []), ("theirs", [FLAG]), ("streamed", [FLAG, "--ranks", "streamed"])):
        assert main([*words, *more]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    split = open_split(data, "testall", images="features")
    wanted = evaluate(runs["cefg"], compat_fold_adjacency(split), protocol="coco-1k-5fold")
    assert found["theirs"]["ties"] == wanted.to_json()["ties"] == found["streamed"]["ties"]
    assert found["theirs"]["ties"] != found["own"]["ties"]
    for name in ("own", "theirs", "streamed"):
        assert any("authors' 5-fold" in note for note in found[name]["notes"]) is (name != "own")


def test_it_is_refused_elsewhere(data: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", data, "--split", "testall", FLAG]
    for protocol in ("auto", "generic", "coco-5k", "cxc"):
        line = refused(["evaluate", runs["cefg"], *where, "--protocol", protocol], capsys, kind="ConfigError")
        assert f"--protocol {protocol} has none. Add --protocol coco-1k-5fold, or leave it out" in line
    for more in ([], ["--ranks", "streamed"]):
        line = refused(["evaluate", runs["vse_inf"], *where, *FOLDS, *more], capsys, kind="ConfigError")
        assert "this vse_inf reads none. Leave it out: it is for cefg" in line
    np.save(data.parent / "scores.npy", np.random.default_rng(0).random((15, 75)))
    line = refused(["evaluate", data.parent / "scores.npy", *where, *FOLDS], capsys, kind="ConfigError")
    assert "--compat-fold-adjacency does not go with saved scores" in line
