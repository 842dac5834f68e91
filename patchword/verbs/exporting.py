"""The verb that writes a model's encoders for other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.output import note, say, say_json


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")],
    json: bool = False,
) -> int:
    """Write the image encoder and the text encoder of a run or checkpoint as ONNX files, and compare them with it.

    Args:
        run: run or checkpoint folder.
        out: folder to write: images.onnx, captions.onnx, export.json and the vocabulary.
        json: print JSON.
    """
    from patchword.export.run import export as export_model
    from patchword.store.layout import is_index

    if is_index(run):
        raise ConfigError(f"'{run}' is an index, not a model. Its vectors: patchword index export {run} -o FILE.npz")
    found = export_model(run, out)
    for one in found.notes:
        note(f"note: {one}")
    if found.runtime is None:
        note("not verified: pip install onnxruntime")
    if json:
        say_json(asdict(found))
        return 0
    sizes = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in found.files.items())
    say(f"wrote '{out}': {sizes}")
    if found.runtime is not None:
        apart = ", ".join(f"{items} {value:.1e}" for items, value in found.differences.items())
        say(f"largest difference from the model on a random batch: {apart} (onnxruntime {found.runtime})")
    return 0
