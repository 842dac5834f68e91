"""Meaning graphs (AMR) from PENMAN notation: ``(w / want-01 :ARG0 (b / boy) :ARG1 (g / go-02 :ARG0 b))``.

What comes out is what the ``penman`` package gives with its default model: inverse roles are turned round
(``:ARG0-of``, and ``:part-of`` as well), alignments are dropped, edges lead to variables and attributes to constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from patchword.data.text_files import read_text
from patchword.errors import DataError

MAX_DEPTH = 200  # of nested nodes; real graphs have up to about 30

_TOKEN = re.compile(
    r"""
    (?P<comment>\#.*)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<open>\() | (?P<close>\)) | (?P<slash>/)
    | (?P<role>:[^\s"()/:~]*)
    | (?P<alignment>~(?:[a-z]\.?)?[0-9]+(?:,[0-9]+)*)
    | (?P<symbol>[^\s"()/:~]+)
    | (?P<other>\S)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Graph:
    """A rooted graph of concepts.

    Attributes:
        top: variable of the root; None for a graph without nodes.
        nodes: (variable, concept), depth first from the root; a concept may be missing.
        edges: (variable, role, variable), inverse roles turned round.
        attributes: (variable, role, constant); quotes are kept.
        metadata: of the comment lines before it, such as ``id`` and ``snt``.
    """

    top: str | None
    nodes: tuple[tuple[str, str | None], ...] = ()
    edges: tuple[tuple[str, str, str], ...] = ()
    attributes: tuple[tuple[str, str, str | None], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


@dataclass
class _Node:
    """A node as written: its variable and what follows, in order."""

    variable: str
    concept: str | None = None
    branches: list[tuple[str, str | _Node | None]] = field(default_factory=list)


def parse_graphs(text: str, where: str = "PENMAN text") -> list[Graph]:
    """All graphs of a text. A block of comments with an ``id`` or ``snt`` but no graph is a graph without nodes.

    Raises:
        DataError: naming the line that is no PENMAN notation.

    Example:
        >>> (graph,) = parse_graphs('(d / dog :ARG0-of (r / run-02) :quant 2)')
        >>> graph.nodes, graph.edges, graph.attributes
        ((('d', 'dog'), ('r', 'run-02')), (('r', ':ARG0', 'd'),), (('d', ':quant', '2'),))
    """
    tokens = _Reader(text, where)
    graphs: list[Graph] = []
    metadata: dict[str, str] = {}
    while True:
        token = tokens.next()
        if token.kind == "open":
            graphs.append(_interpret(_read_node(tokens, 1), metadata))
            metadata = {}
        elif token.kind == "comment":
            metadata |= _metadata(token.text)
        elif token.kind in ("blank", "end"):
            if metadata.keys() & {"id", "snt"}:
                graphs.append(Graph(None, metadata=metadata))
            metadata = {}
            if token.kind == "end":
                return graphs
        else:
            raise tokens.error(token, "'(' or a comment")


def read_graphs(path: Path) -> list[Graph]:
    """All graphs of a PENMAN file.

    Raises:
        DataError: the file is missing or damaged; the message names the line.
    """
    return parse_graphs(read_text(path), f"'{path}'")


def to_penman(graph: Graph) -> str:
    """A graph in PENMAN notation, on one line; parts without a way from the root hang below ``multi-sentence``.

    Example:
        >>> to_penman(parse_graphs("(d / dog :ARG0-of (r / run-02 :time (n / now)) :quant 2)")[0])
        '(d / dog :quant 2 :ARG0-of (r / run-02 :time (n / now)))'
    """
    written, told = set[str](), set[int]()
    concepts = dict(graph.nodes)

    def node(name: str) -> str:
        written.add(name)
        concept = concepts[name]
        parts = [name if concept is None else f"{name} / {_symbol(concept)}"]
        parts += [f"{role} {value}" for source, role, value in graph.attributes if source == name and value is not None]
        for number, (source, role, target) in enumerate(graph.edges):
            if number in told or (source != name and (target != name or source in written)):
                continue
            told.add(number)
            if source == name:
                parts.append(f":{_symbol(role[1:])} {target if target in written else node(target)}")
            else:
                parts.append(f":{_symbol(role[1:])}-of {node(source)}")
        return f"({' '.join(parts)})"

    if graph.top is None:
        return ""
    trees = [node(graph.top)]
    trees += [node(name) for name, _ in graph.nodes if name not in written]
    if len(trees) == 1:
        return trees[0]
    joined = " ".join(f":snt{k} {tree}" for k, tree in enumerate(trees, start=1))
    return f"(multi / multi-sentence {joined})"


def _symbol(text: str) -> str:
    """A word without the characters that mean something in PENMAN."""
    return re.sub(r'^#|[\s"()/:~]+', "-", text)  # a "#" at the start begins a comment


class _Reader:
    """Tokens with their lines; empty lines and the end are tokens too."""

    def __init__(self, text: str, where: str) -> None:
        self.where, self._tokens = where, self._scan(text)

    def _scan(self, text: str) -> Iterator[_Token]:
        number = 0
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                yield _Token("blank", "", number)
            for match in _TOKEN.finditer(line):
                yield _Token(str(match.lastgroup), match.group(), number)
        while True:
            yield _Token("end", "", number)

    def next(self, *, inside: bool = False) -> _Token:
        """The next token; ``inside`` a graph, comments and empty lines mean nothing."""
        token = next(self._tokens)
        while inside and token.kind in ("blank", "comment"):
            token = next(self._tokens)
        return token

    def error(self, token: _Token, expected: str) -> DataError:
        """What is wrong at a token."""
        found = "the end of the text" if token.kind == "end" else repr(token.text or "an empty line")
        return DataError(f"{self.where} line {token.line}: found {found}. Expected {expected}.")


def _metadata(comment: str) -> dict[str, str]:
    """``# ::id 3 ::snt A dog .`` -> id and snt; of equal keys the first counts."""
    found: dict[str, str] = {}
    for part in comment.split("::")[:0:-1]:
        key, _, value = part.partition(" ")
        found[key] = value.rstrip()
    return found


def _read_node(tokens: _Reader, depth: int) -> _Node:
    """The rest of a node whose bracket was read."""
    token = tokens.next(inside=True)
    if depth > MAX_DEPTH:
        raise DataError(f"{tokens.where} line {token.line}: nodes are nested more than {MAX_DEPTH} deep.")
    if token.kind != "symbol":
        raise tokens.error(token, "a variable")
    node = _Node(token.text)
    token = tokens.next(inside=True)
    if token.kind == "slash":
        token = tokens.next(inside=True)
        if token.kind in ("symbol", "text"):
            node.concept = token.text
            token = _after_alignment(tokens)
    while token.kind == "role":
        role, token = token.text, _after_alignment(tokens)
        target: str | _Node | None = None
        if token.kind == "open":
            target, token = _read_node(tokens, depth + 1), tokens.next(inside=True)
        elif token.kind in ("symbol", "text"):
            target, token = token.text, _after_alignment(tokens)
        elif token.kind not in ("role", "close"):
            raise tokens.error(token, f"what `{role}` of `{node.variable}` leads to")
        node.branches.append((role, target))
    if token.kind != "close":
        raise tokens.error(token, f"a role, or ')' after `{node.variable}`")
    return node


def _after_alignment(tokens: _Reader) -> _Token:
    """The next token that is no alignment (``~e.4``)."""
    token = tokens.next(inside=True)
    return tokens.next(inside=True) if token.kind == "alignment" else token


def _nested(node: _Node) -> Iterator[_Node]:
    """A node and all below it, depth first."""
    yield node
    for _, target in node.branches:
        if isinstance(target, _Node):
            yield from _nested(target)


def _interpret(top: _Node, metadata: dict[str, str]) -> Graph:
    """The graph that a tree of nodes stands for."""
    everything = list(_nested(top))
    variables = {node.variable for node in everything}
    edges: list[tuple[str, str, str]] = []
    attributes: list[tuple[str, str, str | None]] = []

    def walk(node: _Node) -> None:
        for role, target in node.branches:
            name = target.variable if isinstance(target, _Node) else target
            if name is None or name not in variables:
                attributes.append((node.variable, role, name))
            elif role.endswith("-of"):
                edges.append((name, role.removesuffix("-of"), node.variable))
            else:
                edges.append((node.variable, role, name))
            if isinstance(target, _Node):
                walk(target)

    walk(top)
    nodes = tuple((node.variable, node.concept) for node in everything)
    return Graph(top.variable, nodes, tuple(edges), tuple(attributes), dict(metadata))
