"""What is made of the graphs of captions: word lists, neighbours of words, and token ids as a side input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.data.graphs import GraphSource, PenmanFile, TextFile
from patchword.data.penman import Graph
from patchword.data.table import Extra
from patchword.data.tokenizers import Tokenizer
from patchword.errors import DataError


def node_words(concept: str | None) -> list[str]:
    """Words of a concept or constant: without its sense, quotes and case, cut at hyphens.

    Example:
        >>> node_words("ice-cream"), node_words("run-02"), node_words('"O\\'Neil"'), node_words("-")
        (['ice', 'cream'], ['run'], ["o'neil"], [])
    """
    plain = re.sub(r"-\d\d+$", "", (concept or "").strip('"').lower())
    return [word for word in plain.split("-") if word]


def graph_words(graph: Graph | None) -> list[str]:
    """Words of all nodes, depth first from the top, each node once with its constants; roles are left out.

    Example:
        >>> from patchword.data.penman import parse_graphs
        >>> (graph,) = parse_graphs('(s / shear-01 :ARG0 (w / woman) :ARG1 (l / lamb :quant 2) :ARG2 w)')
        >>> graph_words(graph), graph_words(None)
        (['shear', 'woman', 'lamb', '2'], [])
    """
    if graph is None:
        return []
    constants: dict[str, list[str]] = {}
    for variable, _, value in graph.attributes:
        constants.setdefault(variable, []).extend(node_words(value))
    words: list[str] = []
    seen: set[str] = set()
    for variable, concept in graph.nodes:
        words += node_words(concept)
        words += constants.get(variable, []) if variable not in seen else []
        seen.add(variable)
    return words


def word_neighbours(graph: Graph | None, words: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which words of a caption are neighbours in its graph, as compressed rows.

    Every node goes to the word that it shares most letters with from the start (all of the shorter one but its last
    letter, at least three); a word takes one node. Nodes without a word are passed through: their neighbours become
    neighbours of each other. The result is symmetric, and every word is its own neighbour.

    Returns:
        ``starts`` (one more than there are words) and ``places``: the neighbours of word w are
        ``places[starts[w]:starts[w + 1]]``, ascending.

    Example:
        >>> from patchword.data.penman import parse_graphs
        >>> (graph,) = parse_graphs("(s / shear-01 :ARG0 (p / person :mod (w / woman)) :ARG1 (l / lamb))")
        >>> starts, places = word_neighbours(graph, ["a", "woman", "shears", "a", "lamb"])
        >>> starts.tolist(), places.tolist()
        ([0, 1, 3, 6, 7, 9], [0, 1, 2, 1, 2, 4, 3, 2, 4])
    """
    near: list[set[int]] = [{k} for k in range(len(words))]
    if graph is not None:
        word_of = align(graph, words)
        links: dict[str, set[str]] = {variable: set() for variable, _ in graph.nodes}
        for source, _, target in graph.edges:
            links.setdefault(source, set()).add(target)
            links.setdefault(target, set()).add(source)
        for variable in list(links):
            if variable in word_of:
                continue
            around = links.pop(variable) - {variable}
            for other in around:
                links[other] = (links[other] | around) - {other, variable}
        for variable, others in links.items():
            near[word_of[variable]] |= {word_of[other] for other in others}
    rows = [sorted(row) for row in near]
    starts = np.cumsum([0, *map(len, rows)])
    return starts.astype(np.int64), np.asarray([place for row in rows for place in row], dtype=np.int64)


def align(graph: Graph, words: Sequence[str]) -> dict[str, int]:
    """The word of each node that has one; the best pairs first, then the order of nodes and of words."""
    texts: dict[str, list[str]] = {}
    for variable, concept in graph.nodes:
        texts.setdefault(variable, []).extend(node_words(concept))
    for variable, _, value in graph.attributes:
        texts.setdefault(variable, []).extend(node_words(value))
    pairs = []
    for n, (variable, parts) in enumerate(texts.items()):
        for w, word in enumerate(words):
            shared = max((_shared(part, word.lower()) for part in parts), default=0.0)
            if shared:
                pairs.append((-shared, n, w, variable))
    found: dict[str, int] = {}
    taken: set[int] = set()
    for _, _, w, variable in sorted(pairs):
        if variable not in found and w not in taken:
            found[variable] = w
            taken.add(w)
    return found


def _shared(part: str, word: str) -> float:
    """How well two words agree: 1 when equal, less when only their beginnings do, 0 when they do not."""
    if part == word:
        return 1.0
    common = 0
    while common < min(len(part), len(word)) and part[common] == word[common]:
        common += 1
    enough = common >= 3 and common >= min(len(part), len(word)) - 1
    return common / (max(len(part), len(word)) + 1) if enough else 0.0


@dataclass(frozen=True)
class GraphTexts:
    """The graphs of a split as texts, not yet token ids: the model's tokeniser makes those.

    The file is read when ``bind`` is called, so a method without graphs never reads it.

    Attributes:
        source: where they come from.
        captions: of the whole split as it lies on disk.
        rows: item i is caption ``rows[i]`` of it.
    """

    source: GraphSource | TextFile
    captions: tuple[str, ...]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, items: Sequence[int]) -> GraphTexts:
        """Those of a subset of the captions."""
        return GraphTexts(self.source, self.captions, self.rows[np.asarray(items, dtype=np.int64)])

    def texts(self) -> list[str]:
        """The text of every item; empty where there is no graph."""
        if isinstance(self.source, TextFile):
            texts = self.source.texts(self.captions)
        else:
            texts = [" ".join(graph_words(graph)) for graph in self.source.graphs(self.captions)]
        return [texts[row] for row in self.rows]

    def bind(self, tokenizer: Tokenizer) -> GraphTokens:
        """Token ids under a tokeniser.

        Raises:
            DataError: the file does not fit the captions.
        """
        return GraphTokens([tokenizer.join(tokenizer.units(text)) if text else [] for text in self.texts()])

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Refused: without a tokeniser there are no ids.

        Raises:
            DataError: always.
        """
        raise DataError("the graphs of captions have no token ids before they are bound to a tokeniser.")


@dataclass(frozen=True)
class GraphTokens:
    """Token ids of the graph of every caption, between the tokeniser's special tokens; none without a graph."""

    ids: list[list[int]]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, items: Sequence[int]) -> GraphTokens:
        """Those of a subset of the captions."""
        return GraphTokens([self.ids[k] for k in items])

    def read(self, items: Sequence[int]) -> dict[str, Tensor]:
        """``graph`` (B, A), padded with 0, and ``graph_lengths`` (B,)."""
        rows = [self.ids[k] for k in items]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        tokens = torch.zeros(len(rows), max(1, max(map(len, rows), default=0)), dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return {"graph": tokens, "graph_lengths": lengths}


def find_graphs(folder: Path, split: str, captions: Sequence[str]) -> dict[str, Extra]:
    """The side input ``graph`` of a split, from ``{split}_amr.penman``, else ``{split}_amr_caps.txt``; {} without."""
    places: list[PenmanFile | TextFile] = [
        PenmanFile(folder / f"{split}_amr.penman"),
        TextFile(folder / f"{split}_amr_caps.txt"),
    ]
    for source in places:
        if source.path.is_file():
            return {"graph": GraphTexts(source, tuple(captions), np.arange(len(captions), dtype=np.int64))}
    return {}


def bind_tokens(extra: Extra, tokenizer: Tokenizer) -> Extra:
    """A side input that can be read: graphs get their token ids, everything else is as it was."""
    return extra.bind(tokenizer) if isinstance(extra, GraphTexts) else extra
