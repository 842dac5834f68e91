"""From an encoder to an ONNX file, through torch's tracer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxtyping
import torch

from patchword.errors import ConfigError, ExportError
from patchword.export.ports import CaptionGraph, ImageGraph

LARGEST = 1 << 30  # bytes of weights that lie inside the file; larger ones lie beside it (a file can hold 2 GiB)
TRACED_LENGTHS = (5, 3, 2)  # of the batch that is traced; any other batch will do afterwards


def require_packages() -> None:
    """Refuse to begin without the packages that write ONNX.

    Raises:
        ConfigError: naming the one that is missing.
    """
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise ConfigError(f"{name} is not installed. In a clone of patchword: pip install '.[export]'")


def write_graph(graph: ImageGraph | CaptionGraph, path: Path) -> tuple[int, list[int | str]]:
    """Trace an encoder and write it.

    Args:
        graph: over a method that is ``traceable``.
        path: of the ``.onnx`` file; with more than 1 GiB of weights these are beside it, as ``.onnx.data``.

    Returns:
        The version of ONNX's operators, and the shape of the vector sets: names where a size is free.

    Raises:
        ExportError: torch can not trace the encoder.
    """
    lengths = tuple(min(n, graph.most or n) for n in TRACED_LENGTHS)
    inputs = graph.draw(lengths, seed=0)
    axes = tuple({k: n for k, n in enumerate(port.shape) if isinstance(n, str)} for port in graph.inputs)
    try:
        with torch.no_grad(), quiet():
            program: Any = torch.onnx.export(
                graph,
                tuple(inputs),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[port.name for port in graph.inputs],
                output_names=["sets", "set_lengths"],
                optimize=False,  # it takes the 1e-8 that is added to a length for nothing, and gives 0 / 0
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "no reason given")
        raise ExportError(f"torch can not trace the encoder of {graph.items}: {reason.strip()[:300]}") from error
    forget_origin(program.model)
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    with quiet():
        program.save(path, external_data=weights > LARGEST)
    shape = [n if isinstance(n, int) else str(n) for n in program.model.graph.outputs[0].shape]
    return int(program.model.opset_imports[""]), shape


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's remarks on its tracing to itself, attention in a form that can be traced, and shapes unchecked.

    While they are traced, sizes are symbols and no numbers.
    """
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    fast, unchecked = torch.backends.mha.get_fastpath_enabled(), jaxtyping.config.jaxtyping_disable
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that ONNX does not have
        jaxtyping.config.update("jaxtyping_disable", True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        jaxtyping.config.update("jaxtyping_disable", unchecked)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def forget_origin(model: Any) -> None:
    """Take out what the tracer remembers of every operator: names of modules, and files of this machine."""
    model.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        _forget(function)
    model.graph.metadata_props.clear()
    _forget(model.graph)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _forget(graph: Any) -> None:
    """Clear the remarks on the operators of a graph and on what they give."""
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
