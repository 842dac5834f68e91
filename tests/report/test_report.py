"""The report: self-contained, escaped, complete, and honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from held import Rows, random_model
from PIL import Image

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.benchmark import Benchmark
from patchword.evaluate.choices import Choice, captions_beside, evaluate_choices
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.significance import paired_test
from patchword.html.page import STYLE
from patchword.html.thumbnails import Thumbnails
from patchword.model import Model
from patchword.report.curves import Curve, chart, log_ticks, read_log, round_ticks
from patchword.report.examples import choose_examples, leads
from patchword.report.picture_examples import choose_pictures, picture_leads
from patchword.report.rows import report_run
from patchword.report.write import write_benchmark, write_report

EVIL = "<script>alert(1)</script> a \"red\" ball & 'box'"
SECTIONS = ("results", "certainty", "training", "searches", "sentences", "words", "slices", "ties", "again")
EMPTY_TAGS = {"meta", "img"}


class Checker(HTMLParser):
    """Collects tags, ids and everything that points somewhere; complains about tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "action", "poster", "data"):
                self.targets.append(value or "")
            assert not name.startswith("on")
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    """Parse a page to its end."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Six images with pictures and boxes, two hostile captions each."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for k in range(6):
        files.append(tmp_path / f"picture {k} <b>.png")
        Image.new("RGB", (300, 200), (40 * k, 90, 120)).save(files[-1])
    captions = [f"{EVIL} number {k}" for k in range(12)]
    boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.7], dtype=np.float32), (6, 4, 1))
    return Split(
        "toy <set>", "test", [f"id<{k}>" for k in range(6)], captions, np.repeat(np.arange(6), 2),
        images=Rows(torch.randn(6, 4, 5, generator=generator)), files=files, boxes=boxes, notes=("a <note>",),
    )  # fmt: skip


def models(split: Split) -> list[Model]:
    """VSE-infinity and CHAN with random weights."""
    return [random_model(kind, split.captions) for kind in ("vse_inf", "chan")]


def made(path: Path, split: Split) -> str:
    """The page of both models on a split."""
    runs = [report_run(model, split) for model in models(split)]
    return write_report(path / "sub" / "report.html", runs=runs, split=split).read_text(encoding="utf-8")


def test_nothing_is_asked_of_the_network(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split)
    checker = check(page)
    assert checker.targets
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in checker.targets)
    assert "http" not in page
    assert not re.search(r"@import|url\(", STYLE)
    assert not {"script", "link", "iframe", "object", "embed"} & set(checker.tags)


def test_every_section_is_there_once(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split)
    assert check(page).ids == list(SECTIONS)
    for words in ("VSE-infinity", "CHAN", "chance", "R@K = %", "The clearest hits", "Near misses", "The worst misses"):
        assert words in page
    assert "no log of the training" in page  # these models were never trained


def test_captions_ids_and_notes_are_escaped(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "id&lt;" in page
    assert "a &lt;note&gt;" in page
    assert "toy &lt;set&gt;/test" in page


def test_without_pictures_and_boxes_the_page_says_so(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, replace(split, files=None, boxes=None))
    assert check(page).ids == list(SECTIONS)
    assert "has no pictures on disk" in page
    assert "Boxes of the regions are not known here" in page
    assert "<img" not in page


def test_boxes_without_pictures_are_drawn_on_an_empty_ground(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, replace(split, files=None))
    assert "boxes are drawn on an empty ground" in page


def test_a_broken_picture_is_listed_and_its_id_shown(split: Split, tmp_path: Path) -> None:
    assert split.files is not None
    split.files[2].write_bytes(b"no picture")
    page = made(tmp_path, split)
    assert check(page)
    pictures = Thumbnails(split.files)
    assert pictures.get(2) is None
    assert "not a decodable picture" in pictures.problems[2]
    good = pictures.get(1)
    assert good is not None
    assert (good.width, good.height) == (160, 107)


def test_a_run_of_another_split_is_refused(split: Split, tmp_path: Path) -> None:
    runs = [report_run(models(split)[1], split)]
    with pytest.raises(ConfigError, match="Evaluate it on this split"):
        write_report(tmp_path / "r.html", runs=runs, split=split.select([0, 1]))
    with pytest.raises(ConfigError, match="no runs"):
        write_report(tmp_path / "r.html", runs=[], split=split)


def test_examples_are_chosen_by_rank_and_lead() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.1, 0.3], [0.1, 0.8, 0.6, 0.3], [0.0, 0.1, 0.5, 0.1]])
    chosen = choose_examples(scores, np.array([0, 1, 2, 2]), each=2)
    assert [found.caption for found in chosen.best] == [0, 1]
    assert [(twin.found.caption, twin.found.top[0], twin.found.rank) for twin in chosen.twins] == [(2, 1, 2)]
    assert chosen.worst[0].caption == 3
    assert chosen.worst[0].rank == 3
    assert chosen.worst[0].top == (0, 1, 2)
    np.testing.assert_allclose(leads(scores, np.array([0, 1, 2, 2])), [0.8, 0.6, -0.1, -0.2], atol=1e-6)


def test_choosing_examples_leaves_the_scores_as_they_are() -> None:
    scores = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    choose_examples(scores, np.array([0, 0, 1, 1, 2, 2]))
    assert torch.equal(scores, before)


def test_a_tie_counts_against_the_right_image_in_the_list_too() -> None:
    chosen = choose_examples(torch.full((3, 3), 0.5), np.array([0, 1, 2]), each=3)
    assert chosen.best == ()
    assert [found.rank for found in chosen.worst] == [3, 3, 3]
    assert [found.top[-1] for found in chosen.worst] == [found.right for found in chosen.worst]


def test_pictures_that_ask_are_chosen_by_rank_and_lead() -> None:
    owner = np.array([0, 0, 1, 2, 2])
    scores = torch.tensor([[0.9, 0.2, 0.1, 0.3, 0.3], [0.6, 0.1, 0.5, 0.0, 0.1], [0.9, 0.8, 0.7, 0.1, 0.2]])
    np.testing.assert_allclose(picture_leads(scores, owner), [0.6, -0.1, -0.7], atol=1e-6)
    chosen = choose_pictures(scores, owner, each=2, top=3)
    assert [(one.image, one.rank, one.top, one.best) for one in chosen.best] == [(0, 1, (0, 3, 4), 0)]
    assert [(one.image, one.rank, one.top) for one in chosen.near] == [(1, 2, (0, 2, 1))]
    assert [(one.image, one.rank, one.top, one.best) for one in chosen.worst] == [(2, 4, (0, 1, 2), 4)]
    tied = choose_pictures(torch.full((2, 4), 0.5), np.array([0, 0, 1, 1]), top=4)
    assert not tied.best
    assert [(one.rank, one.top) for one in tied.worst] == [(3, (2, 3, 0, 1)), (3, (0, 1, 2, 3))]


def test_the_page_shows_searches_in_both_directions(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split)
    shown = page[page.index('id="sentences"') : page.index('id="words"')]
    assert "first five of 12 sentences" in shown
    assert "<li>✓ <bdi>&lt;script&gt;" in shown
    cards = shown.count('class="card query"')
    assert cards == len([*re.finditer("Ahead of the best|came second|came in place", shown)]) >= 3
    assert shown.count("<li>") == 5 * cards


def test_false_captions_are_a_section_where_they_were_scored(split: Split, tmp_path: Path) -> None:
    runs = [report_run(model, split) for model in models(split)]
    items = [Choice("1", "<size>", (split.image_ids[0],), (split.captions[0], f"{EVIL} number 1"))]
    found = [(run.name, evaluate_choices(ModelOnSplit(run.model, split), "x", items)) for run in runs if run.model]
    table = captions_beside(found)
    page = write_report(tmp_path / "n.html", runs=runs, split=split, negatives=table).read_text(encoding="utf-8")
    assert check(page).ids == [SECTIONS[0], "negatives", *SECTIONS[1:]]
    shown = page[page.index('id="negatives"') : page.index('id="certainty"')]
    assert "&lt;size&gt;" in shown
    assert [row[0] for row in table[1]] == ["chance", "VSE-infinity", "CHAN"]
    assert "one attribute of one thing" in shown


def test_one_image_alone_makes_a_report(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split.select([3]))
    assert "There is no near miss in this split." in page


def test_logs_with_a_line_cut_off_are_read(tmp_path: Path) -> None:
    lines = (
        '{"kind": "train", "epoch": 1, "step": 4, "time": 10.0, "loss": 3.5}\n'
        '{"kind": "dev", "epoch": 1, "step": 4, "time": 12.5, "rsum": 99.0}\n{"kind": "tr'
    )
    (tmp_path / "metrics.jsonl").write_text(f"12\n{lines}", encoding="utf-8")
    log = read_log(tmp_path)
    assert (log.loss, log.rsum, log.steps, log.span_s) == (((4.0, 3.5),), ((1.0, 99.0),), 4, 2.5)
    assert read_log(tmp_path / "nowhere").loss == ()


@pytest.mark.parametrize("values", [(0.0, 1.0), (3.0, 3.0), (0.001, 0.002), (12.0, 98765.0), (1.0, 2.0)])
def test_ticks_cover_the_values(values: tuple[float, float]) -> None:
    ticks = round_ticks(*values)
    assert ticks[0] <= values[0]
    assert ticks[-1] >= values[1] - 1e-9
    assert len(ticks) <= 8
    if values[0] > 0:
        marks = log_ticks(*values)
        assert marks[0] <= values[0]
        assert marks[-1] >= values[1]
        assert len(marks) >= 2


def test_charts_survive_a_single_point_and_nothing_at_all() -> None:
    assert chart("t", "x", [Curve("a", ())]) == ""
    assert chart("t", "x", [Curve("a", ((1.0, 0.0),))], is_log=True) == ""
    one = chart("t <b>", "x", [Curve("a & b", ((1.0, 5.0),)), Curve("c", ())], is_log=True, reference=("chance", 2.0))
    assert "a &amp; b" in one
    assert "<b>" not in one
    check(one)


@pytest.mark.parametrize("is_log", [True, False])
def test_charts_leave_out_a_loss_that_diverged(is_log: bool) -> None:
    points = ((1.0, 5.0), (2.0, 4.0))
    rest = ((3.0, float("inf")), (4.0, float("nan")))
    assert chart("t", "x", [Curve("a", points + rest)], is_log=is_log) == chart(
        "t", "x", [Curve("a", points)], is_log=is_log
    )
    assert chart("t", "x", [Curve("a", rest)], is_log=is_log) == ""


def test_a_matrix_without_a_model_has_no_lit_words(split: Split, tmp_path: Path) -> None:
    run = report_run(models(split)[0], split)
    matrix = replace(run, model=None, name="a matrix")
    page = write_report(tmp_path / "m.html", runs=[run, matrix], split=split).read_text(encoding="utf-8")
    assert "No words are lit for a matrix: a score matrix alone does not say why." in page
    assert "a matrix minus VSE-infinity" in page


def test_p_values_of_several_runs_are_corrected(split: Split, tmp_path: Path) -> None:
    runs = [replace(report_run(model, split), name=name) for name, model in zip("ab", models(split), strict=True)]
    pair = write_report(tmp_path / "two.html", runs=runs, split=split).read_text(encoding="utf-8")
    assert "Holm" not in pair
    runs.append(replace(runs[0], name="c"))
    page = write_report(tmp_path / "three.html", runs=runs, split=split).read_text(encoding="utf-8")
    queries = [run.evaluation.queries for run in runs]
    p = [paired_test(one, queries[2]).p_permutation[-1] for one in queries[:2]]
    assert p[0] == 1.0  # c is a under another name
    said = f"of rsum against c, corrected for 2 comparisons (Holm): a 1.0000, b {min(1.0, 2 * p[1]):.4f}."
    assert said in page


def test_a_benchmark_is_a_page_too(tmp_path: Path) -> None:
    head, rows = ("", "R@1"), (("<image> -> text", "50.0"),)
    found = Benchmark("cxc (partial)", "title & more", ((head, rows),), {}, ("few <images>",), ("a choice",), "chan")
    page = write_benchmark(tmp_path / "b.html", found).read_text(encoding="utf-8")
    assert check(page).ids == ["results", "warnings", "choices"]
    assert "&lt;image&gt; -&gt; text" in page
    assert "few &lt;images&gt;." in page
    assert "http" not in page


def test_the_page_says_what_is_finite_constant_and_cut_into_parts(split: Split, tmp_path: Path) -> None:
    page = made(tmp_path, split)
    assert "CHAN: all of 72 scores are finite; 0 images and 0 captions score everything alike." in page
    assert "Percentiles over 1,000 resamples of the images" in page
    assert "CHAN minus VSE-infinity" in page
    assert "All queries are of one kind" in page or "Recall of CHAN over parts of the queries" in page
