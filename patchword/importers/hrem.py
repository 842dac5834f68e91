"""HREM checkpoints (CrossmodalGroup/HREM) to ours; AAHR's, an extension of them, start from the same rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import RANKING, REQUIRED, Option, settings
from patchword.importers.towers import TEXT_DEAD, TEXT_LIVE, TOWER_OPTIONS, text_config
from patchword.methods.hrem import Hrem, HremConfig, HremLoss

ITEMS = ("img_enc.", "txt_enc.")  # what the items of the checkpoint's `model` list are
CUTOFFS = {"coco": 1.9}  # of the distance-weighted loss; 1.7 for every other data set, as in the authors' code

CONFIG_OPTIONS = {
    "heads": Option("nhead", REQUIRED),
    "dropout": Option("dropout", 0.1),
    "residual_weight": Option("residual_weight", 0.8),
    "graph_layers": Option("num_layers_enc", 1),
    "threshold": Option("threshold", 0.5),
    "mask_weight": Option("mask_weight", 1.0),
    "top_k": Option("topk", 10),
}
SHARED_LOSS_OPTIONS = {
    **RANKING,
    "base": Option("base_loss", "trip"),
    "graph": Option("gnn_loss", "trip"),
    "graph_from_step": Option("warmup", 8000),
}
LOSS_OPTIONS = {**SHARED_LOSS_OPTIONS, "regulariser": Option("reg_loss_weight", 10)}
OPTIONS = {**TOWER_OPTIONS, **CONFIG_OPTIONS, **LOSS_OPTIONS}

PATCHES_LIVE = [
    (r"img_enc\.fc\.fc\.", "image.fc."),
    (r"img_enc\.fc\.mlp\.layers\.0\.", "image.mlp.first."),
    (r"img_enc\.fc\.mlp\.layers\.1\.", "image.mlp.second."),
    (r"img_enc\.fc\.mlp\.bns\.0\.", "image.mlp.norm."),
]
PATCHES_DEAD = [r"img_enc\.fc\.mlp\.bns\.1\."]  # a second batch norm that is never applied
GRAPH_LIVE = [(r"criterion\.gnn\.layers\.", "graph.attention.layers.")]

RULES = KeyRules(
    live=[
        *PATCHES_LIVE,
        (r"img_enc\.aggr\.layers\.0\.", "image_pool.graph.layer."),
        *TEXT_LIVE,
        (r"txt_enc\.aggr\.layers\.0\.", "text_pool.graph.layer."),
    ],
    dead=[*PATCHES_DEAD, *TEXT_DEAD],
)
# What the authors' training holds beside the encoders, and their checkpoints do not.
TRAINING_RULES = KeyRules(
    live=[
        *RULES.live,
        *GRAPH_LIVE,
        (r"criterion\.adj_model\.adj_learning\.mlp_(t2i|i2t)\.0\.", r"graph.relation.\1.0."),
        (r"criterion\.adj_model\.adj_learning\.mlp_(t2i|i2t)\.3\.", r"graph.relation.\1.2."),
    ],
    dead=RULES.dead,
)


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``RelationConfig`` that come from the authors' options alone.

    Raises:
        CheckpointError: the number of attention heads, which the weights can not tell, is not there.
    """
    if not isinstance(options.get("nhead"), int):
        raise CheckpointError(
            f"option `nhead` is {options.get('nhead')!r} in the checkpoint. Expected the number of attention heads (16 "
            "in the published models): the weights can not tell."
        )
    return {
        "unit_images": not options.get("no_imgnorm", False),
        "unit_captions": not options.get("no_txtnorm", False),
        **settings(options, CONFIG_OPTIONS),
    }


def shared_config(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``RelationConfig`` from an authors' model."""
    joint_dim, width = state["img_enc.fc.fc.weight"].shape
    return {
        "joint_dim": joint_dim,
        "image": RegionsConfig(width=width),
        "text": text_config(state, options, embedding="xavier"),
        **plain_options(options),
    }


def shared_loss(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``RelationLoss`` from the authors' options."""
    return {
        **settings(options, SHARED_LOSS_OPTIONS),
        "trip_cutoff": CUTOFFS.get(str(options.get("dataset")), 1.7),
        "same_image": "ignored" if options.get("mask_repeat", 1) else "negative",
        "cross": bool(options.get("cross_loss", 1)),
    }


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> HremConfig:
    """Our configuration of an authors' model, from its keys, shapes and options."""
    graph_input = "unit" if options.get("norm_input", 1) else "raw"
    return HremConfig.model_validate({**shared_config(state, options), "graph_input": graph_input})


def loss_of(options: Mapping[str, Any]) -> HremLoss:
    """Our loss configuration of the authors' options."""
    return HremLoss.model_validate({**shared_loss(options), **settings(options, LOSS_OPTIONS)})


def our_key(key: str) -> str | None:
    """Our name of an authors' key, of the encoders or of training; None for a dead one."""
    return TRAINING_RULES.rename(key)


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.`` and ``txt_enc.`` keys.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    method = Hrem(config_of(state, options), loss_of(options))
    ours, dead = translate(state, RULES)
    return load_all(method, ours, state, dead, source="HREM checkpoint", origins=RULES.origins)
