"""Words that the model of an index does not know are named: over HTTP in the answer, on the command line beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from patchword.cli import main

QUERY = "a red zzzz wall"


def test_an_answer_names_them(client: TestClient) -> None:
    def unknown(*parts: dict[str, object]) -> list[str]:
        told: list[str] = client.post("/search", json={"parts": parts}).json()["unknown_words"]
        return told

    told = client.get("/search", params={"q": QUERY}).json()
    assert told["unknown_words"] == ["zzzz"]
    assert client.get(f"/similar/{told['hits'][0]['id']}").json()["unknown_words"] == []
    assert unknown({"text": "a red wall"}, {"text": "xyzzy wall"}, {"text": "xyzzy red", "weight": -1}) == ["xyzzy"]
    assert "knows none of the words" in client.get("/search", params={"q": "zzzz"}).json()["error"]


def test_the_search_verb_names_them(small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(small_index), QUERY, "-xyzzy wall", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == "".join(
        f"note: the model does not know {word!r} in {sentence!r}: read as an unknown word\n"
        for word, sentence in (("zzzz", QUERY), ("xyzzy", "xyzzy wall"))
    )
    assert json.loads(told.out)["query"] == f"{QUERY} - xyzzy wall"
    file = tmp_path / "queries.txt"
    file.write_text(f"a red wall\n{QUERY}\n", encoding="utf-8")
    assert main(["search", str(small_index), "--file", str(file)]) == 0
    assert capsys.readouterr().err == f"note: the model does not know 'zzzz' in {QUERY!r}: read as an unknown word\n"
