"""``patchword explain`` over an index: the image by id, path or file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_toys import picture_index
from small import refused

from patchword.cli import main
from patchword.retrieve.engine import Index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_index(tmp_path_factory.mktemp("explain"))[0]


def test_an_indexed_image_is_explained(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Index.open(folder) as index:
        item, expected = index.item(3), index.explain(3, "a red dog")
    assert item.file is not None
    for written in ("3", item.path, str(item.file)):
        assert main(["explain", str(folder), written, "a red dog", "--device", "cpu", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["image"], found["picture"]) == (item.path, str(item.file.resolve()))
        assert found["score"] == pytest.approx(expected.score)
        assert found["parts"] == expected.parts.tolist()
    for suffix in ("png", "html", "json"):
        out = tmp_path / f"why.{suffix}"
        assert main(["explain", str(folder), "3", "a red dog", "-o", str(out)]) == 0
        assert f"wrote '{out}'" in capsys.readouterr().out
        assert out.stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "kind", "telling"),
    [
        (["99", "a dog"], "DataError", "not in the index"),
        (["it's not there.png", "a dog"], "DataError", "neither the id nor the path of an image"),
        (["3", "qwertz"], "DataError", "none of the words"),
        (["3", "a dog", "--data", "."], "ConfigError", "Leave out --data"),
        (["3", "a dog", "--picture", "gone.png"], "DataError", "is missing"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, words: list[str], kind: str, telling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert telling in refused(["explain", folder, *words], capsys, kind=kind)
