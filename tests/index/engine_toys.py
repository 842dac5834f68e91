"""Indexes of random pictures and random region sets for the tests of search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from store_toys import save_pictures, save_pixel_model, save_region_model, write_precomp

from patchword.index import add_captions, build
from patchword.loading import load
from patchword.model import Model
from patchword.types import Encoded

CAPTIONS = ("a red dog and a blue ball.", "a green tree and a car.", "a white bird.", "a black hat and a boat.")


def picture_index(folder: Path, *, method: str = "chan", count: int = 12, captions: bool = False) -> tuple[Path, Model]:
    """An index of small random pictures, and the model it was made with."""
    model = load(save_pixel_model(folder / f"model_{method}", method))
    (folder / "pictures").mkdir(parents=True)
    pictures = save_pictures(folder / "pictures", count)
    out = folder / f"{method}.index"
    build(pictures, out, model=model)
    if captions:
        file = folder / "captions.txt"
        file.write_text("".join(f"{line}\n" for line in CAPTIONS), encoding="utf-8")
        add_captions(out, file, model=model)
    return out, model


def region_index(folder: Path, *, images: int = 300, **more: str) -> tuple[Path, Model]:
    """An index of random region features without pictures, and its model."""
    model = load(save_region_model(folder / "model_regions"))
    data = write_precomp(folder / "data", {"train": images - 40, "dev": 20, "test": 20})
    out = folder / "regions.index"
    build(None, out, model=model, features=data, **more)
    return out, model


def sets_of(count: int, *, size: int = 5, width: int = 16, seed: int = 0) -> Encoded:
    """Random sets of unit vectors, of different sizes, with something in common within a set."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, size + 1, (count,), generator=draw)
    shared = torch.randn(count, width, generator=draw).repeat_interleave(lengths, dim=0)
    own = torch.randn(int(lengths.sum()), width, generator=draw)
    return Encoded(torch.nn.functional.normalize(shared + own, dim=1), lengths)


def best_ten(scores: np.ndarray, ids: np.ndarray) -> list[int]:
    """Ids of the ten largest scores; of equal ones the smaller id."""
    return [int(ids[k]) for k in np.lexsort((ids, -scores))[:10]]
