"""SCTA and LAPS for many images and captions, at nearly the rate of a matrix product; no mixture is ever formed.

Three identities, none of them an approximation, for an image with patches X and a caption that keeps some of them:

* Mixtures are compared by their directions alone, so the sums below their softmax shares cancel: a share may be
  exp(logit) of a kept patch and 0 of a dropped one, and exp(logit) is the same for every caption.
* <word, mixture> = sum of share * <word, patch>: one product of all words with all patches gives what is mixed.
* |mixture| = |R share| with X^T = QR, which is P numbers long instead of D, and R is triangular.

Readable form: ``patchword.methods.scta.score_captions``. Measured: docs/performance.md.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from patchword.layers.condense import keep_highest, kept_count
from patchword.methods.base import Method
from patchword.methods.scta import SLOPE, CaptionTokens, Scta, score_captions
from patchword.scoring.tiles import Tiles, by_length_nearby, cuts_of
from patchword.types import Encoded

_IMAGES, _CAPTIONS = 32, 1024  # of a tile
_CHUNK = 64  # captions that are compared at a time, so that their shares stay in the cache
_WIDEST_RANGE = 30.0  # of a mixture's logits, so that the square of the smallest share is still a float
_TRIANGLE = 128  # patches from which on the zeros of R are worth four products instead of one


class Space(threading.local):
    """Memory for temporaries, kept by each thread: fresh memory would cost as much as what is done with it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised; valid until the same name is taken again."""
        count = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < count:
            held = self._held[name] = like.new_empty(count)
        return held[:count].view(shape)


@dataclass(frozen=True)
class ImageSide:
    """What an image brings to all captions.

    Attributes:
        patches: ``(P, D)`` raw.
        units: ``(P, D)`` their directions.
        shared: ``(P,)`` cosine with the image's mean.
        shares: ``(A, P)`` exp(logit - largest logit of the mixture).
        factor: ``(r, P)`` whose product with shares is as long as the mixture; upper triangular when r = P.
        direction: ``(D,)`` of the class token; None without one.
    """

    patches: Float[Tensor, "P D"]
    units: Float[Tensor, "P D"]
    shared: Float[Tensor, " P"]
    shares: Float[Tensor, "A P"]
    factor: Float[Tensor, "r P"]
    direction: Float[Tensor, " D"] | None

    @classmethod
    @torch.no_grad()
    def of(cls, rows: Float[Tensor, "R D"], logits: Float[Tensor, "R A"], has_class_token: bool) -> ImageSide | None:
        """From the tokens of an image; None where logits are so far apart that shares would vanish."""
        patches, logits = (rows[1:], logits[1:]) if has_class_token else (rows, logits)
        below = logits - logits.amax(0)
        if float(below.min()) < -_WIDEST_RANGE:
            return None
        units = normalize(patches, dim=1)
        is_square = len(patches) <= patches.shape[1]
        return cls(
            patches,
            units,
            units @ normalize(patches.mean(0), dim=0),
            below.exp().T.contiguous(),
            torch.linalg.qr(patches.T, mode="r")[1] if is_square else patches.T,
            normalize(rows[0], dim=0) if has_class_token else None,
        )

    def lengths(self, shares: Float[Tensor, "N P"], space: Space) -> Float[Tensor, " N"]:
        """Lengths of mixtures."""
        P = len(self.patches)
        parts = 4 if len(self.factor) == P >= _TRIANGLE else 1
        cuts = [len(self.factor) * k // parts for k in range(parts + 1)]
        found = space.take("mixtures", shares, len(shares), len(self.factor))
        for a, b in pairwise(cuts):
            first = a if parts > 1 else 0  # the columns to the left hold zeros
            torch.mm(shares[:, first:], self.factor[a:b, first:].T, out=found[:, a:b])
        lengths: Tensor = torch.linalg.vector_norm(found, dim=1)
        return lengths


def compare(image: ImageSide, words: CaptionTokens, kept: int, space: Space) -> Float[Tensor, " C"]:
    """Scores of one image with some captions, see ``patchword.methods.scta.score_captions``."""
    tokens = words.tokens
    C, J, _ = tokens.shape
    scores = words.means @ image.units.T + image.shared  # (C, P)
    keep = _keep(scores, kept).to(scores)
    A, P = image.shares.shape
    shares = space.take("shares", tokens, C, A + 1, P)
    torch.mul(keep[:, None], image.shares, out=shares[:, :A])
    torch.mul(1 - keep, scores.exp(), out=shares[:, A])
    lengths = image.lengths(shares.flatten(0, 1), space).clamp_min(1e-30).view(C, 1, A + 1)
    products = space.take("products", tokens, C, J, P)
    torch.mm(tokens.flatten(0, 1), image.patches.T, out=products.flatten(0, 1))
    cosines = torch.bmm(products, shares.transpose(1, 2)).div_(lengths)  # (C, J, A + 1)
    if image.direction is not None:
        cosines = torch.cat([(tokens @ image.direction)[..., None], cosines], dim=2)
    real = torch.arange(J, device=tokens.device) < words.counts[:, None]  # (C, J)
    by_word = leaky_relu(cosines.amax(2), SLOPE).masked_fill(~real, 0.0).sum(1) / words.counts
    by_patch = leaky_relu(cosines.masked_fill(~real[..., None], -torch.inf).amax(1), SLOPE).mean(1)
    return by_word + by_patch


def _keep(scores: Float[Tensor, "C P"], kept: int) -> Bool[Tensor, "C P"]:
    """``keep_highest``, quicker where no two scores are equal at the boundary."""
    least = scores.topk(kept, dim=1, sorted=False).values.amin(1, keepdim=True)
    keep = scores >= least
    return keep if int(keep.sum()) == kept * len(scores) else keep_highest(scores, kept)


class CondensedTiles(Tiles):
    """Scores of SCTA or LAPS with a word head that is the same for every call."""

    def __init__(self, method: Scta, images: Encoded, captions: Encoded) -> None:
        self._method, self._images, self._sets = method, images.float(), captions.float()
        self.image_cuts = cuts_of(len(images), _IMAGES)
        self.caption_cuts = cuts_of(len(captions), _CAPTIONS)
        self.captions = by_length_nearby(captions.lengths.cpu(), 4 * _CAPTIONS)
        tokens = max(5, captions.max_length)
        width, patches = images.vectors.shape[1], images.max_length
        mixtures = method.patch_condenser.fc2.out_features + 1
        self.tile_bytes = 4 * (2 * _CAPTIONS * tokens * width + _CHUNK * patches * (2 * mixtures + tokens))
        self._last, self._space = threading.local(), Space()

    @torch.no_grad()
    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile."""
        method, block = self._method, self.images_of(row)
        images, words = self._images.slice(block.start, block.stop), self._words(column)
        logits, bounds = method.patch_condenser(images.vectors), images.offsets.tolist()
        scores = images.vectors.new_empty(len(images), len(words.counts))
        for b, (start, stop) in enumerate(pairwise(bounds)):
            rows, own = images.vectors[start:stop], logits[start:stop]
            side = ImageSide.of(rows, own, method.has_class_token)
            kept = kept_count(stop - start - int(method.has_class_token), method.config.keep_ratio)
            for first in range(0, len(words.counts), _CHUNK):
                part = _part(words, slice(first, first + _CHUNK))
                scores[b, first : first + _CHUNK] = (
                    score_captions(rows, own, part, method.config.keep_ratio, method.has_class_token)
                    if side is None
                    else compare(side, part, kept, self._space)
                )
        return scores

    def _words(self, column: int) -> CaptionTokens:
        """The tokens of the captions of a column; each thread remembers its last ones."""
        if getattr(self._last, "column", None) != column:
            chosen: Int[Tensor, " m"] = self.captions[self.places_of(column)].to(self._sets.lengths.device)
            self._last.words = self._method.caption_tokens(self._sets.select(chosen))[0]
            self._last.column = column
        words: CaptionTokens = self._last.words
        return words


def _part(words: CaptionTokens, chosen: slice) -> CaptionTokens:
    """Some captions, padded to the longest of them."""
    counts = words.counts[chosen]
    return CaptionTokens(words.means[chosen], words.tokens[chosen, : int(counts.max())].contiguous(), counts)


def condensed_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles | None:
    """Tiles of SCTA and LAPS; None where random heads are drawn at every call."""
    assert isinstance(method, Scta)
    if method.config.word_condenser == "random" and method.config.word_head == "resample":
        return None
    return CondensedTiles(method, images, captions)
