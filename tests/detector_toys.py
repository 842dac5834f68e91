"""Tiny random detectors of the DETR family, and pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from patchword.data.clip_files import quiet
from patchword.data.detector import DETECTORS

WIDTH, QUERIES = 32, 9
LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": QUERIES,
    "num_labels": 5,
    "d_model": WIDTH,
}
NARROW: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8], "depths": [1] * 4, "layer_type": "basic"}


def write_detector(folder: Path, family: str, seed: int = 0) -> Path:
    """A tiny random detector with a backbone of transformers' own."""
    torch.manual_seed(seed)
    sizes = {"shortest_edge": 48, "longest_edge": 80}
    stages = ["stage4"] if family in ("detr", "conditional_detr") else ["stage2", "stage3", "stage4"]
    model, transform = (getattr(transformers, name) for name in DETECTORS[family])
    if family == "rt_detr":
        backbone: Any = transformers.RTDetrResNetConfig(out_features=stages, **NARROW)
        more = {"encoder_hidden_dim": WIDTH, "encoder_in_channels": [4, 8, 8], "decoder_in_channels": [WIDTH] * 3}
        config: Any = transformers.RTDetrConfig(backbone_config=backbone, num_denoising=0, **more, **LAYERS)
        made = transform(size={"height": 64, "width": 64})
    else:
        backbone = transformers.ResNetConfig(out_features=stages, **NARROW)
        config = model.config_class(
            backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, **LAYERS
        )
        made = transform(size=sizes)
    with quiet():
        whole = model(config)
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        whole.save_pretrained(folder)
        made.save_pretrained(folder)
    return folder


def noise(path: Path, height: int, width: int, seed: int) -> Path:
    """A picture of coloured blots."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path
