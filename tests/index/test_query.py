"""How queries are written, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from patchword.errors import ConfigError, DataError
from patchword.index.query import Part, Query, parse_part, parse_query
from patchword.verbs.searching import prepare_words


@pytest.mark.parametrize(
    ("written", "text", "weight"),
    [
        ("a dog", "a dog", 1.0),
        ("a dog:1.5", "a dog", 1.5),
        ("a dog:.5", "a dog", 0.5),
        ("-grass", "grass", -1.0),
        ("-wet grass:2", "wet grass", -2.0),
        ("a clock at 10:30", "a clock at 10:30", 1.0),
        ("a sign that says: stop", "a sign that says: stop", 1.0),
        ("well-known", "well-known", 1.0),
        ("two\nlines:2", "two\nlines", 2.0),
    ],
)
def test_a_part_is_a_text_with_a_weight(written: str, text: str, weight: float) -> None:
    assert parse_part(written) == Part(text=text, weight=weight)


def test_a_query_collects_its_parts() -> None:
    query = parse_query(["a dog", "-snow:0.5"], [7], without=["people", "cars:2"])
    assert [(part.text, part.image, part.weight) for part in query.parts] == [
        ("a dog", None, 1.0),
        ("snow", None, -0.5),
        ("people", None, -1.0),
        ("cars", None, -2.0),
        (None, 7, 1.0),
    ]
    assert query.total_weight == 5.5
    assert query.sentence is None
    assert Query.of("a dog:2").sentence == "a dog:2"  # taken word for word


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_other_than_zero(weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        Part(text="a dog", weight=weight)


def test_a_part_is_one_thing() -> None:
    with pytest.raises(ConfigError, match="not both"):
        Part(text="a dog", image=np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ConfigError, match="needs a text or an image"):
        Part()
    with pytest.raises(DataError, match="empty"):
        Query(())


def test_a_word_with_a_minus_is_no_option() -> None:
    assert prepare_words(["i", "a dog", "-k", "3"]) == ["i", "a dog", "-k", "3"]
    assert prepare_words(["i", "-people", "-wet grass:0.5", "--json"]) == [
        "i", "--json", "--without=people", "--without=wet grass:0.5",
    ]  # fmt: skip
