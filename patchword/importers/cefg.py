"""CEFG checkpoints (MMM-design/CEFG) to ours. The layout comes from SGRAF; no public checkpoint is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from patchword.encoders.patches import RegionsConfig
from patchword.errors import CheckpointError
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import Option, settings
from patchword.importers.towers import TEXT_DEAD, TEXT_LIVE, TOWER_OPTIONS, text_config
from patchword.methods.base import LossConfig
from patchword.methods.cefg import Cefg, CefgConfig

ITEMS = ("img_enc.", "txt_enc.", "sim_enc.")
CONFIG_OPTIONS = {
    "sharpness": Option("init_smooth", 10.0, may_be_empty=True),
    "neighbours": Option("num_partial", 5, may_be_empty=True),
}
LOSS_OPTIONS = {"margin": Option("margin", 0.2)}
OPTIONS = {**TOWER_OPTIONS, **CONFIG_OPTIONS, **LOSS_OPTIONS}

_LIVE = [
    (r"img_enc\.fc\.", "image.fc."),
    (r"txt_enc\.cap_rnn\.", "text.rnn."),
    *TEXT_LIVE,
    (r"sim_enc\.t_global_w\.embedding_(local|common)\.0\.", r"text_pool.\1."),
    (r"sim_enc\.t_global_w\.embedding_global\.0\.", "text_pool.overall."),
    (r"sim_enc\.emb_local_li\.", "image.context.local."),
    (r"sim_enc\.emb_local_bn\.", "image.context.local_norm."),
    (r"sim_enc\.emb_global_li\.", "image.context.overall."),
    (r"sim_enc\.emb_global_bn\.", "image.context.overall_norm."),
    (r"sim_enc\.emb_common\.", "image.context.common."),
    (r"sim_enc\.img_rnn\.", "image.context.rnn."),
    (r"sim_enc\.sim_tranloc_w\.", "similarity.local."),
    (r"sim_enc\.sim_tranglo_w\.", "similarity.overall."),
    (r"sim_enc\.sim_eval_w\.", "similarity.logit."),
    (r"sim_enc\.rcr_modules\.(\d+)\.rcr_smooth_w\.", r"similarity.regulators.\1.sharpness."),
    (r"sim_enc\.rcr_modules\.(\d+)\.rcr_matrix_w\.", r"similarity.regulators.\1.modulation."),
    (r"sim_enc\.SGR_module\.(\d+)\.graph_(query|key)_w\.", r"similarity.head.steps.\1.\2."),
    (r"sim_enc\.SGR_module\.(\d+)\.sim_graph_w\.", r"similarity.head.steps.\1.out."),
    (r"sim_enc\.SAF_module\.attn_sim_w\.", "similarity.head.gate."),
    (r"sim_enc\.SAF_module\.bn\.", "similarity.head.norm."),
]
# SGRAF's pooling of regions, whose result is overwritten; a projection that is never applied.
_DEAD = [r"sim_enc\.v_global_w\.", r"sim_enc\.sim_transform_w\.", *TEXT_DEAD]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many modules of a list there are: one more than the largest number in the keys."""
    return 1 + max((int(m.group(1)) for k in state if (m := re.match(pattern, k))), default=-1)


def rules_of(state: Mapping[str, Tensor]) -> KeyRules:
    """The renaming of a checkpoint; the last refinement's modulation is never read."""
    last = _count(state, r"sim_enc\.rcr_modules\.(\d+)\.") - 1
    return KeyRules(_LIVE, [*_DEAD, rf"sim_enc\.rcr_modules\.{last}\.rcr_matrix_w\."])


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> CefgConfig:
    """Our configuration of an authors' model, from its keys, shapes and options.

    Raises:
        CheckpointError: the head is missing, or is not the one that the options name.
    """
    head = "sgr" if any(key.startswith("sim_enc.SGR_module.") for key in state) else "saf"
    if head == "saf" and not any(key.startswith("sim_enc.SAF_module.") for key in state):
        raise CheckpointError("neither `sim_enc.SGR_module.*` nor `sim_enc.SAF_module.*` is in the checkpoint.")
    named = options.get("module_name")
    if named is not None and str(named).lower() != head:
        raise CheckpointError(f"option `module_name` is {named!r}, but the weights are those of {head.upper()}.")
    words = {key.replace("txt_enc.cap_rnn.", "txt_enc.rnn."): value for key, value in state.items()}
    both = any(key.endswith("_reverse") for key in words) or "txt_enc.embed.weight" not in words
    sim_dim, joint_dim = state["sim_enc.sim_tranloc_w.weight"].shape
    values = {
        "joint_dim": joint_dim,
        "sim_dim": sim_dim,
        "image": RegionsConfig(width=state["img_enc.fc.weight"].shape[1]),
        "regions": len(state["sim_enc.emb_local_bn.weight"]),
        "text": text_config(words, options, embedding="uniform"),
        "head": head,
        "graph_steps": max(1, _count(state, r"sim_enc\.SGR_module\.(\d+)\.")),
        "refinements": _count(state, r"sim_enc\.rcr_modules\.(\d+)\."),
        **settings(options, CONFIG_OPTIONS),
        "directions": 2 if both else 1,
        "unit_regions": not options.get("no_imgnorm", False),
        "unit_words": not options.get("no_txtnorm", False),
    }
    return CefgConfig.model_validate(values)


def loss_of(options: Mapping[str, Any]) -> LossConfig:
    """Our loss configuration of the authors' options."""
    negatives = "hardest" if options.get("max_violation", False) else "all"
    values = {**settings(options, LOSS_OPTIONS), "warmup_epochs": 0, "negatives_after": negatives}
    return LossConfig.model_validate(values)


def import_exact(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict, with as many words as it has.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    rules = rules_of(state)
    method = Cefg(config_of(state, options), loss_of(options))
    ours, dead = translate(state, rules)
    return load_all(method, ours, state, dead, source="CEFG checkpoint", origins=rules.origins)


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict, with one more word: ``<mask>``, which our vocabularies end with.

    The authors' vocabulary lacks it, and nothing reads its row (zeros) unless training masks words.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    key = "txt_enc.embed.weight"
    if key in state:
        table = state[key]
        state = {**state, key: torch.cat([table, table.new_zeros(1, table.shape[1])])}
    return import_exact(state, options)
