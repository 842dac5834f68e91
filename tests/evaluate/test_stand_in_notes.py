"""Whoever reads a number or an explanation of AAHR reads what stood in for CLIP's vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import recipe_values, write_precomp

from patchword.cli import main
from patchword.data.clip_features import STAND_INS
from patchword.data.open import open_split
from patchword.data.stand_ins import StandIns, write_stand_ins
from patchword.evaluate.run import evaluate
from patchword.explain.run import explain
from patchword.recipe import make_recipe
from patchword.train.run import train

SAYS = "the mean region or cell and sentence vectors of toy stand in for CLIP's global vectors"


class Lengths:
    """Sentences as vectors of their numbers of letters."""

    width = 4

    def encode(self, sentences: list[str]) -> torch.Tensor:
        """One row per sentence."""
        rows = torch.tensor([[float(text.count(letter)) + 0.1 for letter in "aeot"] for text in sentences])
        return torch.nn.functional.normalize(rows, dim=-1)

    def fingerprint(self) -> str:
        """There is one such model."""
        return "letters"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_precomp(tmp_path_factory.mktemp("stand") / "data", {"train": 8, "dev": 6})
    write_stand_ins(folder, Lengths(), "toy")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = recipe_values("aahr", data, {"train": {"epochs": 1}})
    values["model"] |= {"guide": "clip", "clip_dim": 8, "heads": 2, "guide_heads": 2, "prototypes": 4, "queue": 0}
    folder = tmp_path_factory.mktemp("runs") / "aahr"
    train(make_recipe(values), folder)
    return folder


def test_an_evaluation_names_them(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, kept, page = (
        ["evaluate", str(run), "--data", str(data), "--split", "dev"],
        tmp_path / "s.safetensors",
        "x.html",
    )
    for more in ([], ["--ranks", "streamed"], ["--save-scores", str(kept), "--html", str(tmp_path / page)]):
        assert main([*words, *more]) == 0
        assert f"note: {SAYS}" in capsys.readouterr().out
    assert SAYS in (tmp_path / page).read_text(encoding="utf-8").replace("&#x27;", "'")
    assert main([*words, "--json"]) == 0
    assert SAYS in json.loads(capsys.readouterr().out)["notes"]
    assert main(["evaluate", "--scores", str(kept)]) == 0  # the note is kept with the scores
    assert f"note: {SAYS}" in capsys.readouterr().out


def test_benchmarks_and_seeds_name_them(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = open_split(data, "dev")
    rows = [{"image_id": name, "category_id": 1 + k % 2} for k, name in enumerate(split.image_ids)]
    (tmp_path / "instances_val2014.json").write_text(json.dumps({"annotations": rows}))
    words = ["evaluate", str(run), "--data", str(data), "--split", "dev"]
    assert main([*words, "--protocol", "pmrp", "--annotations", str(tmp_path)]) == 0
    assert f"note: {SAYS}" in capsys.readouterr().out
    assert main([*words[:2], str(run / "last"), *words[2:], "--seeds"]) == 0
    assert f"note: {SAYS}" in capsys.readouterr().out


def test_an_explanation_names_them(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = open_split(data, "dev").captions[1]
    for ending in ("html", "json", "png"):
        out = tmp_path / f"why.{ending}"
        words = ["explain", str(run), "dev_0", said, "--data", str(data), "--split", "dev", "-o", str(out)]
        assert main(words) == 0
        assert f"note: {SAYS}" in capsys.readouterr().out
    shown = SAYS[:1].upper() + SAYS[1:]
    assert shown in (tmp_path / "why.html").read_text(encoding="utf-8").replace("&#x27;", "'")
    assert json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))["notes"] == [SAYS]


def test_nothing_is_said_of_vectors_of_clip_or_of_methods_that_read_none(run: Path, data: Path) -> None:
    note = data / STAND_INS
    kept = note.read_text(encoding="utf-8")
    assert StandIns(**json.loads(kept)).sentence() == SAYS
    note.unlink()
    try:
        assert SAYS not in evaluate(run, data, split="dev").notes
        assert explain(run, 0, open_split(data, "dev").captions[0], data=data, split="dev").notes == ()
    finally:
        note.write_text(kept, encoding="utf-8")
    values = recipe_values("vse_inf", data, {"train": {"epochs": 1}})
    train(make_recipe(values), run.parent / "vse")
    assert SAYS not in evaluate(run.parent / "vse", data, split="dev").notes
