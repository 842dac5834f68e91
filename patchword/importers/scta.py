"""SCTA checkpoints (ICME2025ITR/SCTA) and those of its parent LAPS (CrossmodalGroup/LAPS) to ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from patchword.errors import CheckpointError
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import RANKING, REQUIRED, Option, settings
from patchword.importers.towers import TEXT_DEAD, TOWER_OPTIONS, text_config
from patchword.importers.transformers_keys import image_key, older_keys
from patchword.methods.scta import Laps, LapsConfig, Scta, SctaConfig, SctaLoss

ITEMS = ("img_enc.", "txt_enc.", "cross_net.")
BACKBONE = "img_enc.visual_encoder."
LAPS_OPTIONS = {
    "keep_ratio": Option("img_sparse_ratio", REQUIRED, earlier="sparse_ratio"),
    "patch_ratio": Option("img_aggr_ratio", REQUIRED, earlier="aggr_ratio"),
    "patches": Option("num_patches", None, may_be_empty=True),
    "word_limit": Option("max_word", 90, may_be_empty=True),
}
CONFIG_OPTIONS = {**LAPS_OPTIONS, "word_ratio": Option("cap_aggr_ratio", REQUIRED)}
LOSS_OPTIONS = {**RANKING, "monitor_weight": Option("monitor_weight", 2.0, earlier="ratio_weight")}
OPTIONS = {**TOWER_OPTIONS, "image": Option("image_config", None), **CONFIG_OPTIONS, **LOSS_OPTIONS}

RULES = KeyRules(
    live=[
        (r"img_enc\.visual_encoder\.", "image.patches.backbone."),
        (r"img_enc\.vision_proj\.", "image.fc."),
        (r"txt_enc\.bert\.", "text.bert."),
        (r"txt_enc\.fc\.", "text.linear."),
        (r"cross_net\.(?:img_)?aggr_net\.weight\.0\.", "patch_condenser.norm."),
        (r"cross_net\.(?:img_)?aggr_net\.weight\.1\.", "patch_condenser.fc1."),
        (r"cross_net\.(?:img_)?aggr_net\.weight\.3\.", "patch_condenser.fc2."),
        (r"cross_net\.(?:img_)?aggr_net\.scale$", "patch_condenser.scale"),
        (r"cross_net\.cap_aggr_net\.layer_norm\.", "word_condenser.norm."),
        (r"cross_net\.cap_aggr_net\.fc1\.", "word_condenser.fc1."),
        (r"cross_net\.cap_aggr_net\.scale$", "word_condenser.scale"),
    ],
    dead=[
        r"img_enc\.visual_encoder\.pooler\.",
        r"img_enc\.visual_encoder\..*relative_position_index$",
        r"cross_net\.(?:img_)?aggr_net\.weight\.3\.bias$",  # the same for all patches, so their softmax cancels it
        *TEXT_DEAD,
    ],
)


def our_key(key: str) -> str | None:
    """Our name of an authors' key, None for a dead one."""
    name = RULES.rename(key)
    if name is None or not key.startswith(BACKBONE):
        return name
    inner = image_key(key.removeprefix(BACKBONE))
    return None if inner is None else f"image.patches.backbone.{inner}"


def origins(name: str) -> list[str]:
    """The authors' keys of a name of ours, of their transformers and of ours."""
    inner = name.removeprefix("image.patches.backbone.")
    if inner == name:
        return RULES.origins(name)
    return [BACKBONE + key for key in dict.fromkeys((*older_keys(inner), inner))]


def image_values(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Our configuration of the image tower: ``image_config`` of the options, else what keys and shapes tell.

    Raises:
        CheckpointError: there is no image tower, or its number of attention heads can not be known.
    """
    patch = _live(state, "embeddings.patch_embeddings.projection.weight")
    is_vit = f"{BACKBONE}embeddings.cls_token" in state
    kind = "vit" if is_vit else "swin"
    if options.get("image_config") is not None:
        return {"kind": kind, "arch": dict(options["image_config"])}
    return {"kind": kind, "arch": _vit_arch(state, patch) if is_vit else _swin_arch(state, patch)}


def _live(state: Mapping[str, Tensor], *names: str) -> Tensor:
    """A tensor of the image tower, by the first of its names that is there."""
    for name in names:
        if BACKBONE + name in state:
            return state[BACKBONE + name]
    raise CheckpointError(f"live key `{BACKBONE}{names[0]}` is missing.")


def _vit_arch(state: Mapping[str, Tensor], patch: Tensor) -> dict[str, Any]:
    hidden, size = patch.shape[0], patch.shape[-1]
    if hidden % 64:
        raise CheckpointError(
            f"ViT of hidden size {hidden}: its number of attention heads can not be read from the weights. "
            "Expected heads of 64, as in ViT-B/16."
        )
    layers = {m.group(1) for k in state if (m := re.search(r"visual_encoder\.(?:encoder\.layer|layers)\.(\d+)\.", k))}
    up = _live(state, "encoder.layer.0.intermediate.dense.weight", "layers.0.mlp.fc1.weight")
    cells = _live(state, "embeddings.position_embeddings").shape[1] - 1
    return {
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": hidden // 64,
        "intermediate_size": up.shape[0],
        "patch_size": size,
        "image_size": math.isqrt(cells) * size,
    }


def _swin_arch(state: Mapping[str, Tensor], patch: Tensor) -> dict[str, Any]:
    """The picture size is in no weight: it is the 224 pixels that the authors' code uses."""
    blocks = [
        (int(m.group(1)), value)
        for key, value in state.items()
        if (m := re.search(r"layers\.(\d+)\.blocks\.\d+\..*relative_position_bias_table$", key))
    ]
    if not blocks:
        raise CheckpointError("the image tower is neither a ViT (no `cls_token`) nor a Swin (no position bias table).")
    stages = sorted({stage for stage, _ in blocks})
    return {
        "embed_dim": patch.shape[0],
        "patch_size": patch.shape[-1],
        "depths": [sum(one == stage for one, _ in blocks) for stage in stages],
        "num_heads": [next(table.shape[1] for one, table in blocks if one == stage) for stage in stages],
        "window_size": (math.isqrt(blocks[0][1].shape[0]) + 1) // 2,
        "image_size": 224,
    }


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> SctaConfig:
    """Our configuration of an authors' model, from its keys, shapes and options; a LAPS model has no word condenser.

    Raises:
        CheckpointError: a ratio, which the weights can not tell, is not in the options.
    """
    norm = next((k for k in state if re.match(r"cross_net\.(?:img_)?aggr_net\.weight\.0\.weight$", k)), None)
    if norm is None:
        raise CheckpointError("live key `cross_net.img_aggr_net.weight.0.weight` is missing.")
    values: dict[str, Any] = {
        "joint_dim": state[norm].shape[0],
        "image": image_values(state, options),
        "text": text_config(state, options, embedding="xavier"),
    }
    if not any(key.startswith("cross_net.cap_aggr_net.") for key in state):
        return LapsConfig.model_validate({**values, **settings(options, LAPS_OPTIONS)})
    return SctaConfig.model_validate({**values, **settings(options, CONFIG_OPTIONS)})


def loss_of(options: Mapping[str, Any]) -> SctaLoss:
    """Our loss configuration of the authors' options."""
    hardest_only = {"warmup_epochs": 0} if options.get("max_violation") else {}
    return SctaLoss.model_validate({**settings(options, LOSS_OPTIONS), **hardest_only})


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.``, ``txt_enc.`` and ``cross_net.`` keys.

    SCTA's random layer is in no file: the model gets the word bank of seed 0.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    config = config_of(state, options)
    method = Laps(config, loss_of(options)) if isinstance(config, LapsConfig) else Scta(config, loss_of(options))
    renamed, dead = translate(state, RULES)
    prefix = "image.patches.backbone."
    ours = {
        prefix + str(image_key(key.removeprefix(prefix))) if key.startswith(prefix) else key: value
        for key, value in renamed.items()
    }
    if method.has_variants:
        ours["bank"] = method.bank
    return load_all(method, ours, state, dead, source=f"{method.name.upper()} checkpoint", origins=origins)
