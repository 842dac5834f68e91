from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from patchword.data.graph_words import (
    GraphTexts,
    bind_tokens,
    find_graphs,
    graph_words,
    node_words,
)
from patchword.data.graphs import Parser, PenmanFile, TextFile
from patchword.data.penman import Graph, parse_graphs, read_graphs
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.errors import DataError

TEXT = """# ::id 1
# ::snt a dog runs
(r / run-02 :ARG0 (d / dog))

# ::id 0 ::snt A  MAN wears a hat.
(w / wear-01
   :ARG0 (m / man~e.1 :quant 2)
   :ARG1 (h / hat :location-of m))

# ::id 2
"""
CAPTIONS = ["a man wears a hat .", "A dog runs", "nothing at all"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------ PENMAN notation


def test_inverse_roles_constants_and_reentrancies() -> None:
    (graph,) = parse_graphs(
        '(a / and :op1 (s / sit-01 :ARG1-of (b / boy :name "A (b) : /")) :op2 b :part-of s :li-of 3)'
    )
    assert graph.top == "a"
    assert graph.nodes == (("a", "and"), ("s", "sit-01"), ("b", "boy"))
    assert graph.edges == (("a", ":op1", "s"), ("b", ":ARG1", "s"), ("a", ":op2", "b"), ("s", ":part", "a"))
    assert graph.attributes == (("b", ":name", '"A (b) : /"'), ("a", ":li-of", "3"))


def test_alignments_comments_and_line_breaks_mean_nothing() -> None:
    plain = parse_graphs("(p / person :location (h / house :mod (o / old)) :polarity -)")
    marked = "(p / person~e.1\n# a remark (with brackets\n\n :location~e.2 (h / house~4,5\n\t:mod~e.1 (o / old))"
    marked += " :polarity -~e.9)"
    assert parse_graphs(marked) == plain


def test_graphs_and_metadata_of_a_file(tmp_path: Path) -> None:
    graphs = read_graphs(write(tmp_path / "x.penman", TEXT))
    assert [graph.top for graph in graphs] == ["r", "w", None]
    assert [graph.metadata for graph in graphs] == [
        {"id": "1", "snt": "a dog runs"},
        {"id": "0", "snt": "A  MAN wears a hat."},
        {"id": "2"},
    ]
    assert parse_graphs("") == parse_graphs("# made by hand\n\n") == []
    assert len(parse_graphs("(a / b)(c / d)\n(e / f)")) == 3


def test_concepts_may_be_missing() -> None:
    (graph,) = parse_graphs("(x :ARG0 (y /) :op1)")
    assert graph.nodes == (("x", None), ("y", None))
    assert graph.attributes == (("x", ":op1", None),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(d / dog", "line 1: found the end of the text. Expected a role, or ')' after `d`"),
        ("\n(d / dog))", "line 2: found ')'. Expected '(' or a comment"),
        ("(d / dog :ARG0 / x)", "line 1: found '/'. Expected what `:ARG0` of `d` leads to"),
        ("(d / dog\n cat)", "line 2: found 'cat'. Expected a role"),
        ("()", "found ')'. Expected a variable"),
        ('(d / dog :op1 "open)', "line 1: found '\"'"),
        ("dog", "found 'dog'. Expected '('"),
        ("(a :b " * 300 + ")" * 300, "nested more than 200 deep"),
    ],
)
def test_broken_notation_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        parse_graphs(text)


# ------------------------------------------------------------------ sources


def test_graphs_are_bound_by_id(tmp_path: Path) -> None:
    found = PenmanFile(write(tmp_path / "x.penman", TEXT)).graphs(CAPTIONS)
    assert [None if graph is None else graph.top for graph in found] == ["w", "r", None]


def test_graphs_are_bound_by_order_without_integer_ids(tmp_path: Path) -> None:
    text = "# ::id f30k.1\n(a / one)\n\n(b / two)\n"
    found = PenmanFile(write(tmp_path / "x.penman", text)).graphs(["x", "y"])
    assert [graph.top for graph in found if graph is not None] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a / one)", "has 1 graphs for 2 captions"),
        ("# ::id 0\n(a / b)\n\n# ::id 0\n(c / d)", "`::id 0` repeats or is out of range. Expected each of 0..1"),
        ("# ::id 0\n(a / b)\n\n# ::id 2\n(c / d)", "`::id 2` repeats"),
        ("# ::snt A cat\n(a / b)\n\n(c / d)", "graph 0 is of 'A cat', but caption 0 is 'a dog'"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        PenmanFile(write(tmp_path / "x.penman", text)).graphs(["a dog", "a man"])


def test_text_files_have_one_line_per_caption(tmp_path: Path) -> None:
    source = TextFile(write(tmp_path / "x.txt", "a dog\n\nman wear hat\n"))
    assert source.texts(["1", "2", "3"]) == ["a dog", "", "man wear hat"]
    with pytest.raises(DataError, match="has 3 lines for 2 captions"):
        source.texts(["1", "2"])


def test_a_parser_that_fails_gives_no_graph() -> None:
    answers = ["(d / dog)", None, "(broken", "", "# ::snt x\n(c / cat)"]
    found = Parser(lambda sentences: answers[: len(sentences)]).graphs(["a"] * 5)
    assert [None if graph is None else graph.top for graph in found] == ["d", None, None, None, "c"]


# ------------------------------------------------------------------ words


def test_words_of_a_graph() -> None:
    (_, graph, _) = parse_graphs(TEXT)
    assert graph_words(graph) == ["wear", "man", "2", "hat"]
    assert graph_words(None) == graph_words(Graph(None)) == []
    assert node_words("multi-sentence") == ["multi", "sentence"]
    assert node_words("have-rel-role-91") == ["have", "rel", "role"]


# ------------------------------------------------------------------ side inputs


def tokenizer() -> WordTokenizer:
    return WordTokenizer(
        Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "wear", "man", "hat", "run", "dog", "<mask>"))
    )


def test_token_ids_of_graphs(tmp_path: Path) -> None:
    write(tmp_path / "train_amr.penman", TEXT)
    write(tmp_path / "train_amr_caps.txt", "never\nlooked\nat\n")
    (extra,) = find_graphs(tmp_path, "train", CAPTIONS).values()
    assert isinstance(extra, GraphTexts)
    bound = bind_tokens(extra, tokenizer())
    assert len(bound) == 3
    found = bound.read([2, 0, 1])
    assert found["graph"].tolist() == [[0] * 6, [1, 4, 5, 3, 6, 2], [1, 7, 8, 2, 0, 0]]
    assert found["graph_lengths"].tolist() == [0, 6, 4]
    assert bound.select([1]).read([0])["graph"].tolist() == [[1, 7, 8, 2]]
    assert bound.read([2])["graph"].shape == (1, 1)
    picked = bind_tokens(extra.select([2, 1]), tokenizer())
    assert picked.read([0, 1])["graph_lengths"].tolist() == [0, 4]


def test_lines_of_a_text_file_are_used_without_penman(tmp_path: Path) -> None:
    write(tmp_path / "train_amr_caps.txt", "dog run\n\nhat\n")
    (extra,) = find_graphs(tmp_path, "train", CAPTIONS).values()
    assert bind_tokens(extra, tokenizer()).read([0, 1, 2])["graph"].tolist() == [[1, 8, 7, 2], [0] * 4, [1, 6, 2, 0]]
    assert find_graphs(tmp_path, "dev", CAPTIONS) == {}


def test_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    write(tmp_path / "train_amr.penman", "(broken")
    (extra,) = find_graphs(tmp_path, "train", CAPTIONS).values()
    with pytest.raises(DataError, match="before they are bound to a tokeniser"):
        extra.read([0])
    with pytest.raises(DataError, match=r"train_amr.penman' line 1"):
        bind_tokens(extra, tokenizer())


def test_other_side_inputs_are_bound_as_they_are() -> None:
    class Plain:
        def __len__(self) -> int:
            return 0

        def read(self, items: object) -> dict[str, Any]:
            return {}

        def select(self, items: object) -> Plain:
            return self

    one = Plain()
    assert bind_tokens(one, tokenizer()) is one
