"""Where the graphs of captions come from: a PENMAN or text file, or a parser (`dependency_graphs`: a dependency parse).

No parser is part of this library. The main path is a PENMAN file that was made elsewhere; amrlib is imported only when
it is used, with a model that lies in a local folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from patchword.data.penman import Graph, parse_graphs, read_graphs
from patchword.data.text_files import read_lines
from patchword.errors import ConfigError, DataError


@runtime_checkable
class GraphSource(Protocol):
    """Gives a graph, or None, for each caption of a split."""

    def graphs(self, captions: Sequence[str]) -> list[Graph | None]:
        """Graphs in caption order."""
        ...


@dataclass(frozen=True)
class PenmanFile:
    """Graphs of a PENMAN file, one per caption, bound by an integer ``::id`` where all have one, else by order."""

    path: Path

    def graphs(self, captions: Sequence[str]) -> list[Graph | None]:
        """Graphs in caption order.

        Raises:
            DataError: there are more or fewer graphs than captions, ids repeat or are out of range, or a ``::snt`` is
                another sentence.
        """
        found = read_graphs(self.path)
        if len(found) != len(captions):
            raise DataError(
                f"'{self.path}' has {len(found):,} graphs for {len(captions):,} captions. Expected one for each; "
                "a caption without a graph is a block of comments ('# ::id N') alone."
            )
        order = self._order(found)
        graphs: list[Graph | None] = [None] * len(captions)
        for place, graph in zip(order, found, strict=True):
            sentence = graph.metadata.get("snt")
            if sentence is not None and _folded(sentence) != _folded(captions[place]):
                raise DataError(
                    f"'{self.path}': graph {place} is of {sentence!r}, but caption {place} is {captions[place]!r}. "
                    "Expected the same sentence; make the graphs of these captions, in their order."
                )
            graphs[place] = graph if graph.top is not None else None
        return graphs

    def _order(self, found: Sequence[Graph]) -> list[int]:
        """The caption of each graph."""
        ids = [graph.metadata.get("id", "") for graph in found]
        if not all(re.fullmatch(r"\d+", name) for name in ids):
            return list(range(len(found)))
        numbers = [int(name) for name in ids]
        taken: set[int] = set()
        for number in numbers:
            if number in taken or number >= len(found):
                raise DataError(
                    f"'{self.path}': `::id {number}` repeats or is out of range. "
                    f"Expected each of 0..{len(found) - 1} once."
                )
            taken.add(number)
        return numbers


def _folded(sentence: str) -> str:
    """A sentence without case and white space."""
    return "".join(sentence.split()).casefold()


@dataclass(frozen=True)
class TextFile:
    """One line per caption: a linearised graph, or a sentence made from it; an empty line is no graph."""

    path: Path

    def texts(self, captions: Sequence[str]) -> list[str]:
        """Lines in caption order.

        Raises:
            DataError: there are more or fewer lines than captions.
        """
        lines = read_lines(self.path)
        if len(lines) != len(captions):
            raise DataError(
                f"'{self.path}' has {len(lines):,} lines for {len(captions):,} captions. Expected one line for each "
                "caption, empty where there is no graph."
            )
        return lines


@dataclass(frozen=True)
class Parser:
    """Graphs that a function makes of sentences; what it gives None for, or can not be read, has no graph.

    Attributes:
        parse: sentences to PENMAN texts.
    """

    parse: Callable[[list[str]], Sequence[str | None]]

    def graphs(self, captions: Sequence[str]) -> list[Graph | None]:
        """Graphs in caption order; a text without any or with a broken graph counts as None."""
        graphs: list[Graph | None] = []
        for text in self.parse(list(captions)):
            try:
                found = parse_graphs(text or "")
            except DataError:
                found = []
            graphs.append(next((graph for graph in found if graph.top is not None), None))
        return graphs


def amrlib_parser(model: Path, tokenizer: Path | None = None, *, device: str = "cpu", beams: int = 1) -> Parser:
    """An amrlib sentence-to-graph model of a local folder. Nothing is downloaded.

    Args:
        model: folder with ``amrlib_meta.json``, configuration and weights.
        tokenizer: folder of the base model's tokeniser; None takes ``model``.
        device: where it runs.
        beams: of its search.

    Raises:
        ConfigError: amrlib is not installed, or the folder is no model.
    """
    if not (model / "amrlib_meta.json").is_file():
        raise ConfigError(f"'{model}' is no amrlib model. Expected a folder with amrlib_meta.json.")
    try:
        amrlib: Any = import_module("amrlib")
    except ImportError as error:
        raise ConfigError(
            f"amrlib can not be imported ({error}). Install it: pip install --no-deps amrlib penman smatch unidecode."
        ) from None
    loaded = amrlib.load_stog_model(
        model_dir=str(model), tok_name_or_path=str(tokenizer or model), device=device, num_beams=beams
    )
    return Parser(lambda sentences: loaded.parse_sents(sentences, add_metadata=False))
