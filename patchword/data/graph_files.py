"""``patchword prepare graphs``: the graphs of all captions of a data set, made once and kept in files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from patchword.data.graphs import GraphSource
from patchword.data.open import open_split, place_splits, require_place
from patchword.data.penman import to_penman
from patchword.errors import DataError
from patchword.files import write_whole

LAYOUTS = ("precomp", "raw_tree")  # those in whose folder graphs are looked for


@dataclass(frozen=True)
class WrittenGraphs:
    """One file of graphs.

    Attributes:
        path: the file, PENMAN.
        captions: M.
        without: captions that have no graph.
    """

    path: Path
    captions: int
    without: int


def write_graphs(
    root: Path | str, source: Callable[[str], GraphSource | None], *, name: str | None = None
) -> list[WrittenGraphs]:
    """Write ``{split}_amr.penman`` beside the captions, for every split that there are graphs of.

    Each file is complete or not there at all; a caption without a graph is a block of comments alone.

    Args:
        root: data folder in the precomp or raw-tree layout.
        source: from the name of a split to what gives its graphs; None leaves the split out.
        name: data set in the folder.

    Raises:
        DataError: the layout has no place for graphs, no split has graphs, or they do not fit the captions.
    """
    place, _ = require_place(Path(root), name, None)
    if place.layout.name not in LAYOUTS:
        raise DataError(
            f"'{root}' has the layout {place.layout.name}, in which graphs have no place. "
            f"Expected {' or '.join(LAYOUTS)}: files such as train_caps.txt and train_ids.txt."
        )
    written = []
    names = place_splits(place)
    for split_name in names:
        graphs_of = source(split_name)
        if graphs_of is None:
            continue
        split = open_split(root, split_name, name=name)
        graphs = graphs_of.graphs(split.captions)
        blocks = [
            f"# ::id {number}\n# ::snt {_one_line(caption)}\n{'' if graph is None else to_penman(graph)}".rstrip()
            + "\n"
            for number, (caption, graph) in enumerate(zip(split.captions, graphs, strict=True))
        ]
        path = place.path / f"{split_name}_amr.penman"
        write_whole(path, "\n".join(blocks))
        written.append(WrittenGraphs(path, split.n_captions, sum(graph is None for graph in graphs)))
    if not written:
        raise DataError(f"'{root}': there are graphs of no split. Expected a file for one of {', '.join(names)}.")
    return written


def _one_line(caption: str) -> str:
    """A caption as a comment can hold it: ``::`` begins the next field. Blanks do not count when it is compared.

    Example:
        >>> _one_line("it is 12::30")
        'it is 12: :30'
    """
    return re.sub(":(?=:)", ": ", " ".join(caption.split()))
