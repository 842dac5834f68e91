"""CEFG's scores for many captions at once, in bounded memory, with gradients.

Captions of equal length are matched together, so nothing is padded and the norm over words is that of one caption. A
block of images and captions fits the caches of a CPU, or ``_BLOCK_BYTES``; in training, blocks are computed again in
the backward pass when all of them together would hold more than ``_KEPT_BYTES``. Against the readable form: pass 1 and
the final pass share their products, and the words are multiplied once for all captions of a block. Without gradients,
blocks are those of ``regulated_inference``; a training SAF, which needs the statistics of whole captions, stays here.
Readable form: ``patchword.layers.reasoning.Similarity.passes`` and ``patchword.methods.cefg.Cefg.score``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from patchword.layers.reasoning import GatedPooling, Similarity
from patchword.layers.region_context import SLOPE
from patchword.methods.base import Method
from patchword.methods.cefg import Cefg
from patchword.scoring.regulated_inference import FoldedSimilarity
from patchword.scoring.tiles import PairTiles, most_rows
from patchword.types import Encoded

_CACHE_BYTES = 12 << 20  # temporaries of one block on a CPU: 8 to 16 MiB were fastest
_BLOCK_BYTES = 256 << 20  # and elsewhere
_KEPT_BYTES = 3 << 30  # temporaries of all blocks that are kept for the backward pass
_LIVE = 8  # vectors of width D per word of a pair that are alive at a time without gradients
_STORED = 40  # and that the backward pass needs
_FOLDED_LIVE = 4  # the same in ``regulated_inference``
_TILE = (8, 256)  # images and captions of a tile, about; a tile takes a few seconds of a core


def regulated_tiles(method: Method, images: Encoded, captions: Encoded) -> PairTiles:
    """The grid of a whole matrix; weights are folded and packed once for all of its tiles."""
    assert isinstance(method, Cefg)
    if _moves(method.similarity):
        score, rows = partial(regulated_scores, method), 0
    else:
        rows = _rows(images)
        score = partial(FoldedSimilarity(method.similarity).scores, rows=rows)
    n_captions = _even(len(captions), _TILE[1])
    most = max(_TILE[0], _TILE[0] * _TILE[1] // n_captions)  # with few captions more images, so that blocks are full
    n_images = _even(len(images), max(1, min(most, -(-len(images) // 4))))  # four rows keep four cores busy
    held = most_rows(captions.lengths.cpu(), n_captions) + 2 * n_images * images.max_length + (_FOLDED_LIVE + 1) * rows
    return PairTiles(score, images, captions, (n_images, n_captions), 4 * images.vectors.shape[1] * held)


def _even(count: int, most: int) -> int:
    """Size of equal parts of ``count`` things, each with at most ``most``."""
    return max(1, -(-count // max(1, -(-count // most))))


def _rows(images: Encoded) -> int:
    """Words of pairs in a block without gradients."""
    limit = _CACHE_BYTES if images.vectors.device.type == "cpu" else _BLOCK_BYTES
    return max(1, limit // (4 * _FOLDED_LIVE * images.vectors.shape[1]))


def _moves(similarity: Similarity) -> bool:
    """Whether scoring moves running statistics."""
    return isinstance(similarity.head, GatedPooling) and similarity.training


def regulated_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """Scores of every image with every caption; equal to ``Cefg.score`` up to rounding."""
    assert isinstance(method, Cefg)
    if not torch.is_grad_enabled() and not _moves(method.similarity):
        return FoldedSimilarity(method.similarity).scores(images, captions, _rows(images))
    block, real = images.padded()
    learns = torch.is_grad_enabled() and (images.vectors.requires_grad or captions.vectors.requires_grad)
    per_row = 4 * (block.shape[2] + block.shape[1] // 2)
    again = learns and _STORED * per_row * len(images) * len(captions.vectors) > _KEPT_BYTES
    limit = _CACHE_BYTES if block.device.type == "cpu" else _BLOCK_BYTES
    parts, order, moments = [], [], []
    for length in captions.lengths.unique().tolist():
        chosen = torch.nonzero(captions.lengths == length)[:, 0]
        words = captions.select(chosen).vectors.view(len(chosen), length, -1)
        rows = max(1, limit // (_LIVE * per_row * length))  # pairs of a block
        for some, places in zip(
            words.split(max(1, rows // len(images))), chosen.split(max(1, rows // len(images))), strict=True
        ):
            found, moved = _logits(method.similarity, block, real, some, max(1, rows // len(some)), again)
            parts.append(found)
            order.append(places)
            moments.append(moved)
    back = torch.argsort(torch.cat(order))
    head = method.similarity.head
    if isinstance(head, GatedPooling):
        head.move(torch.cat([m for m in moments if m is not None])[back])
    return torch.sigmoid(torch.cat(parts, 1)[:, back])


def _logits(
    similarity: Similarity,
    block: Float[Tensor, "B K1 D"],
    real: Bool[Tensor, "B K1"],
    words: Float[Tensor, "C L1 D"],
    images: int,
    again: bool,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "C 2"] | None]:
    """Logits of some captions of equal length, ``images`` images at a time."""

    def run(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        result: Tensor = checkpoint(function, *inputs, use_reentrant=False) if again else function(*inputs)
        return result

    def nodes(some: Tensor, there: Tensor) -> Tensor:
        return block_nodes(similarity, some, there, words)

    def logits(some: Tensor, there: Tensor) -> Tensor:
        return similarity.logits(nodes(some, there))[0]

    pieces = list(zip(block.split(images), real.split(images), strict=True))
    if not _moves(similarity):
        return torch.cat([run(logits, *piece) for piece in pieces]), words.new_zeros(len(words), 2)
    return similarity.logits(torch.cat([run(nodes, *piece) for piece in pieces]))  # its statistics need all images


def block_nodes(
    similarity: Similarity,
    block: Float[Tensor, "B K1 D"],
    real: Bool[Tensor, "B K1"],
    captions: Float[Tensor, "C L1 D"],
) -> Float[Tensor, "B C L1 S"]:
    """Similarity vectors of every pair: the pooled vectors (row 0 of each set) first, then the words."""
    context, words = block[:, 1:], captions[:, 1:]
    shape = (len(block), *words.shape[:2])  # B, C, L
    hidden = None if bool(real.all()) else ~real[:, None, 1:]  # (B, 1, K)

    def products(queries: Float[Tensor, "*N L D"]) -> Float[Tensor, "B C L K"]:
        s = functional.leaky_relu(queries.flatten(-3, -2) @ context.mT, SLOPE).unflatten(1, shape[1:])
        return _by_length(s, 2)  # over the words of a caption

    def compare(s: Float[Tensor, "B C L K"], sharpness: Tensor | float) -> Float[Tensor, "B C L S"]:
        logits = (s * sharpness).flatten(1, 2)  # (B, C * L, K)
        attention = torch.softmax(logits if hidden is None else logits.masked_fill(hidden, -torch.inf), dim=2)
        attended = _by_length(attention @ context, 2).unflatten(1, shape[1:])
        return _by_length(similarity.local((attended - words).pow(2)), 3)

    plain = products(words)
    modulation: Tensor | None = None
    sharpness = words.new_full(shape, similarity.sharpness)
    for regulator in similarity.regulators:
        s = plain if modulation is None else products(words * modulation)
        modulation, sharpness = regulator(compare(s, sharpness[..., None]), modulation, sharpness)
    final = compare(plain, sharpness[..., None])
    overall = similarity.compare_overall(block[:, None, 0], captions[None, :, 0])  # (B, C, S)
    return torch.cat([overall[:, :, None], final], 2)


def _by_length(values: Float[Tensor, "*N D"], axis: int) -> Float[Tensor, "*N D"]:
    """``unit`` along one axis, in the form that is fastest with its gradient; 1e-30 keeps that finite at zero."""
    length = torch.sqrt((values * values).sum(axis, keepdim=True) + 1e-30)
    return values * (length + 1e-8).reciprocal()
