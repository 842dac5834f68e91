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
from patchword.index import add, build
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Part, Query, parse_query


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_index(tmp_path_factory.mktemp("verb"), captions=True)[0]


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    """The JSON that a search prints."""
    capsys.readouterr()
    assert main(["search", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def scores_of(answer: dict[str, Any]) -> dict[int, float]:
    """Scores by the ids that were found."""
    return {hit["id"]: hit["score"] for hit in answer["hits"]}


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


def test_pictures_have_weights_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_picture(tmp_path / "like.png", 50)
    words = ("a dog", "--image", f"{picture}:0.25", "--image", "3:-0.5", "--unlike", f"{picture}:2", "--unlike", "4")
    parts = [("a dog", None, 1.0), (None, picture, -2.0), (None, 4, -1.0), (None, picture, 0.25), (None, 3, -0.5)]
    with Index.open(folder) as index:
        expected = index.search(Query(tuple(Part(text, image, weight) for text, image, weight in parts)), 12).hits
    found = said(capsys, folder, *words, "-k", "12")["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-5)
    named = save_picture(tmp_path / "odd:0.5.png", 51).rename(tmp_path / "odd:0.5")
    assert said(capsys, folder, "--image", named)["hits"] == said(capsys, folder, "--image", f"{named}:1")["hits"]


def test_a_file_holds_a_query_on_each_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_text("a dog\n-cat\n\na red wall:2\n", encoding="utf-8")
    found = said(capsys, folder, "--file", lines, "-k", "2", "--where", "id <= 6")
    assert [(one["query"], one["line"]) for one in found] == [("a dog", 1), ("-cat", 2), ("a red wall:2", 4)]
    assert all(len(one["hits"]) == 2 and one["searched"] == 6 for one in found)


def test_the_lines_of_a_file_may_have_parts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_picture(tmp_path / "like.png", 50)
    parts = [{"text": "a dog"}, {"image": str(picture), "weight": 0.5}, {"image_id": 3, "weight": -0.25}]
    lines = tmp_path / "queries.jsonl"
    lines.write_text(f'{json.dumps({"parts": parts})}\n"a red wall:2"\n', encoding="utf-8")
    first, second = said(capsys, folder, "--file", lines)
    assert first["query"] == {"parts": parts}
    alone = said(capsys, folder, "a dog", "--image", f"{picture}:0.5", "--image", "3:-0.25")
    assert scores_of(first) == pytest.approx(scores_of(alone), rel=1e-5)  # alone it is summed in another order
    assert scores_of(second) == pytest.approx(scores_of(said(capsys, folder, "a red wall:2")), rel=1e-5)


def test_a_bad_line_does_not_stop_the_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_bytes(b"a dog\nqwertz\na cat:0\n\xff\n\na red wall\n")
    words = ["search", str(folder), "--file", str(lines), "-k", "3"]
    assert main(words) == 2
    printed, told = capsys.readouterr()
    assert [line.split("  ")[0] for line in printed.splitlines() if line[0] != " "] == ["a dog", "a red wall"]
    reasons = told.splitlines()
    assert [reason.partition(":")[0] for reason in reasons[:-1]] == [f"'{lines}' line {k}" for k in (2, 3, 4)]
    for reason, part in zip(reasons, ("none of the words", "weight", "not UTF-8: byte 0xff"), strict=False):
        assert part in reason
    assert reasons[-1] == "3 of 5 queries could not be answered"
    assert main([*words, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [one["line"] for one in found] == [1, 2, 3, 4, 6]
    assert ["error" in one for one in found] == [False, True, True, True, False]
    assert found[1]["query"] == "qwertz"
    for one in (found[0], found[4]):
        assert scores_of(one) == pytest.approx(scores_of(said(capsys, folder, one["query"], "-k", "3")), rel=1e-5)
    assert "unknown column" in refused([*words, "--where", "smell = 1"], capsys, kind="ConfigError")


def test_the_words_are_readable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(folder), "a dog", "--threshold", "99"]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["search", str(folder), "a dog", "-k", "1", "--mode", "exact"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a dog  (exact: 12 of 12 images")
    assert second.split()[0] == "1"


def test_the_header_shows_which_words_are_one_part(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def header(*words: str | Path) -> str:
        assert main(["search", str(folder), *map(str, words), "-k", "1", "--mode", "exact"]) == 0
        return capsys.readouterr().out.splitlines()[0].partition("  (")[0]

    picture = save_picture(tmp_path / "like.png", 50)
    assert header("a dog on a beach") == "a dog on a beach"
    assert header("a", "dog", "a", "wall") == "a + dog + a + wall"
    assert (
        header("a dog", "-red wall:0.5", "--image", picture, "--unlike", "4") == f"a dog + {picture} - red wall:0.5 - 4"
    )
    assert header("-red wall") == "- red wall"


@pytest.mark.parametrize("image", ["a" * 300, "a\0b", "\ud800", ""])
def test_no_name_of_a_picture_stops_the_others(
    image: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "queries.jsonl"
    lines.write_text(f'{json.dumps({"parts": [{"image": image}]})}\n"a red wall"\n', encoding="utf-8")
    assert main(["search", str(folder), "--file", str(lines), "--json"]) == 2
    printed, told = capsys.readouterr()
    assert ["error" in one for one in json.loads(printed)] == [True, False]
    assert "1 of 2 queries could not be answered" in told


def test_unknown_words_are_told_with_their_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = save_picture(tmp_path / "like.png", 50)
    assert main(["search", str(folder), "a qwertz dog", "a red wall", "--image", str(picture)]) == 0
    note = "note: the model does not know 'qwertz' in 'a qwertz dog': read as an unknown word\n"
    assert capsys.readouterr().err == note
    lines = tmp_path / "queries.jsonl"
    parts = [{"text": "a qwertz dog"}, {"image": str(picture)}]
    lines.write_text(f"{json.dumps({'parts': parts})}\n", encoding="utf-8")
    assert main(["search", str(folder), "--file", str(lines)]) == 0
    assert capsys.readouterr().err == note


def test_a_filter_that_nothing_passes_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_text("a dog\n", encoding="utf-8")
    for words in (["a dog"], ["--file", str(lines)]):
        assert main(["search", str(folder), *words, "--where", "width > 9999"]) == 0
        assert capsys.readouterr().out == "a dog\n  no image passes --where (12 in the index)\n"
    assert main(["search", str(folder), "a dog", "--where", "width < 9999", "--threshold", "99"]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_names_in_several_folders_are_shown_whole(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, first, second = tmp_path / "i", save_picture(tmp_path / "p/x.png", 1), save_picture(tmp_path / "q/x.png", 2)
    model = folder.parent / "model_chan"
    build(first.parent, place, model=model)

    def shown() -> set[str]:
        assert main(["search", str(place), "a dog"]) == 0
        return {line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}

    assert shown() == {"x.png"}
    add(place, [second.parent], model=model)
    assert shown() == {str(first), str(second)}
    main(["index", "remove", str(place), str(second)])
    capsys.readouterr()
    assert shown() == {"x.png"}


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
        (["--image", "3:0"], "ConfigError", "the weight of a part of a query is 0.0"),
        (["--unlike", "gone.png:2"], "DataError", "neither a picture file nor the id"),
        (["--image", "3:2", "--captions"], "ConfigError", "Leave out its weight of 2"),
        (["--image", "3", "--unlike", "4", "--captions"], "ConfigError", "Give one --image and nothing else"),
        (["a dog", "--where", "smell = 1"], "ConfigError", "unknown column"),
        (["a dog", "-k", "0"], "ConfigError", "`k` is 0"),
        (["a dog", "--candidates", "0"], "ConfigError", "`candidates` is 0"),
        (["a dog", "--threshold", "nan"], "ConfigError", "`threshold` is nan"),
        (["--image", "3", "--detector", "."], "ConfigError", "reads pictures, which need no detector"),
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
