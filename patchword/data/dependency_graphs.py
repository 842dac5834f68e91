"""Graphs from dependency parses: not AMR, but the content words of a caption and the dependencies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from patchword.data.penman import Graph
from patchword.data.text_files import read_text
from patchword.errors import DataError

CONTENT = frozenset({"NOUN", "PROPN", "VERB", "ADJ", "ADV", "NUM"})


class Token(NamedTuple):
    """A word of a parsed sentence.

    Attributes:
        lemma: in lower case.
        kind: universal part of speech.
        head: position of the word it depends on, -1 for a root.
        relation: kind of that dependency.
    """

    lemma: str
    kind: str
    head: int
    relation: str


def graph_of(tokens: Sequence[Token]) -> Graph | None:
    """Content words with an edge from the nearest content word above; None without any.

    Example:
        >>> parsed = [Token("a", "DET", 1, "det"), Token("dog", "NOUN", 2, "nsubj"), Token("run", "VERB", -1, "root")]
        >>> graph_of(parsed).edges, graph_of(parsed).top
        ((('w2', ':nsubj', 'w1'),), 'w2')
    """
    kept = [k for k, token in enumerate(tokens) if token.kind in CONTENT]
    if not kept:
        return None
    edges = []
    for k in kept:
        head, steps = tokens[k].head, 0
        while head >= 0 and head not in kept and steps < len(tokens):
            head, steps = tokens[head].head, steps + 1
        if head in kept and head != k:
            edges.append((f"w{head}", f":{tokens[k].relation}", f"w{k}"))
    below = {target for _, _, target in edges}
    top = next((f"w{k}" for k in kept if f"w{k}" not in below), f"w{kept[0]}")
    lemmas = {f"w{k}": tokens[k].lemma for k in kept}
    children = {name: [target for source, _, target in edges if source == name] for name in lemmas}
    order: list[str] = []
    waiting = [*reversed([name for name in lemmas if name != top and name not in below]), top]
    while waiting:
        name = waiting.pop()
        if name not in order:
            order.append(name)
            waiting += reversed(children[name])
    order += [name for name in lemmas if name not in order]
    return Graph(top, tuple((name, lemmas[name]) for name in order), tuple(edges), metadata={"kind": "dependencies"})


@dataclass(frozen=True)
class ConlluFile:
    """Graphs of a CoNLL-U file, the form in which every dependency parser writes: one sentence for each caption."""

    path: Path

    def graphs(self, captions: Sequence[str]) -> list[Graph | None]:
        """Graphs in caption order; None for a sentence without content words.

        Raises:
            DataError: there are more or fewer sentences than captions, or a line is no CoNLL-U.
        """
        sentences = self._sentences()
        if len(sentences) != len(captions):
            raise DataError(
                f"'{self.path}' has {len(sentences):,} sentences for {len(captions):,} captions. Expected one for "
                "each: parse every caption as one sentence."
            )
        return [graph_of(tokens) for tokens in sentences]

    def _sentences(self) -> list[list[Token]]:
        sentences: list[list[Token]] = [[]]
        for number, line in enumerate(read_text(self.path).split("\n"), start=1):
            if not line.strip():
                sentences.append([])
            elif not line.startswith("#"):
                fields = line.split("\t")
                if len(fields) != 10:
                    raise DataError(f"'{self.path}' line {number} has {len(fields)} fields. Expected CoNLL-U's ten.")
                if fields[0].isdigit():  # 3-4 is a word written together, 3.1 one left out
                    sentences[-1].append(self._token(fields, number))
        return [tokens for tokens in sentences if tokens]

    def _token(self, fields: Sequence[str], number: int) -> Token:
        _, form, lemma, kind, _, _, head, relation, _, _ = fields
        if not head.isdigit():
            raise DataError(
                f"'{self.path}' line {number}: the head is {head!r}. Expected a number: parse the sentences."
            )
        return Token((form if lemma == "_" else lemma).lower(), kind, int(head) - 1, relation)
