"""What ``patchword bench`` prints, on sizes that take a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import refused, write_precomp, write_recipe

from patchword import console
from patchword.bench import score, shapes
from patchword.bench.score import bench_score
from patchword.bench.shapes import caption_lengths, published, random_sets
from patchword.bench.train import bench_train
from patchword.cli import main
from patchword.data.features import RegionFeatures
from patchword.errors import ConfigError, ScoreError
from patchword.methods import METHODS, READY_MADE
from patchword.methods.base import Method
from patchword.methods.chan import Chan, ChanConfig
from patchword.train.run import train
from patchword.types import Captions, Images
from patchword.verbs import measuring

pytestmark = pytest.mark.integration


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published models would take seconds to make."""
    config = ChanConfig.model_validate({"joint_dim": 16, "text": {"kind": "bigru", "vocab_size": 9, "word_dim": 4}})
    monkeypatch.setattr(score, "published", lambda name: Chan(config))
    monkeypatch.setitem(shapes.SYSTEMS, "chan", shapes.System("chan", shapes.SetShape(5, 16)))


def lines_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["bench", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("result", ["matrix", "ranks", "top_k"])
def test_scoring_is_measured_beside_a_product_and_the_readable_formula(
    result: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--images", "40", "--captions", "90", "--steps", "2")
    engine, readable, difference = lines_of(capsys, "score", "--method", "chan", "--result", result, *sizes)
    assert (engine["form"], readable["form"]) == (f"{result} float32", "readable")
    for line in (engine, readable):
        assert (line["images"], line["captions"], line["width"], line["runs"]) == (40, 90, 16, 2)
        assert line["per_gemm_gflop"] == pytest.approx(line["pairs_per_s"] / line["gemm_gflops"], rel=1e-2)
        assert line["peak_memory_gib"] > 0
    assert engine["pairs_per_s"] * engine["seconds"] == pytest.approx(40 * 90, rel=0.5)
    assert readable["pairs_per_s"] * readable["seconds"] == pytest.approx(32 * 90, rel=0.5)
    for name in ("training", "engine"):
        assert difference[f"largest_difference_{name}"] < 1e-5 * difference["largest_score"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("result", ["matrix", "ranks", "top_k"])
def test_progress_goes_to_the_error_stream_and_reaches_its_total(
    result: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "QUIET_S", 0.0)  # a line for each step
    sizes = ("--images", "40", "--captions", "90", "--steps", "2", "--memory", "1GiB")
    assert main(["bench", "score", "--result", result, *sizes]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["bench"] for line in printed.out.splitlines()] == ["score"] * 3
    lines = [line for line in printed.err.splitlines() if line.startswith(f"3 x {result}: ")]
    assert len(lines) >= 3
    assert lines[-1].startswith(f"3 x {result}: {3 * 40 * 90:,}/{3 * 40 * 90:,} ")
    assert "eta 0 s" in lines[-1]


@pytest.mark.usefixtures("small")
def test_memory_is_what_scoring_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(
        ["bench", "score", "--images", "40", "--captions", "90", "--memory", "1k"], capsys, kind="ScoreError"
    )
    assert "budget of 1,024 bytes was given" in said
    said = refused(["bench", "score", "--memory", "much"], capsys, kind="ConfigError")
    assert "'much' is no amount of memory" in said


@pytest.mark.usefixtures("small")
def test_certified_makes_ranks_and_says_what_was_scored(capsys: pytest.CaptureFixture[str]) -> None:
    line = lines_of(capsys, "score", "--images", "40", "--captions", "90", "--steps", "1", "--precision", "certified")[
        0
    ]
    assert line["form"] == "ranks certified"
    assert line["pairs"] == 40 * 90
    assert line["about"].startswith("every pair")  # random vectors can not be told apart by bounds
    assert line["gave_up"] is True
    assert (line["again"], line["tiled"], line["share_scored"]) == (0, 40 * 90, 1)  # no pair counts twice


def test_a_trained_model_is_measured_on_its_data(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    train(write_recipe(tmp_path / "my.yaml", "chan", data, {"train": {"epochs": 1}}), tmp_path / "run")
    first = next(bench_score(run=tmp_path / "run", data=data, precision="certified", steps=1))
    assert (first["images"], first["captions"], first["width"]) == (20, 100, 16)
    assert first["run"] == str(tmp_path / "run")
    assert next(bench_score(run=tmp_path / "run", data=data, images=7, steps=1))["captions"] == 35
    assert next(bench_score(run=tmp_path / "run", data=data, captions=12, steps=1))["images"] == 3
    with pytest.raises(ConfigError, match="was given without data"):
        next(bench_score(run=tmp_path / "run"))


def test_what_can_not_be_measured_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["bench", "score", "--method", "no_such"], capsys, kind="ConfigError")
    assert line.endswith("Methods that can be measured: " + ", ".join(shapes.SYSTEMS) + ".")
    with pytest.raises(ScoreError, match="cefg has no certified mode"):
        next(bench_score("cefg", images=2, captions=2, precision="certified"))
    with pytest.raises(ConfigError, match="20 images with 10 captions were asked for"):
        next(bench_score("vse_inf", images=20, captions=10))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("asked", "made"), [({"images": 300}, (300, 1500)), ({"captions": 90}, (90, 90))])
def test_one_number_decides_the_other(asked: dict[str, int], made: tuple[int, int]) -> None:
    line = next(bench_score(result="ranks", steps=1, **asked))
    assert (line["images"], line["captions"]) == made


def test_captions_are_as_long_as_those_of_coco() -> None:
    lengths = caption_lengths(25_000, np.random.default_rng(0)).double()
    assert sum(shapes._COUNTS) == 25_000
    assert lengths.mean() == pytest.approx(13.278, abs=0.05)
    assert (lengths.min(), lengths.quantile(0.99)) == (8, 22)
    assert lengths.max() <= 52


def test_every_method_can_be_measured() -> None:
    assert {one.method for one in shapes.SYSTEMS.values()} == {*METHODS, *READY_MADE}
    assert all(name in str(measuring.Score.__doc__) for name in shapes.SYSTEMS)  # the help names them


@pytest.mark.parametrize("name", ["clip", "clip_patches"])
def test_ready_made_models_are_measured(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight takes part in their scores, so none is made here."""

    def without_weights(name: str) -> Method:
        with torch.device("meta"):
            return published(name)

    monkeypatch.setattr(score, "published", without_weights)
    asked = ("--method", name, "--images", "3", "--captions", "8", "--steps", "1")
    engine, readable, difference = lines_of(capsys, "score", *asked)
    assert engine["method"] == readable["method"] == name
    assert engine["width"] == 512
    assert (engine["words"] == 8) == (name == "clip")
    assert difference["largest_difference_engine"] < 1e-6


def test_variants_are_those_of_their_method() -> None:
    with torch.device("meta"):
        made: dict[str, Any] = {name: published(name) for name in ("cefg_saf", "esl_a", "laps", "clip_patches")}
    assert made["cefg_saf"].config.head == "saf"
    assert made["esl_a"].config.pyramid == "adaptive"
    assert made["laps"].name == "laps"
    late = made["clip_patches"]
    tower, shape = late.image.backbone.config, shapes.SYSTEMS["clip_patches"].shape
    assert shape.rows == (tower.image_size // tower.patch_size) ** 2
    assert shape.width == late.config.joint_dim


@pytest.mark.parametrize("name", ["chan", "vse_inf", "hrem", "esl"])
def test_random_sets_have_the_shapes_that_the_method_makes(name: str) -> None:
    method = published(name).eval()
    a, b = random_sets(shapes.system(name).shape, 2, 3)
    torch.testing.assert_close(a.vectors.norm(dim=1), torch.ones(len(a.vectors)))
    with torch.no_grad():
        image = method.encode_images(Images(torch.rand(1, 36, method.config.image.width), torch.tensor([36])))
        tokens = torch.randint(5, 90, (1, int(b.lengths[0]) if len(b.vectors) > 3 else 12))
        caption = method.encode_captions(Captions(tokens, torch.tensor([tokens.shape[1]])))
    assert (image.lengths[0], image.vectors.shape[1]) == (a.lengths[0], a.vectors.shape[1])
    assert (caption.lengths[0], caption.vectors.shape[1]) == (b.lengths[0], b.vectors.shape[1])


def test_training_and_reading_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines_of(capsys, "train", "--method", "vse_inf", "--batch", "4", "--steps", "1")
    assert line["pairs_per_s"] > 0
    read = RegionFeatures.read
    monkeypatch.setattr(RegionFeatures, "read", lambda self, rows: read(self, rows[:2]))
    (line,) = lines_of(capsys, "load", "--gigabytes", "0.1", "--batch", "4")
    assert line["images_per_s"] > 0
    assert line["rows"] == 339
    assert line["per_gemm_gflop"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "--images", "0"], "`images` is 0. Expected more than 0."),
        (["train", "--steps", "-1"], "`steps` is -1. Expected more than 0."),
        (["load", "--gigabytes", "0"], "`gigabytes` is 0.0"),
        (["train", "--train.lr", "1e-3"], "only `bench leaderboard` takes settings of recipes"),
        (["leaderboard", "--systems", "no_such"], "no system 'no_such'"),
        (["leaderboard", "--seeds", "0"], "nothing to run"),
    ],
)
def test_a_measurement_that_can_not_be_made_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(["bench", *words], capsys, kind="ConfigError")


def test_training_on_regions_is_refused_where_pictures_are_read() -> None:
    with pytest.raises(ConfigError, match="'clip' of published size reads no region features"):
        next(bench_train("clip"))
