"""SCTA and LAPS for all pairs: exact, in bounded memory, with a gradient only where it is needed.

What depends on one side alone is computed once: the logits of an image's mixtures, the tokens of a caption. Then image
by image: which patches each caption keeps, all mixtures in one product, and their cosines. Nothing of a pair but its
score is kept; the backward pass computes those pairs again that have a gradient, which are few with hardest negatives.
Readable form: ``patchword.methods.scta.Scta.score``. Measured: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.base import Method
from patchword.methods.scta import CaptionTokens, Scta, score_captions
from patchword.types import Encoded

_TILE_FLOATS = 1 << 22  # floats of one temporary: 16 MB, within the cache


class _Condensed(torch.autograd.Function):
    """score[b, c] of all pairs; see ``score_captions``."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        logits: Tensor,
        tokens: Tensor,
        bounds: list[int],
        means: Tensor,
        counts: Tensor,
        keep_ratio: float,
        has_class_token: bool,
    ) -> Tensor:
        ctx.save_for_backward(rows, logits, tokens, means, counts)
        ctx.settings = (bounds, keep_ratio, has_class_token)
        scores = rows.new_empty(len(bounds) - 1, len(tokens))
        for b, (start, stop) in enumerate(pairwise(bounds)):
            for chosen in _chunks(len(tokens), rows, logits, stop - start):
                words = CaptionTokens(means[chosen], tokens[chosen], counts[chosen])
                scores[b, chosen] = score_captions(
                    rows[start:stop], logits[start:stop], words, keep_ratio, has_class_token
                )
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, logits, tokens, means, counts = ctx.saved_tensors
        bounds, keep_ratio, has_class_token = ctx.settings
        (grad,) = grads
        to_rows, to_logits, to_tokens = torch.zeros_like(rows), torch.zeros_like(logits), torch.zeros_like(tokens)
        for b, (start, stop) in enumerate(pairwise(bounds)):
            needed = grad[b].nonzero()[:, 0]
            for part in _chunks(len(needed), rows, logits, stop - start):
                chosen = part if len(needed) == len(tokens) else needed[part]  # a slice copies nothing
                parts = [
                    value.detach().requires_grad_() for value in (rows[start:stop], logits[start:stop], tokens[chosen])
                ]
                words = CaptionTokens(means[chosen], parts[2], counts[chosen])
                with torch.enable_grad():
                    scores = score_captions(parts[0], parts[1], words, keep_ratio, has_class_token)
                found = torch.autograd.grad(scores, parts, grad[b, chosen])
                to_rows[start:stop] += found[0]
                to_logits[start:stop] += found[1]
                to_tokens[chosen] += found[2]
        return to_rows, to_logits, to_tokens, None, None, None, None, None


def _chunks(captions: int, rows: Tensor, logits: Tensor, patches: int) -> Iterator[slice]:
    """Pieces of so many captions whose temporaries with one image stay in the cache."""
    per_caption = (logits.shape[1] + 1) * max(rows.shape[1], patches)
    size = max(1, _TILE_FLOATS // per_caption)
    for start in range(0, captions, size):
        yield slice(start, min(start + size, captions))


def condensed_scores(method: Method, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """The scores of SCTA or LAPS; random heads are drawn once per caption, as in ``Scta.score``."""
    assert isinstance(method, Scta)
    return compare_condensed(method, images, method.caption_tokens(captions)[0])


def compare_condensed(method: Scta, images: Encoded, words: CaptionTokens) -> Float[Tensor, "B C"]:
    """``Scta.compare`` with less memory."""
    scores: Tensor = _Condensed.apply(  # type: ignore[no-untyped-call]
        images.vectors,
        method.patch_condenser(images.vectors),
        words.tokens,
        images.offsets.tolist(),
        words.means,
        words.counts,
        method.config.keep_ratio,
        method.has_class_token,
    )
    return scores
