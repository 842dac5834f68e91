"""Local folders of pretrained transformers: their architecture, and their weights with every key accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from patchword.errors import CheckpointError, ConfigError

_CLASSES = {"bert": "BertConfig", "vit": "ViTConfig", "swin": "SwinConfig"}
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

    return getattr(transformers, _CLASSES[kind])(**arch)


def read_arch(kind: str, folder: Path) -> dict[str, Any]:
    """Architecture fields of a local pretrained folder.

    Raises:
        ConfigError: there is no ``config.json``, or it describes another kind of model.
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
    if fields.get("model_type", kind) != kind:
        raise ConfigError(f"'{path}' describes a {fields['model_type']!r} model. Expected {kind!r}.")
    return {k: v for k, v in fields.items() if k not in _NOT_ARCHITECTURE}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of ``model.safetensors`` or ``pytorch_model.bin`` (read without unpickling code).

    Raises:
        CheckpointError: neither file is there or readable.
    """
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        state: dict[str, Tensor] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        return state
    raise CheckpointError(f"'{folder}' holds no weights. Expected model.safetensors or pytorch_model.bin.")


def load_pretrained(model: nn.Module, folder: Path, *, ignored: tuple[str, ...]) -> None:
    """Copy pretrained weights into ``model``; every weight of the model must be in the folder.

    Args:
        ignored: prefixes of tensors in the folder that the model has no use for (heads, poolers).

    Raises:
        CheckpointError: a weight is missing, has another shape, or is unknown.
    """
    weights = read_weights(folder)
    wanted = model.state_dict()
    prefixes = {"", *(f"{p}." for p in ("bert", "vit", "swin"))}
    prefix = max(prefixes, key=lambda p: sum(f"{p}{key}" in weights for key in wanted))
    weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    missing = [k for k in wanted if k not in weights]
    unknown = [k for k in weights if k not in wanted and not k.startswith(ignored) and not k.endswith("position_ids")]
    if missing or unknown:
        raise CheckpointError(
            f"'{folder}' does not fit the {type(model).__name__}: "
            f"{len(missing)} weights missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}."
        )
    wrong = [k for k in wanted if weights[k].shape != wanted[k].shape]
    if wrong:
        raise CheckpointError(
            f"'{folder}' weight `{wrong[0]}` has shape {tuple(weights[wrong[0]].shape)}, "
            f"the model expects {tuple(wanted[wrong[0]].shape)}."
        )
    model.load_state_dict({k: weights[k] for k in wanted})
