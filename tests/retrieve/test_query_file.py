"""Files of queries: text and JSON Lines, lines that can not be read, and answers around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchword.errors import ConfigError, DataError
from patchword.retrieve.batch import answer_each
from patchword.retrieve.query import Part
from patchword.retrieve.query_file import read_queries


def test_a_text_file_has_a_part_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "queries.txt"
    file.write_bytes("\ufeffa dog\r\n\n  -cat:0.5 \na \u2028 wall".encode())
    found = read_queries(file)
    assert [(line.number, line.label) for line in found] == [(1, "a dog"), (3, "-cat:0.5"), (4, "a \u2028 wall")]
    parts = [line.query.parts for line in found if line.query is not None]
    assert parts[:2] == [(Part(text="a dog"),), (Part(text="cat", weight=-0.5),)]
    assert parts[2][0].text == "a \u2028 wall"


def test_json_lines_hold_texts_or_parts(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(
        '"a dog:2"\n{"parts": [{"text": "a dog:2"}, {"image": "c.jpg", "weight": -0.5}, {"image_id": 12}]}\n',
        encoding="utf-8",
    )
    first, second = read_queries(file)
    assert first.query is not None
    assert second.query is not None
    assert first.query.parts == (Part(text="a dog", weight=2.0),)
    assert second.query.parts == (
        Part(text="a dog:2"), Part(image=Path("c.jpg"), weight=-0.5), Part(image=12),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "telling"),
    [
        ("a dog", "not valid JSON"),
        ("[1]", "valid dictionary"),
        ("{}", "`parts`: Field required"),
        ('{"parts": []}', "the query is empty"),
        ('{"parts": [{"weight": 1}]}', "exactly one of `text`, `image` and `image_id`"),
        ('{"parts": [{"text": "a", "image_id": 1}]}', "exactly one of `text`, `image` and `image_id`"),
        ('{"parts": [{"text": "a", "wieght": 1}]}', "`parts.0.wieght`"),
        ('{"parts": [{"text": "a", "weight": NaN}]}', "`parts.0.weight`"),
        ('{"parts": [{"text": "a", "weight": 0}]}', "Expected a number other than 0"),
        ('{"parts": [{"image_id": -1}]}', "`parts.0.image_id`"),
    ],
)
def test_a_line_that_is_no_query_says_why(line: str, telling: str, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(f'"a dog"\n{line}\n', encoding="utf-8")
    good, bad = read_queries(file)
    assert good.error is None
    assert (bad.number, bad.query) == (2, None)
    assert telling in str(bad.error)
    assert "\n" not in str(bad.error)


def test_a_file_without_queries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no queries"):
        read_queries(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="can not be read as a file of queries"):
        read_queries(tmp_path)


def test_a_refused_query_costs_few_questions() -> None:
    asked = list[list[int]]()

    def ask(numbers: list[int]) -> list[int]:
        asked.append(numbers)
        if any(number < 0 for number in numbers):
            raise DataError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]

    queries = [*range(1, 40), -7, *range(40, 64), -9]
    found = answer_each(ask, queries)
    assert [str(one) if isinstance(one, DataError) else one for one in found] == [
        2 * number if number > 0 else f"{number} is negative" for number in queries
    ]
    assert len(asked) < 2 * 2 * 7 + 1
    answered = [numbers for numbers in asked if min(numbers) > 0]
    assert sum(map(len, answered)) == len(queries) - 2  # each was computed once
    assert answer_each(ask, []) == []


def test_what_is_wrong_for_all_is_not_said_of_each() -> None:
    def ask(numbers: list[int]) -> list[int]:
        raise ConfigError("`k` is 0.")

    with pytest.raises(ConfigError):
        answer_each(ask, [1, 2])
