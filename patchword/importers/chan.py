"""CHAN checkpoints (ppanzx/CHAN) to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from patchword.errors import CheckpointError
from patchword.importers.keys import Imported, KeyRules, load_all, translate
from patchword.importers.options import RANKING, Option, settings
from patchword.importers.towers import TEXT_DEAD, TEXT_LIVE, TOWER_OPTIONS, image_config, text_config
from patchword.methods.base import LossConfig
from patchword.methods.chan import Chan, ChanConfig

ITEMS = ("img_enc.", "txt_enc.", "similarity.", "criterion.")  # the last two hold no parameters

RULES = KeyRules(
    live=[
        (r"img_enc\.fc\.", "image.fc."),
        (r"img_enc\.feedforward\.(ln|ln_1|ln_2|attn)\.", r"image.context.\1."),
        (r"img_enc\.feedforward\.mlp\.", "image.context."),
        *TEXT_LIVE,
    ],
    dead=[r"txt_enc\.fc\.", *TEXT_DEAD],  # a projection that is created but never applied
)

CODINGS = {"VHACoding": "vha", "THACoding": "tha", "VSACoding": "vsa"}
POOLINGS = {
    "MeanPooling": "mean",
    "MaxPooling": "max",
    "SumPooling": "sum",
    "LSEPooling": "lse",
    "SoftmaxPooling": "softmax",
}


CONFIG_OPTIONS = {
    "coding_temperature": Option("alpha", 0.1, may_be_empty=True),
    "pooling_temperature": Option("belta", 0.1, may_be_empty=True),
}
LOSS_OPTIONS = {**RANKING, "temperature": Option("temperature", 0.01, may_be_empty=True)}
OPTIONS = {**TOWER_OPTIONS, **CONFIG_OPTIONS, **LOSS_OPTIONS}


def our_key(key: str) -> str | None:
    """Our name of an authors' key, None for a dead one."""
    return RULES.rename(key)


def _choice(options: Mapping[str, Any], key: str, names: Mapping[str, str]) -> str:
    named = str(options.get(key))
    if named not in names:
        raise CheckpointError(
            f"option `{key}` is {options.get(key)!r} in the checkpoint. Expected one of {', '.join(names)}."
        )
    return names[named]


def config_of(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> ChanConfig:
    """Our configuration of an authors' model, from its keys, shapes and options.

    Raises:
        CheckpointError: coding or pooling, which the weights can not tell, are not in the options.
    """
    context = "none"
    if any(key.startswith("img_enc.feedforward.mlp.") for key in state):
        context = "transformer"
    elif any(key.startswith("img_enc.feedforward.") for key in state):
        context = "self_attention"
    values = {
        "joint_dim": state["img_enc.fc.weight"].shape[0],
        "image": image_config(state, options),
        "context": context,
        "text": text_config(state, options, embedding="xavier"),
        "coding": _choice(options, "coding_type", CODINGS),
        "pooling": _choice(options, "pooling_type", POOLINGS),
        **settings(options, CONFIG_OPTIONS),
        "unit_patches": not options.get("no_imgnorm", False),
        "unit_words": not options.get("no_txtnorm", False),
    }
    return ChanConfig.model_validate(values)


def loss_of(options: Mapping[str, Any]) -> LossConfig:
    """Our loss configuration of the authors' options."""
    kind = "info_nce" if options.get("criterion") == "InfoNCELoss" else "hinge"
    return LossConfig.model_validate({"kind": kind, **settings(options, LOSS_OPTIONS)})


def import_state(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> Imported:
    """Build the model of a state dict with ``img_enc.`` and ``txt_enc.`` keys.

    Raises:
        CheckpointError: a live key is missing, a key is unknown, or a shape differs.
    """
    method = Chan(config_of(state, options), loss_of(options))
    ours, dead = translate(state, RULES)
    return load_all(method, ours, state, dead, source="CHAN checkpoint", origins=RULES.origins)
