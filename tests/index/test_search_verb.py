"""``patchword search`` over an index: queries with weights, pictures, files, filters, captions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_toys import picture_index
from small import refused
from store_toys import save_picture

from patchword.cli import main
from patchword.index.engine import Index
from patchword.index.query import parse_query


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_index(tmp_path_factory.mktemp("verb"), captions=True)[0]


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    """The JSON that a search prints."""
    capsys.readouterr()
    assert main(["search", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_parts_with_weights_are_one_query(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_picture(tmp_path / "like.png", 50)
    found = said(capsys, folder, "a red wall", "-dog:0.5", "--image", picture, "--image", "3", "-k", "4")
    with Index.open(folder) as index:
        expected = index.search(parse_query(["a red wall", "-dog:0.5"], [picture, 3]), 4).hits
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
    assert found["searched"] == 12
    assert found["hits"][0]["file"].endswith(".png")
    again = said(capsys, folder, "a red wall", "--without", "dog:0.5", "--image", picture, "--image", "3", "-k", "4")
    assert again["hits"] == found["hits"]


def test_a_file_holds_a_query_on_each_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_text("a dog\n-cat\n\na red wall:2\n", encoding="utf-8")
    found = said(capsys, folder, "--file", lines, "-k", "2", "--where", "id <= 6")
    assert [one["query"] for one in found] == ["a dog", "-cat", "a red wall:2"]
    assert all(len(one["hits"]) == 2 and one["searched"] == 6 for one in found)


def test_the_words_are_readable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(folder), "a dog", "--threshold", "99"]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["search", str(folder), "a dog", "-k", "1", "--mode", "exact"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a dog  (exact: 12 of 12 images")
    assert second.split()[0] == "1"


def test_a_threshold_alone_finds_all_that_reach_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything = said(capsys, folder, "a dog", "--threshold", "-99")
    assert len(everything["hits"]) == 12
    few = said(capsys, folder, "a dog", "--threshold", "-99", "-k", "2")
    assert len(few["hits"]) == 2
    least = everything["hits"][6]["score"]
    some = said(capsys, folder, "a dog", "--threshold", str(least))
    assert len(some["hits"]) == 7
    words = ["search", folder, "--image", "1", "--captions", "--where", "id > 3"]
    assert "--where filters images" in refused(words, capsys, kind="ConfigError")


def test_captions_of_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, folder, "--image", "2", "--captions", "-k", "2")
    assert [one["rank"] for one in found] == [1, 2]
    assert main(["search", str(folder), "--image", "2", "--captions"]) == 0
    assert found[0]["caption"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "kind", "telling"),
    [
        ([], "ConfigError", "nothing to search for"),
        (["qwertz"], "DataError", "none of the words"),
        (["a dog", "--data", "."], "ConfigError", "Leave out --data"),
        (["--image", "nothing.png"], "DataError", "neither a picture file nor the id"),
        (["--image", "99"], "DataError", "not in the index"),
        (["a dog", "--where", "smell = 1"], "ConfigError", "unknown column"),
        (["a dog", "-k", "0"], "ConfigError", "`k` is 0"),
        (["a dog", "--captions"], "ConfigError", "--captions finds"),
        (["--file", "gone.txt"], "DataError", "can not be read"),
        (["a dog", "--file", "gone.txt"], "ConfigError", "--file holds the queries"),
        (["a dog:0"], "ConfigError", "weight"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, words: list[str], kind: str, telling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert telling in refused(["search", folder, *words], capsys, kind=kind)


def test_a_run_without_data_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no index" in refused(["search", tmp_path, "a dog"], capsys, kind="ConfigError")
