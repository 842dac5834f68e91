"""What a browser makes of captions that run from right to left, on the pages that are read offline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import Browser, Locator, Page

from patchword.explain.page import explanation_page
from patchword.types import Alignment

HEBREW, ENGLISH = "כלב חום רץ", "a brown dog"


def left(place: Locator) -> float:
    """Where an element begins."""
    box = place.bounding_box()
    assert box is not None
    return box["x"]


@pytest.fixture(scope="module")
def shown(browser: Browser) -> Iterator[Page]:
    """A page for one written page after the other."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize("caption", [HEBREW, ENGLISH])
def test_words_stand_in_the_order_in_which_they_are_read(caption: str, marks: bool, shown: Page) -> None:
    words = ["[CLS]", *caption.split(), "[SEP]"] if marks else caption.split()
    made = explanation_page(Alignment(torch.rand(len(words), 2), 1.0, tuple(words)), None, caption, [])
    shown.set_content(made)
    places = [left(one) for one in shown.locator(".word").all()]
    assert len(places) == len(words)
    assert places == sorted(places, reverse=caption == HEBREW)
    aligned = "getComputedStyle(document.querySelector('h1')).unicodeBidi"
    assert shown.evaluate(aligned) == "plaintext"
