"""Small SCTA and LAPS models whose condensers choose, for the tests of their fast forms."""

from __future__ import annotations

from typing import Any

import torch

from patchword.encoders.all_tokens import ClassVitConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.scta import Laps, LapsConfig, Scta, SctaConfig

KINDS = ("scta", "laps", "class_token")
VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
}


def made(kind: str, width: int = 10, dtype: torch.dtype = torch.float32, **changes: Any) -> Scta:
    """A model of a kind in evaluation mode, whose condensers do not weigh all patches alike."""
    torch.manual_seed(2)
    base: dict[str, Any] = {"joint_dim": width, "patches": 24, "text": BigruConfig(vocab_size=5, word_dim=3)}
    base["image"] = ClassVitConfig(arch=VIT) if kind == "class_token" else RegionsConfig(width=5)
    base |= changes
    method = Laps(LapsConfig(**base)) if kind == "laps" else Scta(SctaConfig(**base))
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "condenser" in name:
                parameter.add_(torch.randn_like(parameter))
    return method.eval().to(dtype)
