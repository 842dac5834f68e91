"""ESL's two attentions over all word x patch cells, tile by tile, without padding and with a gradient of its own.

A word's row times a patch's row is their score over all levels, because the rows of patches hold the bilinear forms
already. Captions of equal length and images of equal size are taken together, so no cell is masked, and a tile of cells
is reduced to the scores of its pairs before the next one is made. Nothing of it is kept: the backward pass makes the
cells again, and with hardest negatives only those of the few pairs that have a gradient. Readable form:
``patchword.methods.esl.split_scores``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.methods.base import Method
from patchword.methods.esl import EPS, SLOPE, Esl
from patchword.types import Encoded

_TILE_CELLS = {"cpu": 1 << 18, "cuda": 1 << 24}  # cells held at a time: a few blocks of them fit into the cache
_SPARSE = 0.2  # share of pairs with a gradient below which the backward pass takes them one by one
_STEEPEST = 60.0  # temperature up to which exp(temperature) is far from overflow, so no maximum is taken off
_WAYS = ((1, 3), (3, 1))  # (length over words, softmax over patches), (length over patches, softmax over words)


def esl_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """ESL's scores of every pair; differentiable."""
    assert isinstance(method, Esl)
    return two_way_scores(images, captions, method.temperature.to(images.vectors))


def two_way_scores(images: Encoded, captions: Encoded, temperature: Float[Tensor, ""]) -> Float[Tensor, "B C"]:
    """ESL's scores for a temperature; differentiable."""
    patch_groups, word_groups = list(_by_length(images)), list(_by_length(captions))
    rows = [
        torch.cat([group_scores(patches, words, temperature) for _, words in word_groups], dim=1)
        for _, patches in patch_groups
    ]
    row_order, column_order = (torch.cat([items for items, _ in g]).argsort() for g in (patch_groups, word_groups))
    return torch.cat(rows)[row_order][:, column_order]


def _by_length(sets: Encoded) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, "n S E"]]]:
    """Positions of the sets of each size, and their rows as one block; nothing is copied where they lie together."""
    for size in sets.lengths.unique().tolist():
        items = (sets.lengths == size).nonzero()[:, 0]
        first, last = int(items[0]), int(items[-1])
        together = last - first + 1 == len(items)
        chosen = sets.slice(first, last + 1) if together else sets.select(items)
        yield items, chosen.vectors.view(len(items), size, -1)


def group_scores(
    patches: Float[Tensor, "b R E"], words: Float[Tensor, "c L E"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "b c"]:
    """Scores of images of one size and captions of one length."""
    scores: Tensor = _GroupScores.apply(patches, words, temperature)  # type: ignore[no-untyped-call]
    return scores


class _GroupScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, words: Tensor, temperature: Tensor) -> Tensor:
        ctx.save_for_backward(patches, words, temperature)
        scores = patches.new_empty(len(patches), len(words))
        for rows, columns in _tiles(patches, words):
            scores[rows, columns] = tile_scores(_cells(patches[rows], words[columns]), temperature).T
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches, words, temperature = ctx.saved_tensors
        needed = grads[0].nonzero()
        if len(needed) <= _SPARSE * grads[0].numel():
            return _gradient_of_pairs(patches, words, temperature, grads[0], needed)
        to_patches, to_words, to_temperature = (torch.zeros_like(t) for t in (patches, words, temperature))
        for rows, columns in _tiles(patches, words):
            tile, block = words[columns], patches[rows]
            to_cells, more = tile_gradient(_cells(block, tile), grads[0][rows, columns].T, temperature)
            flat = to_cells.flatten(2).flatten(0, 1)  # (c L, b R)
            to_words[columns] += (flat @ block.flatten(0, 1)).view_as(tile)
            to_patches[rows] += (flat.T @ tile.flatten(0, 1)).view_as(block)
            to_temperature += more
        return to_patches, to_words, to_temperature


def _gradient_of_pairs(
    patches: Float[Tensor, "b R E"],
    words: Float[Tensor, "c L E"],
    temperature: Float[Tensor, ""],
    grad: Float[Tensor, "b c"],
    needed: Int[Tensor, "P 2"],
) -> tuple[Float[Tensor, "b R E"], Float[Tensor, "c L E"], Float[Tensor, ""]]:
    """The backward pass of the pairs in ``needed``; all others have no gradient."""
    to_patches, to_words, to_temperature = (torch.zeros_like(t) for t in (patches, words, temperature))
    size = max(1, _TILE_CELLS.get(patches.device.type, 1 << 18) // (patches.shape[1] * words.shape[1]))
    for image, caption in (part.unbind(1) for part in needed.split(size)):
        block, tile = patches[image], words[caption]  # (p, R, E), (p, L, E)
        cells = (tile @ block.transpose(1, 2))[:, :, None]  # (p, L, 1, R)
        to_cells, more = tile_gradient(cells, grad[image, caption][:, None], temperature)
        to_words.index_add_(0, caption, to_cells[:, :, 0] @ block)
        to_patches.index_add_(0, image, to_cells[:, :, 0].transpose(1, 2) @ tile)
        to_temperature += more
    return to_patches, to_words, to_temperature


def _tiles(patches: Float[Tensor, "b R E"], words: Float[Tensor, "c L E"]) -> Iterator[tuple[slice, slice]]:
    """Images and captions that are taken together."""
    most = _TILE_CELLS.get(patches.device.type, 1 << 18)
    per_pair = patches.shape[1] * words.shape[1]
    columns = min(len(words), max(1, int((most / per_pair) ** 0.5)))
    rows = max(1, most // (per_pair * max(1, columns)))
    for first in range(0, len(patches), rows):
        for start in range(0, len(words), max(1, columns)):
            yield slice(first, first + rows), slice(start, start + columns)


def most_held(pairs: int, per_pair: int, device: torch.device) -> int:
    """Bytes of temporaries that scoring takes at most: the cells of a tile, and what is made of them."""
    return 4 * 6 * min(pairs * per_pair, max(per_pair, _TILE_CELLS.get(device.type, 1 << 18)))


def _cells(patches: Float[Tensor, "b R E"], words: Float[Tensor, "c L E"]) -> Float[Tensor, "c L b R"]:
    """Scores of all words and patches, in one product."""
    return (words.flatten(0, 1) @ patches.flatten(0, 1).T).view(*words.shape[:2], *patches.shape[:2])


def _powers(
    p: Float[Tensor, "c L b R"], factor: Tensor, dim: int, temperature: Tensor, space: Tensor | None = None
) -> Float[Tensor, "c L b R"]:
    """exp of the logits; |p / length| <= 1, so the largest logit is taken off only for steep temperatures."""
    logits = torch.mul(p, factor, out=space)
    if float(temperature) > _STEEPEST:
        logits -= logits.amax(dim, keepdim=True)
    return logits.exp_()


def tile_scores(s: Float[Tensor, "c L b R"], temperature: Float[Tensor, ""]) -> Float[Tensor, "c b"]:
    """Scores of the pairs of a tile from its cells."""
    p = torch.nn.functional.leaky_relu_(torch.tanh(s), SLOPE)
    space = p * p
    factors = [temperature / _sum(space, across).sqrt_().add_(EPS) for across, _ in _WAYS]
    scores = s.new_zeros(len(s), s.shape[2])
    for factor, (across, along) in zip(factors, _WAYS, strict=True):
        powers = _powers(p, factor, along, temperature, space)
        total = _sum(powers, along)
        means = _sum(powers.mul_(s), along).div_(total)
        scores += _sum(means, across).div_(s.shape[across])[:, 0, :, 0]
    return scores


def _sum(values: Float[Tensor, "c L b R"], dim: int) -> Float[Tensor, ...]:
    """Sum over words (1) or patches (3), whose axis stays.

    The order of summation is the same wherever a cell stands: ``sum`` over words would take the last columns of a tile
    in another order, and a product with ones its last rows.
    """
    if dim == 3:
        return values.sum(3, keepdim=True)
    total = values[:, :1].clone()
    for word in range(1, values.shape[1]):
        total += values[:, word : word + 1]
    return total


def tile_gradient(
    s: Float[Tensor, "c L b R"], grad: Float[Tensor, "c b"], temperature: Float[Tensor, ""]
) -> tuple[Float[Tensor, "c L b R"], Float[Tensor, ""]]:
    """Gradient of a tile's cells and of the temperature.

    With m = 1 / n or 1 / R, A the weights, u = sum of A S:  from the mean g m A;  to the logits g m A (S - u), from
    there to P through the quotient P / (length + 1e-8), and to S through the rectifier and tanh.
    """
    t = torch.tanh(s)
    p = torch.nn.functional.leaky_relu(t, SLOPE)
    to_s, to_p, to_temperature = torch.zeros_like(s), torch.zeros_like(s), torch.zeros_like(temperature)
    for across, along in _WAYS:
        length = _sum(p * p, across).sqrt_()
        factor = temperature / (length + EPS)
        weights = _powers(p, factor, along, temperature)
        weights /= weights.sum(along, keepdim=True)
        u = (weights * s).sum(along, keepdim=True)
        weights *= grad[:, None, :, None] / s.shape[across]
        to_s += weights
        to_logits = weights.mul_(s - u)
        pull = (to_logits * p).sum(across, keepdim=True)  # to the factor
        to_temperature += (pull / (length + EPS)).sum()
        to_p += to_logits.mul_(factor)
        to_p -= p * (pull * factor / ((length + EPS) * length.clamp_min(1e-20)))
    to_p = torch.where(t > 0, to_p, SLOPE * to_p)
    to_s += to_p.mul_(1 - t * t)
    return to_s, to_temperature
