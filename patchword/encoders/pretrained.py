"""Pretrained transformers of a folder or of the hub: their architecture, and weights with every key accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from torch import nn

from patchword.data.clip_files import quiet, reachable
from patchword.errors import CheckpointError, ConfigError

_CLASSES = {"bert": "BertConfig", "vit": "ViTConfig", "swin": "SwinConfig"}
_FETCHED = [
    "config.json", "vocab.txt", "tokenizer_config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json",
]  # fmt: skip
# Fields of a saved config that say how it was made, not what it is.
_NOT_ARCHITECTURE = {
    "architectures",
    "transformers_version",
    "_name_or_path",
    "torch_dtype",
    "dtype",
    "gradient_checkpointing",
    "model_type",
}


def hf_config(kind: str, arch: Mapping[str, Any]) -> Any:
    """The transformers configuration of a ``bert``, ``vit`` or ``swin`` with some fields changed."""
    import transformers

    try:
        return getattr(transformers, _CLASSES[kind])(**arch)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"`arch` of the {kind} encoder does not describe one: {reason}.") from None


def pretrained_folder(place: Path) -> Path:
    """The folder of a pretrained model: the one named, or that of a name on the hub, whose files are fetched once.

    Args:
        place: local folder in the form of ``save_pretrained``, or a name such as ``bert-base-uncased``.

    Raises:
        CheckpointError: it is neither, or the hub can not be reached and the model was never fetched.
    """
    if place.exists():
        return place
    name = reachable(place)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with quiet():
        folder = Path(snapshot_download(name, allow_patterns=_FETCHED))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["pytorch_model.bin"]))
    return folder


def read_arch(kind: str, folder: Path) -> dict[str, Any]:
    """Architecture fields of a local pretrained folder.

    Raises:
        ConfigError: there is no ``config.json``, or it holds no fields or those of another kind of model.
    """
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"'{folder}' holds no config.json. Expected a local folder of a pretrained {kind} model (config.json, "
            "weights, vocabulary)."
        ) from None
    except ValueError as error:
        raise ConfigError(f"'{path}' is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise ConfigError(
            f"'{path}' holds a {type(fields).__name__}. Expected the fields of a pretrained {kind} model."
        )
    if fields.get("model_type", kind) != kind:
        raise ConfigError(f"'{path}' describes a {fields['model_type']!r} model. Expected {kind!r}.")
    return {k: v for k, v in fields.items() if k not in _NOT_ARCHITECTURE}


def weights_file(folder: Path) -> Path:
    """``model.safetensors``, or ``pytorch_model.bin`` (which is read without unpickling code).

    Raises:
        CheckpointError: neither is there.
    """
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"'{folder}' holds no weights. Expected model.safetensors or pytorch_model.bin.")


def load_pretrained(model: nn.Module, folder: Path, *, ignored: tuple[str, ...]) -> None:
    """Copy pretrained weights into ``model``; every weight of the model must be in the folder.

    transformers reads them, because its modules are not named as the tensors in the files of the field are.

    Args:
        model: a transformers model without its pooler.
        folder: local folder in the form of ``save_pretrained``.
        ignored: prefixes of tensors in the folder that the model has no use for (heads, poolers).

    Raises:
        CheckpointError: the file is damaged, or a weight is missing, has another shape, or is unknown.
    """
    kind: Any = type(model)
    path = weights_file(folder)
    try:
        with quiet():
            loaded, found = kind.from_pretrained(
                folder,
                config=model.config,
                add_pooling_layer=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError, LookupError, EOFError, SafetensorError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"'{path}' is truncated or damaged ({path.stat().st_size:,} bytes): {reason}.") from None
    missing = sorted(found["missing_keys"])
    plain = {k: k.removeprefix(f"{kind.base_model_prefix}.") for k in found["unexpected_keys"]}
    unknown = sorted(k for k, v in plain.items() if not v.startswith(ignored) and not v.endswith("position_ids"))
    if missing or unknown:
        raise CheckpointError(
            f"'{folder}' does not fit the {kind.__name__}: "
            f"{len(missing)} weights missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}."
        )
    for name, theirs, ours in sorted(found["mismatched_keys"]):
        raise CheckpointError(f"'{folder}' weight `{name}` has shape {tuple(theirs)}, the model expects {tuple(ours)}.")
    model.load_state_dict(loaded.state_dict())
