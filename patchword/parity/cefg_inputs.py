"""Golden cases of what CEFG reads beside features: the adjacency of boxes, and graphs in PENMAN notation."""

from __future__ import annotations

from typing import Any

from patchword.data.adjacency import Sectors, box_adjacency
from patchword.data.penman import Graph, parse_graphs
from patchword.parity.cases import Case, Ledger

SECTORS: dict[str, Sectors] = {"released": "left", "all_sectors": "all"}


def compare_adjacency(case: Case) -> Ledger:
    """Boxes to adjacency, exactly, in every variant of the case."""
    ledger = Ledger(case)
    sizes = ledger.input("in.image_wh")
    boxes = ledger.input("in.boxes_xyxy") / sizes.repeat(1, 2)[:, None]
    ledger.use("special")
    for variant, sectors in SECTORS.items():
        found = box_adjacency(boxes, sectors)
        name = f"out.adj_{variant}"
        if name in case.tensors:
            ledger.exact(name, found.to(case.tensors[name].dtype), case.tensors[name])
        listed = case.fields.get("ones_per_row", {}).get(variant)
        if listed is not None:
            ones = found.sum(2)
            ledger.exact(f"ones_per_row.{variant}", [int(ones.min()), int(ones.max())], listed)
    if "n_region" in case.config:
        ledger.exact("config.n_region", boxes.shape[1], case.config["n_region"])
    return ledger


def compare_penman(case: Case) -> Ledger:
    """One PENMAN file to graphs, exactly."""
    ledger = Ledger(case)
    ledger.use("file_text", "oracle")
    graphs = parse_graphs(case.fields["file_text"])
    expected = case.fields["graphs"]
    ledger.exact("graphs", len(graphs), len(expected), note="number of graphs")
    for k, (graph, wanted) in enumerate(zip(graphs, expected, strict=False)):
        found = _plain(graph)
        for key in wanted:
            ledger.exact(f"graphs.{k}.{key}", found.get(key), wanted[key])
    return ledger


def _plain(graph: Graph) -> dict[str, Any]:
    """A graph as JSON has it."""
    return {
        "metadata": graph.metadata,
        "top": graph.top,
        "nodes": [list(node) for node in graph.nodes],
        "edges": [list(edge) for edge in graph.edges],
        "attributes": [list(attribute) for attribute in graph.attributes],
    }
