"""What the verb `index` and `search` print: names that would steer a terminal, examples, how to go on."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from small import refused
from store_toys import save_picture, save_pictures, save_pixel_model

from patchword.cli import VERBS, main
from patchword.index import add_captions, build
from patchword.verbs.indexing import EXAMPLES

RED = "z\x1b[31mred\n.png"
ESCAPED = r"z\x1b[31mred\n.png"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def index(model: Path, tmp_path: Path) -> Path:
    pictures = save_pictures(tmp_path / "p", 3)
    save_picture(pictures / RED, 9)
    build(pictures, tmp_path / "i", model=model)
    (tmp_path / "c.txt").write_text("a dog\na cat and a tree\n", encoding="utf-8")
    return tmp_path / "i"


def test_names_do_not_steer_the_terminal(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(index), "a dog"]) == 0
    out = capsys.readouterr().out
    assert ESCAPED in out
    assert len(out.splitlines()) == 5  # the query, and four images
    assert main(["search", str(index), "a dog", "--json"]) == 0
    assert RED in [hit["path"] for hit in json.loads(capsys.readouterr().out)["hits"]]
    (tmp_path / "t.csv").write_text('path,tag\n"\x1b[2Jno.png",sea\n', encoding="utf-8")
    assert main(["index", "add", str(index), "--columns", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr()
    for words in (["remove", index, "\x1b[2Jno"], ["captions", index, tmp_path / "\x1b[2Jno.txt"]):
        said_too = refused(["index", *words], capsys, kind="DataError")
        assert r"\x1b[2Jno" in said_too
        assert "\x1b" not in said_too
    assert "\x1b" not in out + said.out + said.err


def test_each_action_has_examples_that_parse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from patchword.verbs import index_care, index_changes

    ran = list[str]()
    for action in EXAMPLES:
        home = index_changes if hasattr(index_changes, action.capitalize()) else index_care
        kind = getattr(home, action.capitalize())
        monkeypatch.setattr(kind, "run", lambda self: ran.append(type(self).__name__) or 0)
    for action, examples in EXAMPLES.items():
        assert main(["index", action, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.strip() for line in lines[-2:]] == list(examples)
        assert len(lines) <= 40
        for example in examples:
            ran.clear()
            assert main(shlex.split(example)[1:]) == 0
            assert ran == [action.capitalize()]
    assert main(["index", "--help"]) == 0
    assert capsys.readouterr().out.endswith("".join(f"  {one}\n" for one in VERBS["index"][2]))


def test_what_may_be_left_out_looks_so(capsys: pytest.CaptureFixture[str]) -> None:
    for action, name in (("sync", "[FOLDER]"), ("build", "[FOLDER]"), ("captions", "[FILE]")):
        assert main(["index", action, "--help"]) == 0
        assert name in capsys.readouterr().out.splitlines()[0]


def test_who_stops_it_is_told_how_to_go_on(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("patchword.index.syncing.sync_locked", stop)
    assert main(["index", "sync", str(index)]) == 130
    assert capsys.readouterr().err == f"what is indexed stays. Go on with: patchword index sync {index}\nstopped\n"


def test_captions_are_forgotten_without_others(
    index: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_captions(index, tmp_path / "c.txt")
    assert "Name a file" in refused(["index", "captions", index], capsys, kind="ConfigError")
    assert main(["index", "captions", str(index), "--clear"]) == 0
    assert f"; 2 older ones were forgotten. '{index}' holds 0 captions." in capsys.readouterr().out
    assert main(["index", "captions", str(index), str(tmp_path / "c.txt"), "--clear"]) == 0
    assert "found 2 = 2 indexed" in capsys.readouterr().out


def test_an_export_keeps_the_items_of_another(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_captions(index, tmp_path / "c.txt")
    out = tmp_path / "ex.npz"
    words = ["index", "export", str(index), "-o"]
    assert main([*words, str(out)]) == 0
    kept = out.with_suffix(".jsonl").read_bytes()
    said = refused([*words, tmp_path / "ex.safetensors", "--kind", "caption"], capsys, kind="ConfigError")
    assert said.startswith(
        f"ConfigError: '{tmp_path / 'ex.jsonl'}' holds the items of '{out}', and would be overwritten"
    )
    assert out.with_suffix(".jsonl").read_bytes() == kept
    assert not (tmp_path / "ex.safetensors").exists()
    assert main([*words, str(out), "--kind", "caption"]) == 0  # the same name is replaced as a whole
    assert b"a cat and a tree" in out.with_suffix(".jsonl").read_bytes()
    (tmp_path / "mine.jsonl").write_text("mine\n", encoding="utf-8")
    assert "is there already" in refused([*words, tmp_path / "mine.npz"], capsys, kind="ConfigError")
