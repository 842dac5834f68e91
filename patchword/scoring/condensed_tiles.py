"""SCTA and LAPS for many images and captions, at nearly the rate of a matrix product; no mixture is ever formed.

Three identities, none of them an approximation, for an image with patches X and a caption that keeps some of them:

* Mixtures are compared by their directions alone, so the sums below their softmax shares cancel: a share may be
  exp(logit) of a kept patch and 0 of a dropped one, and exp(logit) is the same for every caption.
* <word, mixture> = sum of share * <word, patch>: one product of all words with all patches gives what is mixed.
* |mixture| = |R share| with X^T = QR, which is P numbers long instead of D, and R is triangular.

Readable form: ``patchword.methods.scta.score_captions``. Measured: docs/performance.md.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize, pad

from patchword.layers.condense import keep_highest, kept_count
from patchword.methods.base import Method
from patchword.methods.scta import SLOPE, CaptionTokens, Scta, score_captions
from patchword.scoring.space import Space
from patchword.scoring.tiles import Tiles, by_length_nearby, cuts_of, most_rows
from patchword.types import Encoded

_IMAGES, _CAPTIONS = 32, 1024  # of a tile
_CHUNK = 64  # captions that are compared at a time, so that their shares stay in the cache
_TOGETHER = 16  # captions of one length whose tokens are made at a time
_EVEN = 4  # products of many small matrices round alike for all of them when rows begin at multiples of 16 bytes
_WIDEST_RANGE = 30.0  # of a mixture's logits, so that the square of the smallest share is still a float
_TRIANGLE = 128  # patches from which on the zeros of R are worth four products instead of one


@dataclass(frozen=True)
class ImageSide:
    """What an image brings to all captions; P4 is its number of patches P, rounded up to a multiple of 4 by zeros.

    Attributes:
        patches: ``(P4, D)`` raw.
        units: ``(P, D)`` their directions.
        shared: ``(P,)`` cosine with the image's mean.
        shares: ``(A, P)`` exp(logit - largest logit of the mixture).
        factor: ``(r, P4)`` whose product with shares is as long as the mixture: R, upper triangular, or X^T itself.
    """

    patches: Float[Tensor, "P4 D"]
    units: Float[Tensor, "P D"]
    shared: Float[Tensor, " P"]
    shares: Float[Tensor, "A P"]
    factor: Float[Tensor, "r P4"]

    @classmethod
    @torch.no_grad()
    def of(cls, patches: Float[Tensor, "P D"], logits: Float[Tensor, "P A"]) -> ImageSide | None:
        """From the patches of an image; None where logits are so far apart that shares would vanish."""
        below = logits - logits.amax(0)
        if float(below.min()) < -_WIDEST_RANGE:
            return None
        units, missing = normalize(patches, dim=1), -len(patches) % _EVEN
        is_square = patches.device.type == "cpu" and len(patches) <= patches.shape[1]  # a factor is slow on a card
        return cls(
            pad(patches, (0, 0, 0, missing)),
            units,
            units @ normalize(patches.mean(0), dim=0),
            below.exp().T.contiguous(),
            pad(torch.linalg.qr(patches.T, mode="r")[1] if is_square else patches.T, (0, missing)),
        )

    def lengths(self, shares: Float[Tensor, "N P4"], space: Space) -> Float[Tensor, " N"]:
        """Lengths of mixtures."""
        P = len(self.units)
        parts = 4 if len(self.factor) == P >= _TRIANGLE else 1
        cuts = [len(self.factor) * k // parts for k in range(parts + 1)]
        found = space.take("mixtures", len(shares), len(self.factor), device=shares.device)
        for a, b in pairwise(cuts):
            first = a if parts > 1 else 0  # the columns to the left hold zeros
            torch.mm(shares[:, first:], self.factor[a:b, first:].T, out=found[:, a:b])
        lengths: Tensor = torch.linalg.vector_norm(found, dim=1)
        return lengths


@dataclass(frozen=True)
class CaptionSide:
    """The captions of a column, their tokens one after the other; the last caption is repeated to fill a chunk.

    Attributes:
        means: ``(m, D)`` unit mean of the words of a caption.
        tokens: ``(T, D)`` of all captions.
        starts: where the tokens of each caption begin, with T at the end.
        runs: of each chunk of captions, its runs of captions with as many tokens: first and last one of each.
    """

    means: Float[Tensor, "m D"]
    tokens: Float[Tensor, "T D"]
    starts: list[int]
    runs: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, method: Scta, captions: Encoded) -> CaptionSide:
        """Captions in order of length: what a caption brings is computed with as many others of its length."""
        means, tokens, counts = [], [], []
        for first, last in _runs(captions.lengths.tolist(), 0, len(captions)):
            for start in range(first, last, _TOGETHER):
                found = _equal_tokens(method, captions.slice(start, min(start + _TOGETHER, last)))
                means.append(found.means)
                tokens.append(found.tokens.flatten(0, 1))
                counts += found.counts.tolist()
        more = -len(counts) % _CHUNK
        means.append(means[-1][-1:].expand(more, -1))
        tokens.append(tokens[-1][-counts[-1] :].repeat(more, 1))
        counts += counts[-1:] * more
        runs = [_runs(counts, first, first + _CHUNK) for first in range(0, len(counts), _CHUNK)]
        return cls(torch.cat(means), torch.cat(tokens), [0, *accumulate(counts)], runs)


def _equal_tokens(method: Scta, captions: Encoded) -> CaptionTokens:
    """Tokens of at most ``_TOGETHER`` captions of one length, in products whose size follows from that length."""
    length, count = captions.max_length, len(captions)
    filled = captions.select(torch.arange(_TOGETHER, device=captions.lengths.device).clamp(max=count - 1))
    if length % _EVEN:  # an empty caption after them makes rows of words even
        even = length + -length % _EVEN
        filled = Encoded.concat(
            [filled, Encoded(filled.vectors.new_zeros(even, filled.vectors.shape[1]), filled.lengths[:1] * 0 + even)]
        )
    found = method.caption_tokens(filled)[0]
    tokens = found.tokens[:count, : int(found.counts[0])]
    return CaptionTokens(found.means[:count], tokens, found.counts[:count])


def _runs(values: list[int], first: int, last: int) -> list[tuple[int, int]]:
    """First and last place of each run of equal values at the places ``first:last``."""
    cuts = [k for k in range(first + 1, last) if values[k] != values[k - 1]]
    return list(pairwise([first, *cuts, last]))


def compare(
    image: ImageSide,
    words: CaptionSide,
    chunk: int,
    by_class: Float[Tensor, " T"] | None,
    kept: int,
    space: Space,
) -> Float[Tensor, " c"]:
    """Scores of one image with a chunk of captions, see ``patchword.methods.scta.score_captions``.

    Args:
        image, words: the sides.
        chunk: of the captions.
        by_class: cosine of every token with the class token, where there is one.
        kept: patches that are kept for a caption.
        space: for temporaries.
    """
    runs, device = words.runs[chunk], words.tokens.device
    begin, end = runs[0][0], runs[-1][1]
    scores = words.means[begin:end] @ image.units.T + image.shared  # (c, P)
    keep = _keep(scores, kept).to(scores)
    A, P = image.shares.shape
    shares = space.take("shares", len(scores), A + 1, len(image.patches), device=device)
    shares[..., P:] = 0
    torch.mul(keep[:, None], image.shares, out=shares[:, :A, :P])
    torch.mul(1 - keep, scores.exp(), out=shares[:, A, :P])
    lengths = image.lengths(shares.flatten(0, 1), space).clamp_min(1e-30).view(-1, 1, A + 1)
    first, last = words.starts[begin], words.starts[end]
    products = space.take("products", last - first, len(image.patches), device=device)
    torch.mm(words.tokens[first:last], image.patches.T, out=products)
    found = []
    for a, b in runs:
        rows = slice(words.starts[a], words.starts[b])
        own = products[rows.start - first : rows.stop - first].unflatten(0, (b - a, -1))  # (n, J, P4)
        part = slice(a - begin, b - begin)
        cosines = torch.bmm(own, shares[part].transpose(1, 2)).div_(lengths[part])  # (n, J, A + 1)
        if by_class is not None:
            cosines = torch.cat([by_class[rows].view(*cosines.shape[:2], 1), cosines], dim=2)
        by_word, by_patch = (leaky_relu(cosines.amax(dim), SLOPE).mean(1) for dim in (2, 1))
        found.append(by_word + by_patch)
    return torch.cat(found)


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
        lengths = captions.lengths.cpu().clamp(min=5)  # a caption has at least so many tokens
        width, patches, longest = images.vectors.shape[1], images.max_length, max(5, captions.max_length)
        mixtures = method.patch_condenser.fc2.out_features + 1
        column = 3 * (most_rows(lengths, _CAPTIONS) + _CHUNK * longest)  # words, their tokens, and these joined
        self.tile_bytes = 4 * ((column + _IMAGES * patches) * width + _CHUNK * patches * (2 * mixtures + longest))
        self._last, self._space = threading.local(), Space()

    @torch.no_grad()
    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile."""
        method, block = self._method, self.images_of(row)
        images, words = self._images.slice(block.start, block.stop), self._words(column)
        first, bounds = int(method.has_class_token), images.offsets
        rows = pad(images.vectors, (0, 0, 0, -len(images.vectors) % _TOGETHER))
        logits = method.patch_condenser(rows)
        by_class = None
        if method.has_class_token:
            tokens = pad(images.vectors[bounds[:-1]], (0, 0, 0, _IMAGES - len(images)))
            by_class = words.tokens @ normalize(tokens, dim=1).T  # (T, _IMAGES)
        scores = images.vectors.new_empty(len(images), len(words.means))
        for b, (start, stop) in enumerate(pairwise(bounds.tolist())):
            side = ImageSide.of(rows[start + first : stop], logits[start + first : stop])
            kept = kept_count(stop - start - first, method.config.keep_ratio)
            for chunk in range(len(words.runs)):
                chosen = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                if side is None:
                    scores[b, chosen] = self._as_written(rows[start:stop], logits[start:stop], words, chunk)
                else:
                    own = None if by_class is None else by_class[:, b]
                    scores[b, chosen] = compare(side, words, chunk, own, kept, self._space)
        return scores[:, : len(self.captions[self.places_of(column)])]

    def _as_written(
        self, rows: Float[Tensor, "R D"], logits: Float[Tensor, "R A"], words: CaptionSide, chunk: int
    ) -> Float[Tensor, " c"]:
        """Scores of one image with a chunk of captions, by the readable formula."""
        found, wider = [], (0, -rows.shape[1] % _EVEN)
        ratio, has_class_token = self._method.config.keep_ratio, self._method.has_class_token
        for first, last in words.runs[chunk]:
            chosen = torch.arange(first, first + max(_TOGETHER, last - first), device=rows.device).clamp(max=last - 1)
            tokens = words.tokens[words.starts[first] : words.starts[last]].unflatten(0, (last - first, -1))
            counts = torch.full_like(chosen, tokens.shape[1])
            some = CaptionTokens(pad(words.means[chosen], wider), pad(tokens[chosen - first], wider), counts)
            found.append(score_captions(pad(rows, wider), logits, some, ratio, has_class_token)[: last - first])
        return torch.cat(found)

    def _words(self, column: int) -> CaptionSide:
        """The captions of a column; each thread remembers its last ones."""
        if getattr(self._last, "column", None) != column:
            chosen: Int[Tensor, " m"] = self.captions[self.places_of(column)].to(self._sets.lengths.device)
            self._last.words = None  # so that two columns are never held
            self._last.words = CaptionSide.of(self._method, self._sets.select(chosen))
            self._last.column = column
        words: CaptionSide = self._last.words
        return words


def condensed_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles | None:
    """Tiles of SCTA and LAPS; None where random heads are drawn at every call."""
    assert isinstance(method, Scta)
    if method.config.word_condenser == "random" and method.config.word_head == "resample":
        return None
    return CondensedTiles(method, images, captions)
