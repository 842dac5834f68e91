"""Whether the files give the numbers of the model: a random batch through both."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchword.errors import ExportError
from patchword.export.ports import CaptionGraph, ImageGraph

TOLERANCE = 1e-4
COMPARED_LENGTHS = (12, 7, 2, 4)  # no set of one, which `short_sets: reference` lets change the sets behind it


def runtime_version() -> str | None:
    """The version of onnxruntime that is installed; None without one."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    version: str = onnxruntime.__version__
    return version


@torch.no_grad()
def difference(graph: ImageGraph | CaptionGraph, path: Path) -> float:
    """Largest difference between a file and the model on a random batch.

    Vectors of free length may be long: with any number above 1 among them, the difference is divided by the largest.

    Args:
        graph: over the method as it is.
        path: the file.

    Raises:
        ExportError: the sizes of the sets differ, or the difference is above 1e-4.
    """
    import onnxruntime

    runtime: Any = onnxruntime
    lengths = [min(n, graph.most or n) for n in COMPARED_LENGTHS]
    inputs = graph.draw(lengths, seed=1)
    place = next(graph.method.parameters()).device
    batch: Any = graph.batch(*(value.to(place) for value in inputs))
    method = graph.method
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CEFG would remark on regions of made-up images with many neighbours
        encoded = method.encode_images(batch) if isinstance(graph, ImageGraph) else method.encode_captions(batch)
    expected = encoded.float().to("cpu").padded()[0].numpy()  # (N, S, D)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()  # those it has by default wait for one another in a loop
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {port.name: value.numpy() for port, value in zip(graph.inputs, inputs, strict=True)}
    sets, sizes = session.run(["sets", "set_lengths"], given)
    size = expected.shape[1]
    if not np.array_equal(sizes, encoded.lengths.cpu().numpy()) or sets.shape[1] < size:
        raise ExportError(
            f"'{path.name}' gives sets of {sizes.tolist()} vectors where the model gives {encoded.lengths.tolist()}. "
            "Nothing was written."
        )
    found = float(np.abs(sets[:, :size] - expected).max(initial=np.abs(sets[:, size:]).max(initial=0.0)))
    found /= max(1.0, float(np.abs(expected).max()))
    if not found <= TOLERANCE:
        raise ExportError(
            f"'{path.name}' differs from the model by {found:.1e} on a random batch, more than {TOLERANCE:.0e}. "
            "Nothing was written. Try another version of torch, onnxscript or onnxruntime."
        )
    return found
