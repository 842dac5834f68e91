"""ESL for many images and captions: equal images and equal captions score equally, whatever lies beside them.

What a sum of products rounds to depends on the size of the product. So every tile has products of one size: some words
of captions that follow each other, of whatever lengths, with the patches of some images; where a block is smaller, the
product reaches back into the rows before it, whose numbers are dropped. The cells of captions of equal length and of
images of equal size are then reduced together (``two_way_attention.tile_scores``), in an order that knows no
neighbours.

On a card a kernel scores one pair after the other, and larger pairs are scored as in training.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from patchword.methods.base import Method
from patchword.methods.esl import Esl
from patchword.scoring.kernels import has_kernel
from patchword.scoring.space import Space
from patchword.scoring.tiles import PairTiles, Tiles, by_length_nearby, cuts_by_rows, cuts_of, most_rows
from patchword.scoring.two_way_attention import most_held, tile_scores, two_way_scores
from patchword.types import Encoded

_PATCHES, _WORDS = 288, 896  # of a product: a few blocks of its cells fit into the cache
_CAPTIONS = 1024  # of a tile
_ON_A_CARD = (64, 1024)  # images and captions of a tile there


@dataclass(frozen=True)
class Side:
    """Rows of consecutive sets, cut into products.

    Attributes:
        rows: ``(T, E)`` of all sets; T is at least the size of a product.
        lengths: rows of each set.
        starts: where each set begins in ``rows``, with their end.
        cuts: where the sets of a product begin, with the number of sets at the end.
        size: rows of a product.
    """

    rows: Float[Tensor, "T E"]
    lengths: list[int]
    starts: list[int]
    cuts: list[int]
    size: int

    @classmethod
    def of(cls, sets: Encoded, size: int) -> Side:
        """Products of ``size`` rows, or of as many as the largest set has."""
        size = max(size, sets.max_length)
        missing = max(0, size - len(sets.vectors))
        rows = pad(sets.vectors, (0, 0, 0, missing)) if missing else sets.vectors
        return cls(rows, sets.lengths.tolist(), sets.offsets.tolist(), cuts_by_rows(sets.lengths, size), size)

    def product(self, first: int) -> tuple[Float[Tensor, "s E"], int]:
        """Rows of the product that begins with the set ``first``, and how many of them lie before this set."""
        start = min(self.starts[first], len(self.rows) - self.size)
        return self.rows[start : start + self.size], self.starts[first] - start

    def equal(self, first: int, last: int) -> list[tuple[int, int]]:
        """First and last set of each run of sets of one size among ``first:last``."""
        cuts = [k for k in range(first + 1, last) if self.lengths[k] != self.lengths[k - 1]]
        return list(pairwise([first, *cuts, last]))


class TwoWayTiles(Tiles):
    """Scores of ESL.

    Args:
        images, captions: float32 sets on the CPU.
        temperature: of both attentions.
    """

    def __init__(self, images: Encoded, captions: Encoded, temperature: Float[Tensor, ""]) -> None:
        self._images, self._sets, self._temperature = Side.of(images, _PATCHES), captions, temperature
        self.image_cuts = self._images.cuts
        self.caption_cuts = cuts_of(len(captions), _CAPTIONS)
        self.captions: Int[Tensor, " M"] = by_length_nearby(captions.lengths, 4 * _CAPTIONS)
        self._words = max(_WORDS, captions.max_length)
        width = images.vectors.shape[1]
        self.tile_bytes = 4 * (6 * self._words * self._images.size + most_rows(captions.lengths, _CAPTIONS) * width)
        self._last, self._space = threading.local(), Space()

    @torch.no_grad()
    def tile(self, row: int, column: int) -> Float[Tensor, "n m"]:
        """Scores of one tile."""
        images, words, block = self._images, self._words_of(column), self.images_of(row)
        patches, skipped = images.product(block.start)
        scores = patches.new_empty(len(words.lengths), block.stop - block.start)  # (m, n)
        for first, last in pairwise(words.cuts):
            some, before = words.product(first)
            cells = torch.mm(some, patches.T, out=self._space.take("cells", len(some), len(patches)))
            for a, b in images.equal(block.start, block.stop):
                left, size = images.starts[a] - images.starts[block.start] + skipped, images.lengths[a]
                for c, d in words.equal(first, last):
                    top, length = words.starts[c] - words.starts[first] + before, words.lengths[c]
                    own = cells[top : top + (d - c) * length, left : left + (b - a) * size].contiguous()
                    found = tile_scores(own.view(d - c, length, b - a, size), self._temperature)
                    scores[c:d, a - block.start : b - block.start] = found
        return scores.T

    def _words_of(self, column: int) -> Side:
        """The words of a column; each thread remembers its last ones."""
        if getattr(self._last, "column", None) != column:
            chosen = self.captions[self.places_of(column)]
            self._last.words = None  # so that two columns are never held
            self._last.words = Side.of(self._sets.select(chosen), self._words)
            self._last.column = column
        words: Side = self._last.words
        return words


def esl_tiles(method: Method, images: Encoded, captions: Encoded) -> Tiles | None:
    """Tiles of ESL on a CPU, or on a card that the kernel runs on; None elsewhere, where products may be larger."""
    assert isinstance(method, Esl)
    if not len(images) or not len(captions):
        return None
    temperature = method.temperature.detach().float()
    if images.vectors.device.type == "cpu":
        return TwoWayTiles(images.float(), captions.float(), temperature)
    if has_kernel("two_way_attention_triton", images.vectors.device):
        return card_tiles(images.float(), captions.float(), temperature)
    return None


def card_tiles(images: Encoded, captions: Encoded, temperature: Float[Tensor, ""]) -> PairTiles:
    """The grid of a card: a tile has enough pairs to fill it, and there are enough rows of tiles to share."""
    sizes = min(len(images), _ON_A_CARD[0]), min(len(captions), _ON_A_CARD[1])
    rows = most_rows(captions.lengths.cpu(), sizes[1])
    held = 2 * 4 * sizes[0] * sizes[1] + 4 * rows * images.vectors.shape[1]
    if not all(bool(small.all()) for small in _small(images, captions)):
        held += 4 * (rows + sizes[0] * images.max_length) * images.vectors.shape[1]  # copies of both parts
        held += most_held(sizes[0] * sizes[1], images.max_length * captions.max_length, images.vectors.device)
    return PairTiles(partial(scores_on_a_card, temperature), images, captions, sizes, held)


@torch.no_grad()
def scores_on_a_card(temperature: Float[Tensor, ""], images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
    """Scores of every pair: by the kernel where a pair fits on the chip, else as in training."""
    from patchword.scoring.two_way_attention_triton import fused_scores

    small = _small(images, captions)
    if all(bool(side.all()) for side in small):
        return fused_scores(images, captions, float(temperature))
    scores = images.vectors.new_empty(len(images), len(captions))
    sides = [[(True, side.nonzero()[:, 0]), (False, (~side).nonzero()[:, 0])] for side in small]
    for (few_patches, rows), (few_words, columns) in product(*sides):
        if not len(rows) or not len(columns):
            continue
        a, b = images.select(rows), captions.select(columns)
        if few_patches and few_words:
            scores[rows[:, None], columns] = fused_scores(a, b, float(temperature))
        else:
            scores[rows[:, None], columns] = two_way_scores(a, b, temperature.to(a.vectors))
    return scores


def _small(images: Encoded, captions: Encoded) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " C"]]:
    """Images and captions whose pairs the kernel takes."""
    from patchword.scoring.two_way_attention_triton import PATCHES, WORDS

    return images.lengths <= PATCHES, captions.lengths <= WORDS
