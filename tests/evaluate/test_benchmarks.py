"""Benchmarks by name, from Python and from the command line, on a model and on saved scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_toys import saved_scores, toy_model, toy_split
from held import Rows
from small import refused
from test_choices import write_sugarcrepe
from test_cxc import CAPTIONS, IMAGES, write_cxc
from test_eccv import write_eccv
from test_rococo import write_attack

from patchword.cli import main
from patchword.errors import ConfigError, DataError, ScoreError
from patchword.evaluate.benchmarks import BENCHMARKS, evaluate_benchmark
from patchword.evaluate.scores_file import write_scores
from patchword.evaluate.setting import Setting
from patchword.methods.chan import Chan
from patchword.types import Images

SPLIT = toy_split(IMAGES)


@pytest.mark.parametrize("kind", ["vse_inf", "chan"])
def test_cxc_of_a_model_has_all_four_directions(tmp_path: Path, kind: str) -> None:
    folder = write_cxc(tmp_path)
    found = evaluate_benchmark("cxc", toy_model(kind), SPLIT, annotations=folder, caption_ids=CAPTIONS)
    assert set(found.numbers["retrieval"]) == {"t2i", "i2t", "t2t", "i2i"}
    assert set(found.numbers["correlation"]) == {"sts", "sis", "sits"}
    assert found.model == kind
    how = "dot product" if kind == "vse_inf" else "own score of the two sets"
    assert how in found.table()
    pooled = evaluate_benchmark("cxc", toy_model(kind), SPLIT, annotations=folder, caption_ids=CAPTIONS, intra="pooled")
    assert "an extension, not part of the method" in pooled.table()


class Refusing(Chan):
    """A set method without scores among captions."""

    name = "refusing"
    intra_modal = ""


def test_a_method_without_scores_among_captions_keeps_the_other_directions(tmp_path: Path) -> None:
    model = toy_model("chan")
    model.method.__class__ = Refusing
    folder = write_cxc(tmp_path)
    found = evaluate_benchmark("cxc", model, SPLIT, annotations=folder, caption_ids=CAPTIONS)
    assert set(found.numbers["retrieval"]) == {"t2i", "i2t"}
    assert any("refusing does not say how two images" in note and "--intra pooled" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"refusing does not say how two images"):
        evaluate_benchmark("cxc", model, SPLIT, annotations=folder, caption_ids=CAPTIONS, intra="score")


def test_a_matrix_without_ids_is_rated_by_its_caption_ids(tmp_path: Path) -> None:
    saved = saved_scores(SPLIT)
    bare = replace(saved, image_ids=None, caption_digests=None)
    folder = write_cxc(tmp_path)
    with_ids = evaluate_benchmark("cxc", saved, annotations=folder, caption_ids=CAPTIONS)
    found = evaluate_benchmark("cxc", bare, annotations=folder, caption_ids=CAPTIONS)
    assert found.numbers["retrieval"]["t2i"] == with_ids.numbers["retrieval"]["t2i"]


def test_several_score_files_are_fused(tmp_path: Path) -> None:
    files = [write_scores(tmp_path / f"{k}.safetensors", saved_scores(SPLIT, seed=k)) for k in range(2)]
    folder = write_cxc(tmp_path / "cxc")
    both = evaluate_benchmark("cxc", files, annotations=folder, caption_ids=CAPTIONS)
    alone = evaluate_benchmark("cxc", files[0], annotations=folder, caption_ids=CAPTIONS)
    assert not any("scales differ" in text for text in both.warnings)
    large = saved_scores(SPLIT, seed=1)
    files[1] = write_scores(files[1], replace(large, scores=large.scores * 9))
    unlike = evaluate_benchmark("cxc", files, annotations=folder, caption_ids=CAPTIONS)
    assert any("scales differ" in text for text in unlike.warnings)
    assert both.numbers["correlation"]["sits"] != alone.numbers["correlation"]["sits"]
    assert both.model == "toy + toy mean of 2"


def test_scores_of_another_split_are_refused(tmp_path: Path) -> None:
    other = toy_split([str(900 + k) for k in range(6)])
    with pytest.raises(ScoreError, match=r"image id of row 0 is '900' in .* but '100' in 'toy/test'"):
        evaluate_benchmark("cxc", saved_scores(other), SPLIT, annotations=write_cxc(tmp_path), caption_ids=CAPTIONS)


def test_eccv_and_pmrp_together(tmp_path: Path) -> None:
    split = toy_split([str(10 + k) for k in range(8)], each=3)
    folder = write_eccv(tmp_path)
    found = evaluate_benchmark(
        "eccv", saved_scores(split), annotations=folder, caption_ids=[str(500 + k) for k in range(24)]
    )
    assert "PMRP left out" in found.table()
    rows = [{"image_id": 10 + k, "category_id": 1 + k % 3} for k in range(8)]
    (folder / "instances_val2014.json").write_text(json.dumps({"annotations": rows}), encoding="utf-8")
    found = evaluate_benchmark(
        "eccv", saved_scores(split), annotations=folder, caption_ids=[str(500 + k) for k in range(24)]
    )
    assert set(found.numbers["pmrp"]["by_zeta"]) == {"0", "1", "2"}
    assert "zeta 2" in found.table()
    alone = evaluate_benchmark("pmrp", saved_scores(split), annotations=folder)
    assert alone.numbers == found.numbers["pmrp"]


class Counted(Rows):
    """Regions that remember how many images were read at a time."""

    def __init__(self, regions: torch.Tensor, sizes: list[int]) -> None:
        super().__init__(regions)
        self.sizes = sizes

    def read(self, images: Sequence[int]) -> Images:
        """A batch."""
        self.sizes.append(len(images))
        return super().read(images)

    def select(self, images: Sequence[int]) -> Rows:
        """Some of them."""
        return Counted(self.values[list(images)], self.sizes)


@pytest.mark.parametrize("name", ["cxc", "eccv", "sugarcrepe", "rococo"])
def test_benchmarks_encode_as_many_items_at_a_time_as_asked(tmp_path: Path, name: str) -> None:
    ids = {"cxc": IMAGES, "eccv": [str(10 + k) for k in range(8)]}.get(name, [str(k) for k in range(1, 7)])
    split, sizes = toy_split(ids, each=3 if name == "eccv" else 2), list[int]()
    assert isinstance(split.images, Rows)
    split = replace(split, images=Counted(split.images.values, sizes))
    if name == "rococo":
        place = write_attack(tmp_path / "danger.json", [1, 2, 3, 4, 5])
    else:
        place = {"cxc": write_cxc, "eccv": write_eccv, "sugarcrepe": write_sugarcrepe}[name](tmp_path)
    named = {"cxc": CAPTIONS, "eccv": [str(500 + k) for k in range(24)]}.get(name)
    for batch, largest in ((4, 4), (None, len(ids) if name != "rococo" else 5)):
        sizes.clear()
        setting = Setting(eval_batch=batch)
        evaluate_benchmark(name, toy_model(), split, setting, annotations=place, caption_ids=named)
        assert max(sizes) == largest


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    scores = saved_scores(SPLIT)
    with pytest.raises(ConfigError, match="unknown benchmark 'cxcc'"):
        evaluate_benchmark("cxcc", scores)
    with pytest.raises(ConfigError, match="--protocol cxc needs its files"):
        evaluate_benchmark("cxc", scores)
    with pytest.raises(DataError, match=r"is missing\. Expected the files of cxc"):
        evaluate_benchmark("cxc", scores, annotations=tmp_path / "gone")
    for name in ("sugarcrepe", "rococo", "choices"):
        with pytest.raises(ConfigError, match=f"--protocol {name} scores captions or images of its own"):
            evaluate_benchmark(name, scores, SPLIT, annotations=tmp_path)
    with pytest.raises(ConfigError, match="needs its data"):
        evaluate_benchmark("cxc", toy_model(), annotations=tmp_path)
    with pytest.raises(DataError, match=r"has no 'instances_val2014\.json'"):
        evaluate_benchmark("pmrp", scores, annotations=tmp_path)
    assert set(BENCHMARKS) == {"cxc", "eccv", "pmrp", "sugarcrepe", "rococo", "rococo-images", "choices"}


# ------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose image ids are COCO numbers, two checkpoints, and their scores."""
    folder = tmp_path_factory.mktemp("place")
    data = folder / "coco_precomp"
    data.mkdir()
    draw = np.random.default_rng(0)
    np.save(data / "test_ims.npy", draw.normal(size=(6, 4, 8)).astype(np.float32))
    ids = [f"COCO_val2014_{int(name):012d}" for name in IMAGES]
    (data / "test_ids.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    (data / "test_caps.txt").write_text("".join(f"{text}\n" for text in SPLIT.captions), encoding="utf-8")
    (folder / "capids.txt").write_text("".join(f"{name}\n" for name in CAPTIONS), encoding="utf-8")
    for k, kind in enumerate(("vse_inf", "chan")):
        toy_model(kind, seed=k, width=8).save(folder / kind)
    return folder


def says(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out


def test_benchmarks_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = place / "chan", ["--data", place / "coco_precomp"]
    cxc = ["--protocol", "cxc", "--annotations", write_cxc(tmp_path / "cxc"), "--caption-ids", place / "capids.txt"]
    said = json.loads(says(["evaluate", run, *data, *cxc, "--json"], capsys))
    assert set(said["retrieval"]) == {"t2i", "i2t", "t2t", "i2i"}
    both = says(["evaluate", place / "vse_inf", run, *data, *cxc], capsys)
    assert "text -> text, image -> image, STS and SIS left out" in both
    crepe = ["--protocol", "sugarcrepe", "--annotations", write_sugarcrepe(tmp_path / "crepe")]
    assert "None of the 6 images of sugarcrepe" in refused(["evaluate", run, *data, *crepe], capsys, kind="DataError")
    attack = write_attack(tmp_path / "danger.json", [100, 101, 7])
    page = tmp_path / "rococo.html"
    rococo = ["--protocol", "rococo", "--annotations", attack, "--html", page]
    said = says(["evaluate", run, *data, *rococo], capsys)
    assert "1 of 3 images of RoCOCO are not in this split ('7')" in said
    assert "1 of 3 images of RoCOCO" in page.read_text(encoding="utf-8")


def test_runs_together_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, data = place / "vse_inf", place / "chan", ["--data", place / "coco_precomp"]
    page, lines, both = tmp_path / "r.html", tmp_path / "q.jsonl", tmp_path / "both.safetensors"
    outputs = ["--html", page, "--per-query", lines, "--slices", "--save-scores", both]
    assert main([str(word) for word in ["evaluate", a, b, *data, *outputs]]) == 0
    said, noted = capsys.readouterr()
    assert [f"wrote '{file}'" for file in (both, lines, page)] == noted.splitlines()[-3:]
    assert "ensemble (mean) of 2:" in said
    assert "vse_inf: rsum" in said
    assert "words in the caption: " in said or "all queries are of one kind" in said or "text of the caption" in said
    assert len(lines.read_text(encoding="utf-8").splitlines()) == 18
    html = page.read_text(encoding="utf-8")
    for words in ("How sure the numbers are", "mean of 2 minus chan", "No words are lit for mean of 2"):
        assert words in html
    assert "http" not in html
    content = json.loads(says(["evaluate", a, b, *data, "--json", "--slices"], capsys))
    assert len(content["members"]) == 2
    assert "slices" in content
    assert content["rsum"] == json.loads(says(["evaluate", both, *data, "--json"], capsys))["rsum"]
    toy_model("chan", seed=7, width=8).save(tmp_path / "again")
    seeds = json.loads(says(["evaluate", b, tmp_path / "again", *data, "--seeds", "--json"], capsys))
    assert len(seeds["runs"]) == 2
    line = refused(["evaluate", a, b, *data, "--seeds"], capsys, kind="ConfigError")
    assert "is vse_inf and" in line
    compared = says(["compare", a, b, both, *data, "--html", tmp_path / "c.html"], capsys)
    assert "both minus vse_inf" in compared
    assert "chan" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert json.loads(says(["compare", both, both, "--json"], capsys))["tests"][0]["rsum"]["difference"] == 0


def test_one_run_makes_a_report_with_lit_words(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "one.html"
    says(["evaluate", place / "chan", "--data", place / "coco_precomp", "--html", page], capsys)
    html = page.read_text(encoding="utf-8")
    assert "The score of chan is a sum of parts" in html
    assert "of 72 scores are finite" in html


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}"], "is a run and needs its data. Add --data DIR."),
        (["{a}", "--data", "{d}", "--annotations", "x"], "--annotations does not go with a named protocol"),
        (["{a}", "--data", "{d}", "--protocol", "cxc"], "--protocol cxc needs its files"),
        (["{a}", "--data", "{d}", "--protocol", "cxc", "--slices"], "--slices does not go with --protocol cxc"),
        (["{a}", "{b}", "--data", "{d}", "--seeds", "--html", "x"], "--html does not go with --seeds"),
        (["{a}", "--data", "{d}", "--seeds"], "1 run was given with --seeds"),
        (["{a}", "{b}", "--data", "{d}", "--banks", "3"], "--banks needs one run"),
        (["{a}", "--data", "{d}", "--banks", "3"], "hold nothing random"),
        (["{a}", "--data", "{d}", "--weights", "2"], "Weights are for several"),
        (["{a}", "--data", "{d}", "--fusion", "rank"], "fusion 'rank' for one run"),
        (["{a}", "--data", "{d}", "--ranks", "streamed", "--weights", "2"], "Weights are for several"),
        (["{a}", "{b}", "--data", "{d}", "--seeds", "--fusion", "rank"], "--fusion does not go with --seeds"),
        (["{a}", "{b}", "--data", "{d}", "--fusion", "median"], "--fusion"),
    ],
)
def test_wrong_combinations_are_one_line(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"a": place / "vse_inf", "b": place / "chan", "d": place / "coco_precomp"}
    assert message in refused(["evaluate", *(word.format(**names) for word in words)], capsys, kind="ConfigError")


def test_a_report_of_a_score_file_needs_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scores(tmp_path / "s.safetensors", saved_scores(SPLIT))
    for words in (["evaluate", path], ["compare", path, path]):
        assert "Add --data DIR" in refused([*words, "--html", tmp_path / "x.html"], capsys, kind="ConfigError")
    assert "1 run was given" in refused(["compare", path], capsys, kind="ConfigError")
