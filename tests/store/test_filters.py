"""Filters against a plain evaluator, and against people who would rather write SQL."""

from __future__ import annotations

import contextlib
import operator
import os
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.errors import ConfigError
from patchword.store.catalog import Catalog
from patchword.store.filters import BUILT_IN, MAX_DEPTH, Column, compile_filter
from patchword.store.layout import IndexFolder
from patchword.store.schema import create

PATHS = ("a.jpg", "b/it's 100%.jpg", "b/c_d.jpg", "Ü/日本.jpg", "b/c-d.JPG", "x.png")
TAGS = ("beach", "it's", "a_b", "", None)
ROWS: list[dict[str, Any]] = [
    {
        "id": k + 1,
        "path": f"{k}-{PATHS[k % len(PATHS)]}",
        "width": None if k % 7 == 0 else 100 * (k % 5),
        "latitude": None if k % 3 == 0 else k / 2 - 5,
        "taken": None if k % 4 == 0 else f"2024-0{k % 9 + 1}-01T00:00:00",
        "tag": TAGS[k % len(TAGS)],
        "my score": None if k % 5 == 0 else k / 4,
    }
    for k in range(40)
]
KINDS = {"id": "i", "path": "t", "width": "i", "latitude": "r", "taken": "t", "tag": "t", "my score": "r"}
COMPARE = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    place = IndexFolder(tmp_path_factory.mktemp("filters"))
    place.manifest.write_text("{}", encoding="utf-8")
    create(place.catalog)
    with sqlite3.connect(place.catalog) as connection:
        connection.execute("INSERT INTO roots VALUES (1, '/photos', 'folder', 0)")
        connection.execute("INSERT INTO user_columns VALUES (1, 'tag', 'text'), (2, 'my score', 'real')")
        connection.execute("ALTER TABLE items ADD COLUMN u1")
        connection.execute("ALTER TABLE items ADD COLUMN u2")
        for row in ROWS:
            connection.execute(
                "INSERT INTO items (id, root, path, hash, size, mtime, checked, width, latitude, taken, u1, u2) "
                "VALUES (?, 1, ?, '', 5, 0, 0, ?, ?, ?, ?, ?)",
                [row[key] for key in ("id", "path", "width", "latitude", "taken", "tag", "my score")],
            )
    connection.close()
    with Catalog(place) as opened:
        yield opened


# A filter is drawn as its text together with a function that says, for a row: true, false, or None for unknown.


def quoted(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def column(name: str) -> str:
    return f'"{name}"' if " " in name else name


def values_of(name: str) -> st.SearchStrategy[Any]:
    present = sorted({row[name] for row in ROWS if row[name] is not None})
    other: st.SearchStrategy[Any] = st.text(max_size=4) if KINDS[name] == "t" else st.integers(-10, 500)
    return st.sampled_from(present) | other


def like(text: str, pattern: str) -> bool:
    """SQLite's LIKE: ASCII letters in either case."""
    found = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(lower(found), lower(text), re.DOTALL) is not None


def lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


@st.composite
def column_facts(draw: st.DrawFn) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(KINDS)))
    kind = draw(st.sampled_from(["compare", "in", "between", "null", "like"]))
    turned = draw(st.booleans())
    word = " NOT" if turned else ""
    if kind == "null":
        return f"{column(name)} is{word} null", lambda row: (row[name] is None) != turned
    if kind == "compare":
        mark, value = draw(st.sampled_from(sorted(COMPARE))), draw(values_of(name))
        return f"{column(name)} {mark} {quoted(value)}", on(name, lambda v: COMPARE[mark](v, value))
    if kind == "in":
        chosen = draw(st.lists(values_of(name), min_size=1, max_size=4))
        text = f"{column(name)}{word} in ({', '.join(map(quoted, chosen))})"
        return text, on(name, lambda v: (v in chosen) != turned)
    if kind == "like" and KINDS[name] == "t":
        pattern = draw(
            st.sampled_from(["%", "b/%", "_-a.jpg", "%.JPG", "%''%".replace("''", "'"), "2024-0_%", "bEACH"])
        )
        return f"{column(name)}{word} like {quoted(pattern)}", on(name, lambda v: like(v, pattern) != turned)
    low, high = draw(values_of(name)), draw(values_of(name))
    text = f"{column(name)}{word} between {quoted(low)} and {quoted(high)}"
    return text, on(name, lambda v: (low <= v <= high) != turned)


def on(name: str, fact: Any) -> Any:
    return lambda row: None if row[name] is None else fact(row[name])


def both(a: Any, b: Any) -> Any:
    def found(row: Any) -> bool | None:
        x, y = a(row), b(row)
        return False if x is False or y is False else None if x is None or y is None else True

    return found


def negated(a: Any) -> Any:
    return lambda row: None if a(row) is None else not a(row)


def joined(inner: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    pairs = st.tuples(inner, inner)
    return (
        pairs.map(lambda p: (f"({p[0][0]}) and ({p[1][0]})", both(p[0][1], p[1][1])))
        | pairs.map(lambda p: (f"({p[0][0]}) OR ({p[1][0]})", negated(both(negated(p[0][1]), negated(p[1][1])))))
        | inner.map(lambda p: (f"not ({p[0]})", negated(p[1])))
    )


@settings(deadline=None, max_examples=300)
@given(drawn=st.recursive(column_facts(), joined, max_leaves=6))
def test_filters_say_what_a_plain_evaluator_says(drawn: tuple[str, Any], catalog: Catalog) -> None:
    text, holds = drawn
    assert catalog.where(text).tolist() == [row["id"] for row in ROWS if holds(row) is True]


def test_and_binds_closer_than_or(catalog: Catalog) -> None:
    found = catalog.where("id = 1 or id = 2 and width is null").tolist()
    assert found == [1]
    assert catalog.where("not id > 2 and id > 1").tolist() == [2]


LONG = ("id = 1", "modified not between '1971' and '1972'", "id in (1, 2, 3)", "not width is null", "tag like 'b%'")


@pytest.mark.parametrize(
    "text",
    [
        " or ".join(["id=1"] * 2500),
        " and ".join(["id>0"] * 2200),
        "not " * 30 + "id = 1",
        "(" * MAX_DEPTH + "id = 1" + ")" * MAX_DEPTH,
        "".join(f"{LONG[k % 5]} or (" for k in range(MAX_DEPTH)) + "id = 1" + ")" * MAX_DEPTH,
        "".join(f"{LONG[k % 5]} {('or', 'and')[k % 2]} (" for k in range(MAX_DEPTH)) + "id = 1" + ")" * MAX_DEPTH,
    ],
    ids=["or", "and", "not", "parentheses", "nested or", "nested or and and"],
)
def test_long_and_deep_filters_are_read(text: str, catalog: Catalog) -> None:
    assert catalog.where(text).tolist()


def test_a_filter_that_sqlite_can_not_read_is_refused_in_one_line(catalog: Catalog) -> None:
    deep = "".join(f"not ({LONG[k % 5]} or " for k in range(MAX_DEPTH // 2)) + "id = 1" + ")" * (MAX_DEPTH // 2)
    with pytest.raises(ConfigError, match="the filter is nested too deep for SQLite") as error:
        catalog.where(deep)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=100)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["{0} or ({1})", "({1}) or {0}", "{0} and ({1})", "not ({1})", "{0} or {0} and ({1})"]),
            st.sampled_from(LONG),
        ),
        max_size=45,
    )
)
def test_no_filter_is_too_deep_for_sqlite_that_is_not_refused(parts: list[tuple[str, str]], catalog: Catalog) -> None:
    text = "id = 1"
    for form, test in parts:
        text = form.format(test, text)
    with contextlib.suppress(ConfigError):
        catalog.where(text)


def test_modified_and_root_are_columns(catalog: Catalog) -> None:
    assert len(catalog.where("modified < '1970-01-02' and root = '/photos'")) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("widht > 3", "Did you mean `width`"),
        ("width > '3'", "the column `width` is a number, and '3' is a text. Write a number without quotes."),
        ("tag = 3", "the column `tag` is a text, and 3 is a number. Write: '3'."),
        ("tag = beach", "Texts stand in single quotes: 'beach'."),
        ("tag = null", "Write: tag is null"),
        ("width like '3%'", "`like` compares texts"),
        ("width in ()", "a number or a text in single quotes is expected"),
        ("width", "where `=`"),
        ("", "has its end where a column is expected"),
        ("(width > 3", "has its end where `)` is expected"),
        ("width > 3)", "where `and`, `or` or the end is expected"),
        ("width > 3 height > 3", "where `and`, `or` or the end is expected"),
        ("tag = 'open", "A text is closed with the quote it began with."),
        ("width > 3; drop table items", "';"),
        ("width > 3 -- a comment", "can not be read"),
        ("1 = 1", "where a column is expected"),
        ("(select 1) = 1", "unknown column 'select'"),
        ("hash = ''", "unknown column 'hash'"),
        ("u1 = 'beach'", "unknown column 'u1'"),
        ("items.id = 1", "can not be read"),
        ("not " * (MAX_DEPTH + 2) + "id = 1", "nested"),
        ("(" * (MAX_DEPTH + 2) + "id = 1" + ")" * (MAX_DEPTH + 2), "nested"),
        ("id = 1 or " * 5000, "characters"),
        ("id in (" + "1," * 9_000 + "1)", None),
        ("id in (" + "1," * 9_999 + "1, 2)", "characters|values"),
    ],
)
def test_bad_filters_are_refused_in_one_line(text: str, says: str | None, catalog: Catalog) -> None:
    if says is None:
        assert catalog.where(text).tolist() == [1]
        return
    with pytest.raises(ConfigError, match=says if "|" in says else re.escape(says)) as error:
        catalog.where(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "value",
    [
        "' or 1=1 --",
        "'; drop table items; --",
        '" or ""="',
        "%' or '%'='",
        "\0",
        "\\'",
        "?1",
        ":name",
        "a" * 5000,
        "🐕",
    ],
)
def test_values_never_become_sql(value: str, catalog: Catalog) -> None:
    compiled = compile_filter(f"tag = {quoted(value)}", BUILT_IN | {"tag": Column("items.u1", "text")})
    assert compiled.values == [value]
    assert value not in compiled.sql
    assert catalog.where(f"tag = {quoted(value)}").tolist() == []
    assert catalog.count() == 0  # the tables are there
    assert len(catalog.where("id > 0")) == len(ROWS)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "width",
                "tag",
                "=",
                "'",
                '"',
                "(",
                ")",
                "and",
                "or",
                "not",
                "in",
                "is",
                "null",
                "like",
                "1",
                "'x'",
                ";",
                "--",
                "/*",
                ",",
            ]
        ),
        max_size=10,
    ).map(" ".join)
)
def test_any_text_is_answered_or_refused(text: str, catalog: Catalog) -> None:
    with contextlib.suppress(ConfigError):
        catalog.where(text)


def test_whole_numbers_beyond_sqlite_are_compared_as_numbers(catalog: Catalog) -> None:
    assert len(catalog.where("id < 99999999999999999999999")) == len(ROWS)
    assert len(catalog.where("id > -9223372036854775809")) == len(ROWS)


def test_a_catalog_is_read_by_many_threads(catalog: Catalog) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(3):  # new threads each time
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda k: len(catalog.where(f"id <= {k}")), range(41)))
        assert found == list(range(41))
    if before:  # threads that end leave no connection behind
        assert len(os.listdir("/proc/self/fd")) <= before + 8 * 3
