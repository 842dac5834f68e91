"""What the checkpoints of VSE-infinity and CHAN share: towers recognised from keys and shapes, options read once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import ResnetConfig, rename_backbone
from patchword.errors import CheckpointError
from patchword.importers.options import Option, number

BACKBONE = "image.patches.backbone."
AUTHORS_MODULES = ("base.0", "base.1", "base.4", "base.5", "base.6", "top.0")
TEXT_LIVE = [
    (r"txt_enc\.embed\.", "text.embed."),
    (r"txt_enc\.rnn\.", "text.rnn."),
    (r"txt_enc\.bert\.", "text.bert."),
    (r"txt_enc\.linear\.", "text.linear."),
]
# Of the towers, for messages.
TOWER_OPTIONS = {
    "image_size": Option("image_size", None, earlier="input_scale_factor"),
    "arch": Option("bert_config", None),
}
TEXT_DEAD = [
    r"txt_enc\.bert\.pooler\.",
    r"txt_enc\.bert\.embeddings\.position_ids$",
    r"txt_enc\.bert\.embeddings\.token_type_ids$",
]


def backbone_origin(name: str) -> str:
    """Our name of a weight, with the modules of a ResNet called as by the authors.

    Example:
        >>> backbone_origin("image.patches.backbone.layer4.0.bn1.bias"), backbone_origin("image.fc.bias")
        ('image.patches.backbone.top.0.0.bn1.bias', 'image.fc.bias')
    """
    if not name.startswith(BACKBONE):
        return name
    module, _, rest = name.removeprefix(BACKBONE).partition(".")
    for theirs in AUTHORS_MODULES:
        if module in rename_backbone({theirs: Tensor()}):
            return f"{BACKBONE}{theirs}.{rest}"
    return name


def text_config(state: Mapping[str, Tensor], options: Mapping[str, Any], *, embedding: str) -> BigruConfig | BertConfig:
    """The text tower that the keys describe.

    Args:
        state: authors' keys below ``img_enc.`` and ``txt_enc.``.
        options: the authors' option namespace; ``bert_config`` in it describes a BERT of unusual size.
        embedding: ``uniform`` or ``xavier``, the method's own initial values.

    Raises:
        CheckpointError: there is neither a GRU nor a BERT, or a BERT whose head count can not be known.
    """
    if "txt_enc.embed.weight" in state:
        rows, width = state["txt_enc.embed.weight"].shape
        layers = len({m.group(1) for k in state if (m := re.match(r"txt_enc\.rnn\.(?:weight|bias)_[ih]h_l(\d+)", k))})
        return BigruConfig.model_validate(
            {"vocab_size": rows, "word_dim": width, "layers": layers, "embedding": embedding}
        )
    table = state.get("txt_enc.bert.embeddings.word_embeddings.weight")
    if table is None:
        if any(key.startswith("txt_enc.bert.") for key in state):
            raise CheckpointError("live key `txt_enc.bert.embeddings.word_embeddings.weight` is missing.")
        raise CheckpointError(
            "neither `txt_enc.embed.weight` (BiGRU) nor `txt_enc.bert.*` (BERT) is in the checkpoint: "
            "it has no known text encoder."
        )
    if options.get("bert_config") is not None:
        return BertConfig(arch=dict(options["bert_config"]))
    hidden = table.shape[1]
    if hidden % 64:
        raise CheckpointError(
            f"BERT of hidden size {hidden}: its number of attention heads can not be read from the weights. "
            "Pass its folder with --bert DIR."
        )
    return BertConfig(
        arch={
            "vocab_size": table.shape[0],
            "hidden_size": hidden,
            "num_attention_heads": hidden // 64,
            "num_hidden_layers": 1
            + max(int(m.group(1)) for k in state if (m := re.match(r"txt_enc\.bert\.encoder\.layer\.(\d+)\.", k))),
            "intermediate_size": state["txt_enc.bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": state["txt_enc.bert.embeddings.position_embeddings.weight"].shape[0],
            "type_vocab_size": state["txt_enc.bert.embeddings.token_type_embeddings.weight"].shape[0],
        }
    )


def image_config(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> RegionsConfig | ResnetConfig:
    """Regions, or the ResNet grid that the keys describe."""
    if not any(key.startswith("img_enc.backbone.") for key in state):
        return RegionsConfig(width=state["img_enc.fc.weight"].shape[1])
    stages = ("base.4", "base.5", "base.6", "top.0")
    blocks = tuple(len({k.split(".")[4] for k in state if k.startswith(f"img_enc.backbone.{s}.")}) for s in stages)
    stem = state["img_enc.backbone.base.0.weight"].shape[0]
    conv2 = state["img_enc.backbone.base.4.0.conv2.weight"]
    groups = conv2.shape[0] // conv2.shape[1]
    source = str(options.get("backbone_source") or "detector")
    scale = Option("input_scale_factor", 2, may_be_empty=True)
    size = options.get("image_size") or int(256 * number(options, scale))
    return ResnetConfig.model_validate(
        {
            "layers": blocks,
            "base_width": stem,
            "groups": groups,
            "group_width": conv2.shape[0] // groups if groups > 1 else 64,
            "caffe": groups == 1,
            "image_size": size,
            "pixels": "detector" if "detector" in source else "imagenet",
        }
    )
