"""What Python may ask of a search and of a model: several texts in any form, and counts that make sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from held import Rows, random_model

from patchword.data.table import Split
from patchword.errors import ConfigError, DataError
from patchword.model import Model
from patchword.search import Searcher, search, search_each

TEXTS = ["a red ball", "a blue box beside a ball", "a box"]


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model("chan", TEXTS)


@pytest.fixture(scope="module")
def split() -> Split:
    """Three images with a caption each."""
    rows = Rows(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    return Split("toy", "test", ["a", "b", "c"], TEXTS, np.arange(3), images=rows)


def test_queries_may_come_from_a_generator(model: Model, split: Split) -> None:
    expected = search(model, TEXTS, data=split, k=2)
    assert list(expected) == TEXTS
    assert search(model, (text for text in TEXTS), data=split, k=2) == expected
    assert search_each(model, (text for text in TEXTS), data=split, k=2) == list(expected.values())


def test_a_text_alone_is_one_query(model: Model, split: Split) -> None:
    expected = search(model, ["a red ball"], data=split)
    assert search(model, "a red ball", data=split) == expected
    assert search_each(model, "a red ball", data=split) == list(expected.values())


@pytest.mark.parametrize("k", [0, -3, 2.0, True, "2"])
def test_a_count_that_can_not_be_given_is_refused(k: Any, model: Model, split: Split) -> None:
    searcher = Searcher(model, split)
    asked: list[Callable[[], object]] = [
        lambda: search(model, ["a box"], data=split, k=k),
        lambda: search(model, image="a", data=split, k=k),
        lambda: search_each(model, ["a box"], data=split, k=k),
        lambda: model.search("a box", split, k),
        lambda: searcher.by_text("a box", k),
        lambda: searcher.by_image("a", k),
    ]
    for ask in asked:
        with pytest.raises(ConfigError, match=rf"`k` is {k!r}\. Expected a whole number, 1 or more\."):
            ask()


def test_a_count_of_numpy_is_a_count(model: Model, split: Split) -> None:
    assert len(model.search("a box", split, np.int64(2))) == 2  # type: ignore[arg-type]


def test_captions_may_come_from_a_generator(model: Model) -> None:
    expected, found = model.encode_captions(TEXTS), model.encode_captions(text for text in TEXTS)
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.lengths, expected.lengths)
    assert model.tokenize(text for text in TEXTS) == model.tokenize(TEXTS)


def test_a_text_in_the_place_of_several_is_refused(model: Model) -> None:
    for ask in (model.encode_captions, model.tokenize):
        with pytest.raises(DataError, match=r"'a red ball' was given .* Put it into a list: \['a red ball'\]"):
            ask("a red ball")
        with pytest.raises(DataError, match="caption 1 is a NoneType, not a text"):
            ask(["a red ball", None])  # type: ignore[list-item]


def test_nothing_to_encode_is_refused_by_name(model: Model) -> None:
    assert model.tokenize([]) == []
    with pytest.raises(DataError, match="there are no captions to encode"):
        model.encode_captions([])
    with pytest.raises(DataError, match="there are no images to encode"):
        model.encode_images(Rows(torch.zeros(0, 4, 5)))


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(batch: int, model: Model, split: Split) -> None:
    with pytest.raises(ConfigError, match=rf"`batch` is {batch}\. Expected 1 or more: the captions"):
        model.encode_captions(TEXTS, batch=batch)
    with pytest.raises(ConfigError, match=rf"`batch` is {batch}\. Expected 1 or more: the images"):
        model.encode_images(split.require_images(), batch=batch)


@pytest.mark.parametrize("source", ["dog.jpg", ["dog.jpg"], torch.zeros(2, 4, 5)])
def test_what_is_no_source_of_images_is_refused(source: Any, model: Model) -> None:
    with pytest.raises(DataError, match=rf"a {type(source).__name__} was given .* `split\.require_images\(\)`"):
        model.encode_images(source)
