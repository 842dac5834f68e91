"""Tiny splits, models and score matrices for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from held import Rows, random_model

from patchword.data.table import Split
from patchword.evaluate.folds import recall_by_fold
from patchword.evaluate.queries import Queries, queries_of
from patchword.evaluate.scores_file import Provenance, SavedScores, caption_digests
from patchword.model import Model

WIDTH = 5
WORDS = ("dog", "cat", "ball", "tree", "car", "boat")


def toy_split(
    image_ids: Sequence[str], *, each: int = 2, dataset: str = "toy", name: str = "test", seed: int = 0
) -> Split:
    """Random regions, and captions of two to four words."""
    n = len(image_ids)
    draw = np.random.default_rng(seed)
    regions = torch.randn(n, 4, WIDTH, generator=torch.Generator().manual_seed(seed))
    captions = [" ".join(draw.choice(WORDS, draw.integers(2, 5))) for _ in range(n * each)]
    return Split(dataset, name, list(image_ids), captions, np.arange(n * each) // each, images=Rows(regions))


def toy_model(kind: str = "vse_inf", *, seed: int = 0, width: int = WIDTH) -> Model:
    """A method with random weights that knows the words of ``toy_split``."""
    return random_model(kind, [" ".join(WORDS)], seed=seed, width=width)


def noisy_scores(owner: np.ndarray, n_images: int, *, strength: float = 1.0, seed: int = 0) -> np.ndarray:
    """Random scores, higher by ``strength`` for right pairs; no two alike."""
    draw = np.random.default_rng(seed)
    scores = draw.permutation(n_images * len(owner)).reshape(n_images, -1) / (n_images * len(owner))
    right = owner == np.arange(n_images)[:, None]
    return scores + strength * draw.random(right.shape) * right


def queries_in(scores: np.ndarray, owner: np.ndarray, *, folds: int = 1) -> Queries:
    """Ranks of every query, as an evaluation in so many folds keeps them."""
    return queries_of(recall_by_fold(scores, owner, folds).ranks, owner, len(scores))


def saved_scores(split: Split, *, strength: float = 1.0, seed: int = 0, path: str = "memory") -> SavedScores:
    """Noisy scores of a split with its ids."""
    return SavedScores(
        noisy_scores(np.asarray(split.owner), split.n_images, strength=strength, seed=seed).astype(np.float32),
        np.asarray(split.owner),
        tuple(split.image_ids),
        caption_digests(split.captions),
        Provenance(split.dataset, split.name, "toy"),
        path=path,
    )


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
