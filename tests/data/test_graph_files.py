"""Graphs written for a data folder: PENMAN that is read back, from CoNLL-U and from a parser."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import refused, write_precomp

from patchword.cli import main
from patchword.data.dependency_graphs import ConlluFile, Token, graph_of
from patchword.data.graph_files import write_graphs
from patchword.data.graphs import Parser, PenmanFile
from patchword.data.open import open_split
from patchword.data.penman import Graph, parse_graphs, to_penman
from patchword.errors import DataError

ROUNDS = [
    "(d / dog)",
    "(w / want-01 :ARG0 (b / boy :quant 2) :ARG1 (g / go-02 :ARG0 b))",
    "(d / dog :ARG0-of (r / run-02 :time (n / now)) :mod (b / big))",
    '(n / name :op1 "New York" :polarity -)',
    "(a / and :op1 (x / x) :op2 (y / y :part-of x))",
    "(s / see-01 :ARG0 (i / i) :ARG1 i)",
    "(a / a :x (b / b :y a))",
]


def content(graph: Graph) -> tuple[set[object], ...]:
    return set(graph.nodes), set(graph.edges), set(graph.attributes)


@pytest.mark.parametrize("text", ROUNDS)
def test_a_graph_survives_writing(text: str) -> None:
    (graph,) = parse_graphs(text)
    (again,) = parse_graphs(to_penman(graph))
    assert content(again) == content(graph)
    assert again.top == graph.top


def test_parts_without_a_way_from_the_root_are_joined() -> None:
    graph = graph_of([Token("dog", "NOUN", -1, "root"), Token("cat", "NOUN", -1, "root")])
    assert graph is not None
    (again,) = parse_graphs(to_penman(graph))
    assert [concept for _, concept in again.nodes] == ["multi-sentence", "dog", "cat"]


def test_words_that_mean_something_in_penman_are_written_safely() -> None:
    graph = graph_of([Token("a/c (new)", "NOUN", 1, "nmod:poss"), Token('x"y', "VERB", -1, "root")])
    assert graph is not None
    (again,) = parse_graphs(to_penman(graph))
    assert sorted(str(concept) for _, concept in again.nodes) == ["a-c-new-", "x-y"]
    assert again.edges == (("w1", ":nmod-poss", "w0"),)


def write_conllu(path: Path, captions: list[str]) -> Path:
    """Every word depends on the first one; the article is no content word."""
    blocks = []
    for caption in captions:
        lines = [f"# text = {caption}"]
        for k, word in enumerate(caption.split(), start=1):
            kind = "DET" if word in ("a", "the") else "NOUN"
            lines.append("\t".join([str(k), word, word, kind, "_", "_", str(int(k > 1)), "dep", "_", "_"]))
        blocks.append("\n".join([*lines, ""]))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def test_a_data_folder_gets_its_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_precomp(tmp_path / "data")
    captions = {split: open_split(data, split).captions for split in ("train", "test")}
    for split, texts in captions.items():
        write_conllu(tmp_path / "parses" / f"{split}.conllu", texts)
    words = ["prepare", "graphs", str(data), "--conllu", str(tmp_path / "parses")]
    assert main([*words, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [Path(one["path"]).name for one in written] == ["train_amr.penman", "test_amr.penman"]
    for split, texts in captions.items():
        path = data / f"{split}_amr.penman"
        found, wanted = (
            PenmanFile(path).graphs(texts),
            ConlluFile(tmp_path / "parses" / f"{split}.conllu").graphs(texts),
        )
        assert sum(graph is None for graph in found) == sum(graph is None for graph in wanted)
        for graph, original in zip(found, wanted, strict=True):
            if graph is not None and original is not None:
                assert {concept for _, concept in graph.nodes} - {"multi-sentence"} == {c for _, c in original.nodes}
        assert "graph" in open_split(data, split).caption_extras
    assert main(words) == 0
    assert re.search(r"'.*train_amr.penman': [\d,]+ captions, \d+ of them without a graph", capsys.readouterr().out)


def test_dependencies_join_content_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_precomp(tmp_path / "data")
    captions = open_split(data, "dev").captions
    words = [("a", "DET", 2, "det"), ("man", "NOUN", 3, "nsubj"), ("look", "VERB", 0, "root"),
             ("at", "ADP", 3, "prep"), ("dog", "NOUN", 4, "pobj")]  # fmt: skip
    lines = ["\t".join([str(k), w, w, kind, "_", "_", str(head), role, "_", "_"])
             for k, (w, kind, head, role) in enumerate(words, 1)]  # fmt: skip
    empty = "1\tthe\tthe\tDET\t_\t_\t0\troot\t_\t_\n"  # no content word
    (tmp_path / "parses").mkdir()
    blocks = ["\n".join([*lines, ""]), *[empty] * (len(captions) - 1)]
    (tmp_path / "parses" / "dev.conllu").write_text("\n".join(blocks), encoding="utf-8")
    assert main(["prepare", "graphs", str(data), "--conllu", str(tmp_path / "parses")]) == 0
    assert f"{len(captions) - 1} of them without a graph" in capsys.readouterr().out
    graph, *others = PenmanFile(data / "dev_amr.penman").graphs(captions)
    assert graph is not None
    assert graph.top == "w2"
    assert [concept for _, concept in graph.nodes] == ["look", "man", "dog"]
    assert graph.edges == (("w2", ":nsubj", "w1"), ("w2", ":pobj", "w4"))  # past the preposition
    assert others == [None] * (len(captions) - 1)


def test_amrlib_is_asked_for_a_local_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    class Loaded:
        def parse_sents(self, sentences: list[str], add_metadata: bool = True) -> list[str | None]:
            assert not add_metadata
            return [f"(w / {sentence.split()[-1]})" for sentence in sentences]

    def load(**options: Any) -> Loaded:
        asked.update(options)
        return Loaded()

    module = ModuleType("amrlib")
    module.load_stog_model = load  # type: ignore[attr-defined]
    data, model = write_precomp(tmp_path / "data"), tmp_path / "model"
    model.mkdir()
    (model / "amrlib_meta.json").write_text("{}", encoding="utf-8")
    words = ["prepare", "graphs", str(data), "--amrlib", str(model)]
    monkeypatch.setitem(sys.modules, "amrlib", None)
    said = refused(words, capsys, kind="ConfigError")
    assert re.search(r"amrlib can not be imported .* pip install --no-deps amrlib", said)
    monkeypatch.setitem(sys.modules, "amrlib", module)
    assert main(words) == 0
    captions = open_split(data, "dev").captions
    graph = PenmanFile(data / "dev_amr.penman").graphs(captions)[0]
    assert graph is not None
    assert graph.nodes == (("w", captions[0].split()[-1]),)
    assert asked == {"model_dir": str(model), "tok_name_or_path": str(model), "device": "cpu", "num_beams": 1}


def test_a_parser_writes_the_same_way(tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data")
    parser = Parser(lambda sentences: [None if k % 3 == 0 else "(d / dog)" for k in range(len(sentences))])
    written = write_graphs(data, lambda split: parser if split == "dev" else None)
    captions = open_split(data, "dev").captions
    found = PenmanFile(written[0].path).graphs(captions)
    assert [graph is None for graph in found] == [k % 3 == 0 for k in range(len(captions))]
    assert written[0].without == sum(k % 3 == 0 for k in range(len(captions)))


def test_what_can_not_be_used_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_precomp(tmp_path / "data")
    words = ["prepare", "graphs", data]
    assert "needs either --amrlib FOLDER or --conllu FOLDER" in refused(words, capsys, kind="ConfigError")
    assert "is no amrlib model" in refused([*words, "--amrlib", tmp_path], capsys, kind="ConfigError")
    words += ["--conllu", tmp_path / "parses"]
    assert "there are graphs of no split" in refused(words, capsys, kind="DataError")
    write_conllu(tmp_path / "parses" / "dev.conllu", ["a dog"])
    assert "has 1 sentences for" in refused(words, capsys, kind="DataError")
    assert not (data / "dev_amr.penman").exists()
    for text, message in (
        ("1\tdog\n", "line 1 has 2 fields"),
        ("1\tdog\tdog\tNOUN\t_\t_\t_\t_\t_\t_\n", "the head is '_'"),
    ):
        (tmp_path / "parses" / "dev.conllu").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            ConlluFile(tmp_path / "parses" / "dev.conllu").graphs(["a dog"])


def test_a_number_sign_is_no_comment() -> None:
    tokens = [Token("wear", "VERB", -1, "root"), Token("#23", "NOUN", 0, "obj"), Token("c#", "NOUN", 0, "obl")]
    graph = graph_of(tokens)
    assert graph is not None
    (again,) = parse_graphs(to_penman(graph))
    assert [concept for _, concept in again.nodes] == ["wear", "-23", "c#"]


def test_graphs_without_features_are_found_again(tmp_path: Path) -> None:
    home = tmp_path / "f30k"
    (home / "images").mkdir(parents=True)
    captions = ["a sign says 12::30 ::: now", "a dog"]
    (home / "train_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    (home / "train_ids.txt").write_text("x\ny\n", encoding="utf-8")
    for name in "xy":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(home / "images" / f"{name}.png")
    parser = Parser(lambda sentences: ["(d / dog)"] * len(sentences))
    (written,) = write_graphs(tmp_path, lambda split: parser, name="f30k")
    assert written.path == home / "train_amr.penman"
    assert "graph" in open_split(tmp_path, "train", name="f30k").caption_extras
    assert all(graph is not None for graph in PenmanFile(written.path).graphs(captions))


def test_layouts_without_a_place_for_graphs_are_refused(tmp_path: Path) -> None:
    rows = tmp_path / "captions.jsonl"
    rows.write_text('{"image": "a.jpg", "caption": "a dog", "split": "train"}\n', encoding="utf-8")
    for root in (tmp_path, rows):
        with pytest.raises(DataError, match="layout pairs_file, in which graphs have no place"):
            write_graphs(root, lambda split: None)
