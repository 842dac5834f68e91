"""ESL checkpoints (CrossmodalGroup/ESL) to ours. Which of the two systems a file holds is told by its keys only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import rename_backbone
from patchword.errors import CheckpointError
from patchword.importers.keys import Imported, KeyRules, load_all
from patchword.importers.options import RANKING, settings
from patchword.importers.towers import (
    BACKBONE,
    TEXT_DEAD,
    TEXT_LIVE,
    TOWER_OPTIONS,
    backbone_origin,
    image_config,
    text_config,
)
from patchword.methods.base import LossConfig
from patchword.methods.esl import Esl, EslConfig

ITEMS = ("img_enc.", "txt_enc.", "sim_vec.")
OPTIONS = {**TOWER_OPTIONS, **RANKING}
CALCULATOR = "sim_vec.sims.calculator_1."
LEVELS = "sim_vec.plus_encoder.encoders_1."
_LEVEL_KEY = re.compile(r"sim_vec\.plus_encoder\.encoders_1\.(?:image|text)_levels\.(kernel|masks)_")

_SHARED_LIVE = [
    (r"img_enc\.(image_encoder\.)?fc\.", "image.fc."),
    (r"img_enc\.mlp\.layers\.0\.", "image.mlp.first."),
    (r"img_enc\.mlp\.layers\.1\.", "image.mlp.second."),
    (r"img_enc\.mlp\.bns\.0\.", "image.mlp.norm."),
    (r"img_enc\.backbone\.(?=base\.|top\.)", BACKBONE),
    *TEXT_LIVE,
    (r"sim_vec\.sims\.calculator_1\.sim_eval\.weight$", "forms.weights"),
    (r"sim_vec\.sims\.calculator_1\.temp_scale\.weight$", "log_temperature"),
    (r"sim_vec\.sims\.calculator_1\.masks_(\d+)\.weight$", r"forms.matrices.\1"),
    (r"sim_vec\.sims\.calculator_1\.lynorm_(\d+)\.weight$", r"forms.gains.\1"),
    (r"sim_vec\.sims\.calculator_1\.lynorm_(\d+)\.bias$", r"forms.shifts.\1"),
]
# A second batch norm that is never applied; the same backbone under a second name with an unused classifier.
_SHARED_DEAD = [r"img_enc\.mlp\.bns\.1\.", r"img_enc\.backbone\.resnet\.", *TEXT_DEAD]

HEURISTIC = KeyRules(
    live=[
        *_SHARED_LIVE,
        (r"sim_vec\.sims\.calculator_1\.temp_scale_1\.weight$", "forms.threshold"),
        (r"sim_vec\.sims\.calculator_1\.temp_scale_2\.weight$", "forms.sharpness"),
        (r"sim_vec\.plus_encoder\.encoders_1\.image_levels\.kernel_img_(\d+)\.weight$", r"image_pyramid.filters.\1"),
        (r"sim_vec\.plus_encoder\.encoders_1\.text_levels\.kernel_txt_(\d+)\.weight$", r"text_pyramid.filters.\1"),
    ],
    dead=_SHARED_DEAD,
)
ADAPTIVE = KeyRules(
    live=[
        *_SHARED_LIVE,
        (r"sim_vec\.plus_encoder\.encoders_1\.image_levels\.masks_(\d+)\.weight$", r"image_pyramid.masks.\1"),
        (r"sim_vec\.plus_encoder\.encoders_1\.text_levels\.masks_(\d+)\.weight$", r"text_pyramid.masks.\1"),
    ],
    # The parameters of the exponent, which the authors' code multiplies by 0 in this system.
    dead=[*_SHARED_DEAD, r"sim_vec\.sims\.calculator_1\.temp_scale_[12]\.weight$"],
)


def rules_of(state: Mapping[str, Tensor]) -> KeyRules:
    """The rules of the system that the keys belong to.

    Raises:
        CheckpointError: the file holds the pyramid of neither system, or of both.
    """
    kinds = {m.group(1) for key in state if (m := _LEVEL_KEY.match(key))}
    is_heuristic, is_adaptive = "kernel" in kinds, "masks" in kinds
    if is_heuristic == is_adaptive:
        found = "both" if is_heuristic else "neither"
        raise CheckpointError(
            f"`{LEVELS}*` has {found} of the filters of ESL-H (`kernel_img_1`) and the masks of ESL-A (`masks_1`). "
            "Expected one of them: is it a checkpoint of another method?"
        )
    return HEURISTIC if is_heuristic else ADAPTIVE


def our_key(key: str, rules: KeyRules) -> str | None:
    """Our name of an authors' key, None for a dead one."""
    name = rules.rename(key)
    if name is None:
        return None
    if name.startswith(BACKBONE):
        return BACKBONE + next(iter(rename_backbone({name.removeprefix(BACKBONE): Tensor()})))
    head, _, level = name.rpartition(".")
    if head.endswith((".filters", ".masks")):  # theirs count from level 1, a list from 0
        return f"{head}.{int(level) - 1}"
    return name


def origins(name: str, rules: KeyRules) -> list[str]:
    """The authors' keys of a name of ours."""
    head, _, level = name.rpartition(".")
    if head.endswith((".filters", ".masks")):  # see ``our_key``
        return rules.origins(f"{head}.{int(level) + 1}")
    return rules.origins(backbone_origin(name))


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> EslConfig:
    """Our configuration of an authors' model, from its keys, shapes and options.

    Raises:
        CheckpointError: the keys are those of neither system.
    """
    rules = rules_of(state)
    pyramid = "heuristic" if rules is HEURISTIC else "adaptive"
    grid_head = "img_enc.image_encoder.fc.weight"
    head = grid_head if grid_head in state else "img_enc.fc.weight"
    has_backbone = any(key.startswith("img_enc.backbone.") for key in state)
    width = state[head].shape[0]
    first = LEVELS + ("image_levels.kernel_img_1.weight" if rules is HEURISTIC else "image_levels.masks_1.weight")
    kernel_size = state[first].shape[-1] if rules is HEURISTIC else width // max(1, len(state[first]))
    return EslConfig.model_validate(
        {
            "pyramid": pyramid,
            "joint_dim": width,
            "levels": state[CALCULATOR + "sim_eval.weight"].numel(),
            "kernel_size": kernel_size,
            "image": image_config(state, options) if has_backbone else RegionsConfig(width=state[head].shape[1]),
            "residual_mlp": any(key.startswith("img_enc.mlp.") for key in state),
            "text": text_config(state, options, embedding="uniform"),
            "unit_patches": not options.get("no_imgnorm", False),
            "unit_words": not options.get("no_txtnorm", False),
        }
    )


def loss_of(options: Mapping[str, Any]) -> LossConfig:
    """Our loss configuration of the authors' options."""
    return LossConfig.model_validate(settings(options, RANKING))


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.``, ``txt_enc.`` and ``sim_vec.`` keys.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    method = Esl(config_of(state, options), loss_of(options))
    rules = rules_of(state)
    ours: dict[str, Tensor] = {}
    dead: list[str] = []
    for key, value in state.items():
        name = our_key(key, rules)
        if name is None:
            dead.append(key)
        else:
            ours[name] = in_our_shape(name, value)
    return load_all(method, ours, state, dead, source="ESL checkpoint", origins=partial(origins, rules=rules))


def in_our_shape(name: str, value: Tensor) -> Tensor:
    """The authors keep single numbers and the weights of the levels as embeddings of one row: ``(1, n)``."""
    if name == "forms.weights" and value.ndim == 2 and len(value) == 1:
        return value[0]
    is_number = name in ("log_temperature", "forms.threshold", "forms.sharpness")
    return value.reshape(()) if is_number and value.shape == (1, 1) else value
