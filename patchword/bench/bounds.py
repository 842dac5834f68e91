"""How much the best known bounds of ESL, SCTA and LAPS leave open: why these have no certified ranks.

They are computed from float32 values, hence as narrow as they can be: no form of lower precision, which a screen would
need to be cheap, does better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from patchword.bench.trained import trained_sets
from patchword.errors import ConfigError
from patchword.layers.condense import image_shares, kept_count, patch_scores
from patchword.methods.base import Method
from patchword.methods.esl import Esl
from patchword.methods.scta import CaptionTokens, Scta, score_captions
from patchword.scoring.matrix import score_matrix
from patchword.scoring.truth import RightPairs
from patchword.types import Encoded

_SLACK = 1e-4  # rounding of scores and bounds, relative to the largest score
Bounds = tuple[Float[Tensor, "N M"], Float[Tensor, "N M"]]


def bench_bounds(
    run: Path, data: Path, dataset: str | None = None, *, images: int | None = None, captions: int | None = None
) -> Iterator[dict[str, Any]]:
    """Share of the wrong pairs of a trained model's test split that the bounds of its method can not decide.

    Args:
        run: of ESL, SCTA or LAPS.
        data, dataset: data folder, and its data set's name.
        images, captions: of the split, at most.

    Raises:
        ConfigError: the method has certified ranks, or no bound of it is known.
    """
    sets = trained_sets(run, data, dataset, images=images, captions=captions)
    bounds = _bounds_of(sets.method)
    with torch.no_grad():
        scores = score_matrix(sets.method, sets.images, sets.captions)
        low, high = bounds(sets.method, sets.images, sets.captions)
    slack = _SLACK * float(scores.abs().max())
    yield {
        "bench": "bounds",
        "method": sets.method.name,
        "run": str(run),
        "images": len(sets.images),
        "captions": len(sets.captions),
        "scores_outside": int(((scores < low - slack) | (scores > high + slack)).sum()),
        "mean_width": round(float((high - low).mean()), 4),
        "score_deviation": round(float(scores.std()), 4),
        "share_open": round(open_share(scores, low, high, sets.owner), 4),
    }


def open_share(scores: Float[Tensor, "N M"], low: Tensor, high: Tensor, owner: Tensor) -> float:
    """Share of the wrong pairs whose bounds touch the best right score of their image or of their caption."""
    N, M = scores.shape
    right = RightPairs.of(owner, N, M)
    boundaries = right.boundaries(scores[right.images, right.captions])
    is_right = torch.zeros(N, M, dtype=torch.bool)
    is_right[right.images, right.captions] = True
    touched = torch.zeros_like(is_right)
    for limit in (boundaries.images[:, None], boundaries.captions[None]):
        touched |= (low <= limit) & (high >= limit)
    return float(touched[~is_right].float().mean())


def _bounds_of(method: Method) -> Callable[[Any, Encoded, Encoded], Bounds]:
    if isinstance(method, Esl):
        return convex_bounds
    if isinstance(method, Scta):
        return moved_bounds
    raise ConfigError(
        f"`bench bounds` was asked for {method.name}. It measures ESL, SCTA and LAPS: CHAN and CLIP have certified "
        "ranks (`bench score --precision certified`), and for the others no bound is known that would pay."
    )


def convex_bounds(method: Esl, images: Encoded, captions: Encoded) -> Bounds:
    """Of ESL: each attention is a mean with weights of its cells S, so it lies between their smallest and largest.

    score <= (1/n) sum over words of the largest S over patches + (1/R) sum over patches of the largest S over words.
    """
    words, real = captions.padded()  # (M, L, E), (M, L)
    found = []
    for patches in images.vectors.split(images.lengths.tolist()):
        cells = words @ patches.T  # (M, L, R)
        for sign in (-1, 1):
            best = (sign * cells).masked_fill(~real[..., None], -torch.inf)
            by_word = best.amax(2).masked_fill(~real, 0.0).sum(1) / captions.lengths
            found.append(sign * (by_word + best.amax(1).mean(1)))
    return torch.stack(found[::2]), torch.stack(found[1::2])


def moved_bounds(method: Scta, images: Encoded, captions: Encoded) -> Bounds:
    """Of SCTA and LAPS: how far the patches that a caption chooses can move the score from that of the mean caption's.

    With eps_t the distance between the unit tokens t of both choices, |score - score_0| <= largest eps_t + mean eps_t:
    a cosine moves by eps_t at most, and so do the maxima over tokens (first half) and the mean over them (second half).
    """
    words, ratio, first = method.caption_tokens(captions)[0], method.config.keep_ratio, int(method.has_class_token)
    usual = CaptionTokens(normalize(words.means.mean(0), dim=0).expand_as(words.means), words.tokens, words.counts)
    sizes = images.lengths.tolist()
    low, high = [], []
    for rows, logits in zip(
        images.vectors.split(sizes), method.patch_condenser(images.vectors).split(sizes), strict=True
    ):
        chosen, most = (
            _unit_tokens(rows[first:], logits[first:], means, ratio) for means in (words.means, usual.means)
        )
        moved = torch.linalg.vector_norm(chosen - most, dim=2)  # (M, A + 1)
        reach = moved.amax(1) + moved.sum(1) / (moved.shape[1] + first)  # the class token does not move
        middle = score_captions(rows, logits, usual, ratio, method.has_class_token)
        low.append(middle - reach)
        high.append(middle + reach)
    return torch.stack(low), torch.stack(high)


def _unit_tokens(
    patches: Float[Tensor, "P D"], logits: Float[Tensor, "P A"], means: Float[Tensor, "M D"], ratio: float
) -> Float[Tensor, "M A1 D"]:
    """Directions of an image's mixtures and of the token of its dropped patches, for each caption."""
    shares = image_shares(logits, patch_scores(patches, means), kept_count(len(patches), ratio))
    return normalize(shares @ patches, dim=2)
