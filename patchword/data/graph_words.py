"""What is made of the graphs of captions: word lists, and token ids as a side input."""

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
