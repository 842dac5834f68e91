"""``patchword prepare graphs``: the graphs of all captions of a data set, made once and kept in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from patchword.data.features import RegionFeatures
from patchword.data.graphs import GraphSource
from patchword.data.open import open_split, splits_of
from patchword.data.penman import to_penman
from patchword.errors import DataError
from patchword.files import write_whole


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
    """Write ``{split}_amr.penman`` beside the features, for every split that there are graphs of.

    Each file is complete or not there at all; a caption without a graph is a block of comments alone.

    Args:
        root: data folder.
        source: from the name of a split to what gives its graphs; None leaves the split out.
        name: data set in the folder.

    Raises:
        DataError: no split has graphs, or they do not fit the captions.
    """
    written = []
    names = splits_of(root, name=name)
    for split_name in names:
        graphs_of = source(split_name)
        if graphs_of is None:
            continue
        split = open_split(root, split_name, name=name)
        graphs = graphs_of.graphs(split.captions)
        blocks = [
            f"# ::id {number}\n# ::snt {caption}\n{'' if graph is None else to_penman(graph)}".rstrip() + "\n"
            for number, (caption, graph) in enumerate(zip(split.captions, graphs, strict=True))
        ]
        features = split.images.path.parent if isinstance(split.images, RegionFeatures) else Path(root)
        path = features / f"{split_name}_amr.penman"
        write_whole(path, "\n".join(blocks))
        written.append(WrittenGraphs(path, split.n_captions, sum(graph is None for graph in graphs)))
    if not written:
        raise DataError(f"'{root}': there are graphs of no split. Expected a file for one of {', '.join(names)}.")
    return written
