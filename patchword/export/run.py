"""A model's encoders as a folder of ONNX files that need no torch and no patchword."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import patchword
from patchword.checkpoint import refuse_others, save_folder
from patchword.errors import ExportError
from patchword.export.about import graph_json, how_to_score, notes_on, pixels_of, settings_of, tokens_of
from patchword.export.graph import require_packages, write_graph
from patchword.export.ports import CaptionGraph, ImageGraph
from patchword.export.sets import why_not
from patchword.export.traced import traceable
from patchword.export.verify import difference, runtime_version
from patchword.loading import load
from patchword.model import Model

ABOUT = "export.json"
FORMAT = 1
_OURS = frozenset(
    [ABOUT, "vocabulary.json", "vocab.txt", "tokenizer_config.json", "tokenizer.json"]
    + [f"{name}.onnx{end}" for name in ("images", "captions") for end in ("", ".data")]
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: that holds it.
        files: in it, with their sizes in bytes.
        runtime: version of the onnxruntime that the files were compared with; None without one.
        differences: largest difference between each graph and the model on a random batch; empty without a runtime.
        notes: what the shapes do not tell.
    """

    folder: Path
    files: dict[str, int]
    runtime: str | None
    differences: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def export(model: Model | Path | str, out: Path | str) -> Exported:
    """Write the two encoders of a model as ONNX, with what is needed to use them.

    ``images.onnx`` and ``captions.onnx`` give what ``Method.encode_images`` and ``encode_captions`` do, as padded
    blocks; ``export.json`` describes them; the vocabulary lies beside them. Where onnxruntime is installed, both are
    compared with the model before the folder takes its place.

    Args:
        model: a model, or a run or checkpoint folder.
        out: the folder to write; an earlier export in it is replaced when the new one is complete.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
        CheckpointError: there is no such checkpoint.
        ExportError: the method's encoders can not be exported, the folder holds something else, or the files give
            other numbers than the model.
    """
    require_packages()
    folder = Path(out).resolve()
    refuse_others(folder, "export", _OURS, ExportError)  # before the model is read and traced
    model = model if isinstance(model, Model) else load(model)
    method = model.method.eval()
    reason = why_not(method)
    if reason is not None:
        raise ExportError(f"{model.label} can not be exported: {reason}.")
    runtime, notes = runtime_version(), notes_on(method)
    differences: dict[str, float] = {}

    def write(fresh: Path) -> None:
        about = {
            "format": FORMAT,
            "patchword": patchword.__version__,
            "method": method.name,
            "config": settings_of(method),
            "score": how_to_score(method),
        }
        traced = traceable(method)
        for kind in (ImageGraph, CaptionGraph):
            opset, shape = write_graph(kind(traced), fresh / kind.file)
            about[kind.items] = graph_json(kind(method), shape, opset)
            if runtime is not None:
                differences[kind.items] = difference(kind(method), fresh / kind.file)
        about |= {"pixels": pixels_of(method), "tokens": tokens_of(model.tokenizer, model.max_words), "notes": notes}
        about["verified"] = None if runtime is None else {"onnxruntime": runtime, **differences}
        if model.tokenizer is not None:
            model.tokenizer.save(fresh)
        (fresh / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    save_folder(folder, write, what="export", files=_OURS, error=ExportError)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return Exported(folder, files, runtime, differences, tuple(notes))
