"""How queries are written, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchword.errors import ConfigError, DataError
from patchword.retrieve.query import Part, Query, parse_image, parse_part, parse_query
from patchword.verbs.searching import prepare_words


@pytest.mark.parametrize(
    ("written", "text", "weight"),
    [
        ("a dog", "a dog", 1.0),
        ("a dog:1.5", "a dog", 1.5),
        ("a dog:.5", "a dog", 0.5),
        ("-grass", "grass", -1.0),
        ("-wet grass:2", "wet grass", -2.0),
        ("wet grass:-2", "wet grass", -2.0),
        ("a clock at 10:30", "a clock at 10:30", 1.0),
        ("a sign that says: stop", "a sign that says: stop", 1.0),
        ("well-known", "well-known", 1.0),
        ("two\nlines:2", "two\nlines", 2.0),
    ],
)
def test_a_part_is_a_text_with_a_weight(written: str, text: str, weight: float) -> None:
    assert parse_part(written) == Part(text=text, weight=weight)


@pytest.mark.parametrize(
    ("written", "image", "weight"),
    [
        ("12", 12, 1.0),
        ("5:0.3", 5, 0.3),
        ("5:-.5", 5, -0.5),
        ("cat.jpg", Path("cat.jpg"), 1.0),
        ("cat.jpg:-0.5", Path("cat.jpg"), -0.5),
        ("C:\\cats\\cat.jpg", Path("C:\\cats\\cat.jpg"), 1.0),
        ("C:\\cats\\cat.jpg:2", Path("C:\\cats\\cat.jpg"), 2.0),
        ("odd:0.5", Path("odd:0.5"), 1.0),
        ("odd:0.5:2", Path("odd:0.5"), 2.0),
        ("7", Path("7"), 1.0),
        ("7:2", Path("7"), 2.0),
    ],
)
def test_an_image_is_a_file_or_an_id_with_a_weight(
    written: str, image: Path | int, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "C:\\cats\\cat.jpg", "odd:0.5", "odd", "7"):  # here a file's name may have all of these
        Path(name).touch()
    assert parse_image(written) == Part(image=image, weight=weight)


@pytest.mark.parametrize("written", ["", "gone.jpg", "gone.jpg:0.5", "12:", ":0.5", "12:1e-3", "12:nan", "a" * 5000])
def test_what_is_neither_file_nor_id_is_refused(written: str) -> None:
    with pytest.raises(DataError, match="neither a picture file nor the id"):
        parse_image(written)


def test_a_query_collects_its_parts() -> None:
    query = parse_query(["a dog", "-snow:0.5"], [7], without=["people", "cars:2"])
    assert [(part.text, part.image, part.weight) for part in query.parts] == [
        ("a dog", None, 1.0),
        ("snow", None, -0.5),
        ("people", None, -1.0),
        ("cars", None, -2.0),
        (None, 7, 1.0),
    ]
    more = parse_query("a dog", [Part(image=7, weight=-0.5)], without=[parse_image("8:0.5")])
    assert [(part.image, part.weight) for part in more.parts] == [(None, 1.0), (8, -0.5), (7, -0.5)]
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
