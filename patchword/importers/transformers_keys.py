"""Names of the weights of ViT and Swin: those of transformers 4, in the authors' checkpoints, to those of 5."""

from __future__ import annotations

import re

_PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
_VIT = re.compile(r"encoder\.layer\.(\d+)\.")
_SWIN = re.compile(r"(encoder\.layers\.\d+\.blocks\.\d+\.)")


def image_key(key: str) -> str | None:
    """Name of a ViT or Swin weight in transformers 5; None for a buffer that it computes itself.

    Names that are already those of 5 stay as they are. BERT's names are the same in both.

    Example:
        >>> image_key("encoder.layer.3.attention.attention.query.bias")
        'layers.3.attention.q_proj.bias'
        >>> image_key("encoder.layers.0.blocks.1.attention.self.key.weight")
        'encoder.layers.0.blocks.1.attention.k_proj.weight'
    """
    if key.endswith("relative_position_index"):
        return None
    if _VIT.match(key):
        head, inner = _VIT.sub(r"layers.\1.", key, count=1), "attention.attention"
    elif _SWIN.match(key):
        head, inner = key, "attention.self"
    else:
        return key
    for old, new in _PARTS.items():
        head = head.replace(f".{inner}.{old}.", f".attention.{new}.")
    table = "relative_position_bias_table"
    head = head.replace(f".attention.self.{table}", f".attention.relative_position_bias.{table}")
    head = head.replace(".attention.output.dense.", ".attention.o_proj.")
    return head.replace(".intermediate.dense.", ".mlp.fc1.").replace(".output.dense.", ".mlp.fc2.")


def older_keys(name: str) -> list[str]:
    """The names in transformers 4 that ``image_key`` turns into this one.

    Example:
        >>> older_keys("layers.3.attention.q_proj.bias"), older_keys("embeddings.cls_token")
        (['encoder.layer.3.attention.attention.query.bias'], ['embeddings.cls_token'])
    """
    found = []
    for inner in ("attention.attention", "attention.self"):
        head = re.sub(r"^layers\.", "encoder.layer.", name)
        for old, new in _PARTS.items():
            head = head.replace(f".attention.{new}.", f".{inner}.{old}.")
        head = head.replace(".attention.relative_position_bias.", ".attention.self.")
        head = head.replace(".attention.o_proj.", ".attention.output.dense.")
        found.append(head.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense."))
    return [key for key in dict.fromkeys(found) if image_key(key) == name]
