"""Tiny models and picture folders for the tests of the index."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from small import REGIONS, SIZES, THINGS, WIDTH, write_precomp

from patchword.config import Source
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.model import Model, build_method

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}
JOINT, PATCHES = 8, 4  # D, and vectors of one picture
COLOURS = ("red", "green", "blue", "white", "black", "wall", "everywhere")


def save_model(folder: Path, method: str, image: dict[str, object], *, seed: int = 0, **more: object) -> Path:
    """A checkpoint with random weights and a vocabulary of the toys' words; ``more`` goes into its configuration."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary.build([f"a {' and '.join((*THINGS, *COLOURS))} ."], min_count=1)
    config = {
        "joint_dim": JOINT,
        "image": image,
        "text": {"kind": "bigru", "word_dim": 6, "vocab_size": len(vocabulary)},
        **more,
    }
    if method == "chan":
        config |= {"heads": 2, "pooling": "mean"}
    made = build_method(method, config, {}, Source("toys", {})).eval()
    Model(made, WordTokenizer(vocabulary), {}, None, None).save(folder)
    return folder


def save_pixel_model(folder: Path, method: str = "chan", *, seed: int = 0) -> Path:
    """A model over pictures: 4 vectors of width 8 with CHAN, 1 with VSE-infinity."""
    return save_model(folder, method, {"kind": "vit", "arch": VIT}, seed=seed)


def save_region_model(folder: Path, *, seed: int = 0) -> Path:
    """A CHAN over the region features of `small.write_precomp`."""
    return save_model(folder, "chan", {"kind": "regions", "width": WIDTH}, seed=seed)


def save_picture(path: Path, seed: int, *, side: int = 24) -> Path:
    """A picture whose content depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + seed % 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_pictures(folder: Path, count: int, *, first: int = 0) -> Path:
    """Some pictures, in two folders, that look old."""
    for seed in range(first, first + count):
        age(save_picture(folder / ("a" if seed % 2 else "b/c") / f"p{seed:03d}.png", seed))
    return folder


def age(path: Path, *, by_s: float = 1000.0) -> Path:
    """Make a file look as if it was changed a while ago."""
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - int(by_s * 1e9)))
    return path


__all__ = [
    "JOINT",
    "PATCHES",
    "REGIONS",
    "SIZES",
    "WIDTH",
    "age",
    "save_picture",
    "save_pictures",
    "save_pixel_model",
    "save_region_model",
    "write_precomp",
]
