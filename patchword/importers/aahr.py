"""AAHR checkpoints (Image-Text-Matching/AAHR) to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from patchword.errors import CheckpointError
from patchword.importers import hrem
from patchword.importers.hrem import GRAPH_LIVE, PATCHES_DEAD, PATCHES_LIVE, shared_config, shared_loss
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import Option, number, settings
from patchword.importers.towers import TEXT_DEAD, TEXT_LIVE
from patchword.methods.aahr import Aahr, AahrConfig, AahrLoss

ITEMS = ("img_enc.", "txt_enc.")  # what the items of the checkpoint's `model` list are
CONFIG_OPTIONS = {
    "convolution_dropout": Option("gcn_dropout", 0.6),
    "prototypes": Option("nmb_prototypes", 384),
    "queue": Option("moco_M", 2048),
    "momentum": Option("moco_r", 0.999),
}
FROZEN_STEPS = Option("freeze_prototypes_niters", 2200)
LOSS_OPTIONS = {
    "swav_weight": Option("swav_weight", 0.2),
    "swav_from_step": FROZEN_STEPS,
    "swav_temperature": Option("temperature", 0.1),
    "sinkhorn_epsilon": Option("epsilon", 0.1),
    "sinkhorn_rounds": Option("sinkhorn_iterations", 3),
    "moco_temperature": Option("moco_temperature", 0.07),
}
OPTIONS = {**hrem.OPTIONS, **CONFIG_OPTIONS, **LOSS_OPTIONS}


def _head(tower: str, ours: str) -> list[tuple[str, str]]:
    return [
        (rf"{tower}\.fc_clip\.fc\.", f"{ours}.guide_a."),
        (rf"{tower}\.fc_clip\.mlp\.layers\.0\.", f"{ours}.guide_b."),
        (rf"{tower}\.aggr\.layers\.0\.", f"{ours}.graph.layer."),
        (rf"{tower}\.mha_pool\.(query|key|value)\.(?=\d)", rf"{ours}.pool.\1."),
        (rf"{tower}\.gated_fusion\.fc_gate\.", f"{ours}.gate.fc."),
    ]


RULES = KeyRules(
    live=[*PATCHES_LIVE, *_head("img_enc", "image_head"), *TEXT_LIVE, *_head("txt_enc", "text_head")],
    dead=[*PATCHES_DEAD, *TEXT_DEAD],
)
# What the authors' training holds beside the encoders, and their checkpoints do not.
TRAINING_RULES = KeyRules(
    live=[
        *RULES.live,
        *GRAPH_LIVE,
        (r"criterion\.gcn_img\.gc1\.", "graph.by_image."),
        (r"criterion\.gcn_text\.gc1\.", "graph.by_caption."),
        (r"criterion\.gcn\.gc1\.", "graph.by_all."),
        (r"criterion\.swav_loss\.prototypes$", "prototypes"),
    ],
    dead=[
        *RULES.dead,
        r"criterion\.adj_model\.",  # the relations of HREM: computed, then overwritten
        r"criterion\.swav_loss\.queue$",  # of a queue whose code is commented out
    ],
)
_POOL = re.compile(r"(.*\.pool\.(?:query|key|value))\.(\d+)\.(weight|bias)")


def stack_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the authors' one layer per head of the guided pooling to our one layer for all heads.

    Raises:
        CheckpointError: a head in between is missing, or the heads differ in size.
    """
    result: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        found = _POOL.fullmatch(key)
        if found is None:
            result[key] = value
        else:
            heads.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = value
    for key, parts in heads.items():
        if sorted(parts) != list(range(len(parts))):
            raise CheckpointError(f"heads {sorted(parts)} of `{key}` are there. Expected 0 to {max(parts)}.")
        if len({part.shape for part in parts.values()}) > 1:
            raise CheckpointError(f"the heads of `{key}` have different shapes.")
        result[key] = torch.cat([parts[h] for h in range(len(parts))])
    return result


def our_part(key: str) -> tuple[str, int | None] | None:
    """Our name of an authors' key, and which head of it that is (None: all of it); None for a dead key."""
    name = TRAINING_RULES.rename(key)
    if name is None:
        return None
    found = _POOL.fullmatch(name)
    return (f"{found[1]}.{found[3]}", int(found[2])) if found is not None else (name, None)


def origins(name: str) -> list[str]:
    """The authors' keys of a name of ours; of the heads of a pooling the first."""
    pooled = re.fullmatch(r"(.*\.pool\.(?:query|key|value))\.(weight|bias)", name)
    return RULES.origins(f"{pooled[1]}.0.{pooled[2]}" if pooled is not None else name)


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> AahrConfig:
    """Our configuration of an authors' model, from its keys, shapes and options."""
    heads = sum(re.fullmatch(r"img_enc\.mha_pool\.query\.\d+\.weight", key) is not None for key in state)
    values = {
        **shared_config(state, options),
        "clip_dim": state["img_enc.fc_clip.fc.weight"].shape[1],
        "guide_heads": heads,
        **settings(options, CONFIG_OPTIONS),
        **({} if options.get("use_moco", 1) else {"queue": 0}),
    }
    return AahrConfig.model_validate(values)


def loss_of(options: Mapping[str, Any]) -> AahrLoss:
    """Our loss configuration of the authors' options."""
    values = {
        **shared_loss(options),
        **settings(options, LOSS_OPTIONS),
        "swav_from_step": number(options, FROZEN_STEPS) + 1,
    }
    return AahrLoss.model_validate(values)


def about_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' batch, which their evaluation shares with their training: vectors depend on its padding."""
    batch = options.get("batch_size")
    return {"eval_batch": batch} if type(batch) is int and batch > 0 else {}


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.`` and ``txt_enc.`` keys.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    method = Aahr(config_of(state, options), loss_of(options))
    ours, dead = translate(state, RULES)
    return load_all(method, stack_heads(ours), state, dead, source="AAHR checkpoint", origins=origins)
