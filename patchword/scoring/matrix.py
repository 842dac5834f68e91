"""Score matrices of any size, tile by tile, in bounded memory. The result does not depend on the tiling.

``pair_scores`` is what training and evaluation call: the fast exact form of a method where ``scoring/`` has one, else
its own readable ``score``. Both agree (tests/scoring).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.base import Method
from patchword.types import Encoded

# method -> module:function(method, images, captions) or None when that configuration has no fast form
_FAST = {"chan": "patchword.scoring.hard_assignment:chan_scores"}

TILE_BYTES = 256 << 20  # memory of the largest temporary of one tile


def pair_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """Score every image against every caption in one piece; differentiable."""
    if method.name in _FAST:
        module, _, name = _FAST[method.name].partition(":")
        fast: Callable[[Method, Encoded, Encoded], Tensor | None] = getattr(import_module(module), name)
        scores = fast(method, images, captions)
        if scores is not None:
            return scores
    return method.score(images, captions)


def tile_sizes(method: Method, images: Encoded, captions: Encoded, budget: int = TILE_BYTES) -> tuple[int, int]:
    """Images and captions per tile so that the temporaries of a tile stay within ``budget`` bytes."""
    per_pair = method.pair_bytes(images, captions)
    n_captions = min(len(captions), 1024, max(1, budget // per_pair))
    return max(1, min(len(images), budget // (per_pair * max(1, n_captions)))), max(1, n_captions)


@torch.no_grad()
def score_matrix(
    method: Method,
    images: Encoded,
    captions: Encoded,
    *,
    tile: tuple[int, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "N M"]:
    """Scores of all images against all captions, float32 on the CPU.

    Args:
        method: in evaluation mode.
        images, captions: float32 vector sets.
        tile: images and captions per tile; chosen from the memory budget by default.
        progress: called with the number of pairs scored since the last call.
    """
    scores = torch.empty(len(images), len(captions))
    rows, columns = tile if tile is not None else tile_sizes(method, images, captions)
    order = torch.argsort(captions.lengths, stable=True)  # tiles of captions of similar length waste no padding
    for start in range(0, len(captions), columns):
        chosen = order[start : start + columns]
        words = captions.select(chosen)
        for first, block in _blocks(images, rows):
            scores[first : first + len(block), chosen.cpu()] = pair_scores(method, block, words).float().cpu()
            if progress is not None:
                progress(len(block) * len(words))
    return scores


def _blocks(sets: Encoded, size: int) -> Iterator[tuple[int, Encoded]]:
    for first in range(0, len(sets), size):
        yield first, sets.slice(first, first + size)
