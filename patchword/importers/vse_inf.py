"""VSE-infinity checkpoints (woodfrog/vse_infty, both branches) to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import rename_backbone
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import RANKING, settings
from patchword.importers.towers import (
    TEXT_DEAD,
    TEXT_LIVE,
    TOWER_OPTIONS,
    backbone_origin,
    image_config,
    text_config,
)
from patchword.methods.base import LossConfig
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig

ITEMS = ("img_enc.", "txt_enc.")  # what the items of the checkpoint's `model` list are
OPTIONS = {**TOWER_OPTIONS, **RANKING}

RULES = KeyRules(
    live=[
        (r"img_enc\.(image_encoder\.)?fc\.", "image.fc."),
        (r"img_enc\.mlp\.layers\.0\.", "image.mlp.first."),
        (r"img_enc\.mlp\.layers\.1\.", "image.mlp.second."),
        (r"img_enc\.mlp\.bns\.0\.", "image.mlp.norm."),
        (r"img_enc\.(image_encoder\.)?gpool\.", "image.pool."),
        (r"img_enc\.backbone\.(?=base\.|top\.)", "image.patches.backbone."),
        *TEXT_LIVE,
        (r"txt_enc\.gpool\.", "text_pool."),
    ],
    # A second batch norm that is never applied; the same backbone under a second name with an unused classifier.
    dead=[r"img_enc\.mlp\.bns\.1\.", r"img_enc\.backbone\.resnet\.", *TEXT_DEAD],
)


def our_key(key: str) -> str | None:
    """Our name of an authors' key, None for a dead one."""
    name = RULES.rename(key)
    if name is not None and name.startswith("image.patches.backbone."):
        inner = name.removeprefix("image.patches.backbone.")
        return "image.patches.backbone." + next(iter(rename_backbone({inner: Tensor()})))
    return name


def origins(name: str) -> list[str]:
    """The authors' keys of a name of ours."""
    return RULES.origins(backbone_origin(name))


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> VseInfinityConfig:
    """Our configuration of an authors' model, from its keys, shapes and options."""
    image = image_config(state, options)
    head = "img_enc.fc.weight" if isinstance(image, RegionsConfig) else "img_enc.image_encoder.fc.weight"
    return VseInfinityConfig(
        joint_dim=state[head].shape[0],
        image=image,
        residual_mlp=any(key.startswith("img_enc.mlp.") for key in state),
        text=text_config(state, options, embedding="uniform"),
        unit_images=not options.get("no_imgnorm", False),
        unit_captions=not options.get("no_txtnorm", False),
    )


def loss_of(options: Mapping[str, Any]) -> LossConfig:
    """Our loss configuration of the authors' options."""
    return LossConfig.model_validate(settings(options, RANKING))


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.`` and ``txt_enc.`` keys.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    method = VseInfinity(config_of(state, options), loss_of(options))
    ours, dead = translate(state, KeyRules(RULES.live, RULES.dead))
    prefix = "image.patches.backbone."
    backbone = rename_backbone({k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)})
    ours = {k: v for k, v in ours.items() if not k.startswith(prefix)} | {prefix + k: v for k, v in backbone.items()}
    return load_all(method, ours, state, dead, source="VSE-infinity checkpoint", origins=origins)
