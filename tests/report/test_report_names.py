"""Pages about captions that run from right to left, names that are not UTF-8, and splits of one image."""

from __future__ import annotations

import os
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from held import Rows, random_model
from PIL import Image

from patchword.data.table import Split
from patchword.explain.page import explanation_page
from patchword.explain.word_cards import lit_pair
from patchword.html.page import page
from patchword.report.rows import report_run
from patchword.report.write import write_report
from patchword.types import Alignment

CAPTION = "כלב חום רץ."


def toy(captions: list[str], images: int) -> Split:
    """Some images without pictures, equally many captions each."""
    rows = Rows(torch.randn(images, 4, 5, generator=torch.Generator().manual_seed(0)))
    owner = np.repeat(np.arange(images), len(captions) // images)
    return Split("toy", "test", [f"id{k}" for k in range(images)], captions, owner, images=rows)


def report(path: Path, split: Split) -> str:
    """The page of two models."""
    runs = [report_run(random_model(kind, split.captions), split) for kind in ("vse_inf", "chan")]
    return write_report(path / "report.html", runs=runs, split=split).read_text(encoding="utf-8")


def test_a_caption_has_its_own_direction_wherever_it_is_shown(tmp_path: Path) -> None:
    made = report(tmp_path, toy([f"{CAPTION} {k}" for k in range(12)], 6))
    for k in range(12):
        for before in made.split(f"{CAPTION} {k}")[:-1]:
            assert before.endswith(('<blockquote dir="auto">“', "<bdi>", "t2i \u2068")), before[-40:]
    assert "<bdi>" in made
    assert '<blockquote dir="auto">' in made
    assert "· 0." in made or "· -0." in made  # scores stand outside


def test_words_stand_in_the_order_of_their_script() -> None:
    words = ("[CLS]", *CAPTION.split(), "[SEP]")
    made = lit_pair(Alignment(torch.rand(5, 2), 1.0, words), None, "")
    assert '<p class="words" dir="auto">' in made
    assert made.count('class="word"') == 5
    for mark in ("[CLS]", "[SEP]"):  # a browser that looks for the first letter must not see theirs
        assert f'transparent)" dir="ltr">{mark}<small dir="ltr">' in made
    assert f'transparent)">{CAPTION.split()[0]}<small dir="ltr">' in made


def test_a_heading_may_be_such_a_caption() -> None:
    made = explanation_page(Alignment(torch.rand(3, 2), 1.0, tuple(CAPTION.split())), None, CAPTION, [])
    assert f"<h1>{CAPTION}</h1>" in made
    assert "h1 { unicode-bidi: plaintext; }" in made


def test_a_name_that_is_not_utf8_is_shown_by_number(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 <b>")
    made = report(tmp_path, replace(toy(["a dog", "a cat"], 2), image_ids=[name, "two"]))
    assert escape("caf\\udce9 <b>") in made
    assert page("\ud83d", "\udfff é 😀").count("\\ud83d") == 1


@pytest.mark.parametrize("has_pictures", [True, False])
def test_a_split_of_one_image_has_no_other_to_compare_with(has_pictures: bool, tmp_path: Path) -> None:
    split = toy(["a dog", "a brown dog"], 1)
    if has_pictures:
        Image.new("RGB", (30, 20)).save(tmp_path / "one.png")
        split = replace(split, files=[tmp_path / "one.png"])
    made = report(tmp_path, split)
    assert "There is no other picture with a score." in made
    assert "There is no other sentence with a score." in made
    assert "by inf" not in made
