"""The certified mode of CHAN: bounds of all scores from products of a few 8-bit numbers instead of D floats.

Three steps, each for fewer pairs: all pairs by vectors shortened to their longest directions; those left open by whole
vectors in 8 bits; and those still open in float32. How far each can be from the tile's score is derived in
``short_vectors.py`` and ``hard_bounds.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from patchword.methods.base import Method
from patchword.methods.chan import Chan
from patchword.scoring.bounds import Judge, NoScreen, Screen
from patchword.scoring.hard_bounds import Level, Pool
from patchword.scoring.pooled_words import WordSlots, pool_words
from patchword.scoring.short_vectors import Shortening, directions
from patchword.scoring.space import Space
from patchword.types import Encoded

_SAFE = (1e-12, 1e12)  # largest number of a vector for which no product of interest leaves the range of float32
_PATCHES, _WORDS = 576, 1024  # of one product
_WIDTHS = (32, 64, 128, 256, 512, 1024)  # of short vectors, to choose from
_SAMPLE = (48, 512)  # images and captions on which they are judged
# Costs in products of a pair in float32: of 8 bits, of what comes after a product, of scoring single pairs.
_EIGHT_BITS, _AFTER, _CLOSER, _AGAIN, _WORTH = 0.25, 24.0, 0.5, 1.8, 0.9


class HardScreen(Screen):
    """Bounds of CHAN's scores.

    Args:
        images, captions: float32 sets on the CPU, finite, with norms for which float32 does not overflow.
        pool: of the method.
        short: how vectors are shortened for the first step.
        whole: how for the second one; None skips it.
    """

    def __init__(
        self, images: Encoded, captions: Encoded, pool: Pool, short: Shortening, whole: Shortening | None = None
    ) -> None:
        self._images, self._captions, self._pool = images, captions, pool
        self._starts, self._sizes = images.offsets.tolist(), images.lengths.tolist()
        self._word_starts = captions.offsets
        self._space = Space()
        dims = images.vectors.shape[1]
        self.about = f"{'float32' if short.exact else 'int8'} products of {short.width(dims)} numbers for {dims}"
        self.captions = torch.argsort(captions.lengths, stable=True)
        self.caption_cuts = _cuts_with_little_padding(captions.lengths[self.captions], _WORDS)
        self._first = Level(images, captions, pool, short)
        self._columns = [
            _Column.of(self._first, captions, self.captions[first:last]) for first, last in pairwise(self.caption_cuts)
        ]
        self._first.words = self._first.words[:0]  # the columns have them
        self._whole = None if whole is None else Level(images, captions, pool, whole)

    def bounds(self, images: slice, column: int) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Lower and upper bounds of the scores of some images with the captions of a column."""
        own = self._columns[column]
        at_a_time = max(1, _PATCHES // max(self._sizes[images]))
        parts = []
        for first in range(images.start, images.stop, at_a_time):
            part = slice(first, min(first + at_a_time, images.stop))
            codes = self._upper_codes(self._first, part, own.words, own.scales, own.of_word)
            parts.append(own.pool(codes, self._pool))
        of_image = self._first.of_image[images]
        high = torch.addmm(torch.cat(parts), of_image[:, 4:], own.rounded)
        return high - of_image @ own.spread, high

    def _upper_codes(
        self, level: Level, images: slice, words: Shaped[Tensor, "t K"], scales: Tensor, of_word: Tensor
    ) -> Float[Tensor, "n t"]:
        patches = slice(self._starts[images.start], self._starts[images.stop])
        products = self._space.take("products", patches.stop - patches.start, len(words), dtype=level.product_type)
        return level.upper_codes(images, patches, self._sizes[images], words, scales, of_word, products)

    def closer(self, image: int, captions: Int[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]] | None:
        """Narrower bounds of one image with a few captions."""
        level = self._whole
        if level is None:
            return None
        lengths = self._captions.lengths[captions]
        codes = [
            self._upper_codes(
                level, slice(image, image + 1), words, level.word_scales[rows], level.of_word.index_select(1, rows)
            )
            for rows, words in self._gathered(level.words, captions, lengths)
        ]
        high = pool_words(torch.cat(codes, 1), WordSlots.of(lengths), self._pool.kind, self._pool.temperature)[0]
        of_image = level.of_image[image]
        high += of_image[4:] @ level.rounded[:, captions]
        return high - of_image @ level.spread[:, captions], high

    def again(self, image: int, captions: Int[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Scores of one image with a few captions, and how far those of the tiles can be from them at most."""
        lengths = self._captions.lengths[captions]
        patches = self._images.vectors[self._starts[image] : self._starts[image + 1]]
        codes = [(patches @ words.T).amax(0) for _, words in self._gathered(self._captions.vectors, captions, lengths)]
        slots = WordSlots.of(lengths)
        scores = pool_words(torch.cat(codes)[None], slots, self._pool.kind, self._pool.temperature)
        return scores[0], self._first.of_image[image] @ self._first.distance[:, captions]

    def _gathered(
        self, vectors: Shaped[Tensor, "T K"], captions: Int[Tensor, " k"], lengths: Int[Tensor, " k"]
    ) -> Iterator[tuple[Int[Tensor, " t"], Shaped[Tensor, "t K"]]]:
        """The words of captions, some at a time so that they stay in the cache."""
        for rows in rows_of(self._word_starts[captions], lengths).split(_WORDS):
            held = self._space.take("words", len(rows), vectors.shape[1], dtype=vectors.dtype)
            yield rows, torch.index_select(vectors, 0, rows, out=held)  # 5 times as fast as vectors[rows]


@dataclass(frozen=True)
class _Column:
    """c captions of similar length as a padded table of L words each: all first words, then all second words, ...

    Attributes:
        words: ``(L * c, K)`` short vectors.
        scales: of each; 0 at padding.
        of_word: ``(3, L * c)`` what upper bounds of codes add; 0 at padding.
        rounded, spread: ``(2, c)`` and ``(6, c)``, see ``Level``.
        padding: ``(L, c)`` 0 at real words and -inf at padding.
        lengths: of the captions.
    """

    words: Shaped[Tensor, "Lc K"]
    scales: Float[Tensor, " Lc"]
    of_word: Float[Tensor, "3 Lc"]
    rounded: Float[Tensor, "2 c"]
    spread: Float[Tensor, "6 c"]
    padding: Float[Tensor, "L c"]
    lengths: Float[Tensor, " c"]

    @classmethod
    def of(cls, level: Level, captions: Encoded, chosen: Int[Tensor, " c"]) -> _Column:
        """The captions ``chosen``."""
        lengths = captions.lengths[chosen]
        steps = torch.arange(int(lengths.max()))[:, None]
        is_real = steps < lengths  # (L, c)
        slots = (captions.offsets[:-1][chosen] + steps * is_real).reshape(-1)
        kept = is_real.reshape(-1).float()
        return cls(
            level.words[slots],
            level.word_scales[slots] * kept,
            level.of_word[:, slots] * kept,
            level.rounded[:, chosen],
            level.spread[:, chosen],
            torch.zeros(is_real.shape).masked_fill(~is_real, -torch.inf),
            lengths.float(),
        )

    def pool(self, codes: Float[Tensor, "n Lc"], pool: Pool) -> Float[Tensor, "n c"]:
        """Pool codes, which are 0 at padding."""
        table = codes.view(len(codes), *self.padding.shape)
        if pool.kind == "max":
            return (table + self.padding).amax(1)
        if pool.kind == "lse":
            return torch.logsumexp(table / pool.temperature + self.padding, dim=1)
        total = table.sum(1)
        return total if pool.kind == "sum" else total / self.lengths


def chan_screen(method: Method, images: Encoded, captions: Encoded, judge: Judge) -> Screen | NoScreen | str:
    """Bounds for the coding ``vha`` with any pooling but softmax."""
    assert isinstance(method, Chan)
    config = method.config
    if config.coding != "vha" or config.score_padding == "reference":
        return "bounds are known for coding vha with masked padding only"
    if config.pooling == "softmax":
        return "with softmax pooling a score may fall when a word's score rises, so bounds of the words do not bound it"
    return _screen(Pool(config.pooling, config.pooling_temperature), images, captions, judge)


def late_screen(method: Method, images: Encoded, captions: Encoded, judge: Judge) -> Screen | NoScreen | None:
    """Bounds for the late interaction of a ready-made model, the mean over words of the best cosine; None for its
    global vectors.
    """
    pooling = method.best_patch_pooling
    return None if pooling is None else _screen(Pool(*pooling), images, captions, judge)


def _screen(pool: Pool, images: Encoded, captions: Encoded, judge: Judge) -> Screen | NoScreen:
    """The screen of a pooling, where the sets allow one."""
    if images.vectors.device.type != "cpu":
        return NoScreen("every pair: screening is written for the CPU")
    if torch.get_float32_matmul_precision() != "highest":
        return NoScreen("every pair: torch is allowed to round float32 products more than float32 does")
    images, captions = images.float(), captions.float()
    ends = [torch.aminmax(sets.vectors, dim=1) for sets in (images, captions)]
    largest = torch.cat([torch.maximum(-low, high) for low, high in ends])  # not norms: they could underflow to 0
    if not bool(((largest == 0) | ((largest >= _SAFE[0]) & (largest <= _SAFE[1]))).all()):
        return NoScreen(f"every pair: the largest number of a vector is not within {_SAFE[0]:g} .. {_SAFE[1]:g}")
    return choose_screen(images, captions, pool, judge)


def choose_screen(images: Encoded, captions: Encoded, pool: Pool, judge: Judge) -> Screen | NoScreen:
    """The screen that costs least, judged by how many pairs of a sample its steps leave open."""
    exact = not eight_bits_are_exact()
    dims = images.vectors.shape[1]
    basis = directions(images.vectors, captions.vectors)
    whole = None if exact else Shortening(None)
    some_images, some_captions = _spread_out(len(images), _SAMPLE[0]), _spread_out(len(captions), _SAMPLE[1])
    sample = images.select(some_images), captions.select(some_captions)

    def open_share(short: Shortening) -> float:
        screen = HardScreen(*sample, pool, short)
        return judge(some_images, some_captions[screen.captions], *screen.strip(slice(0, len(some_images))))

    left = 1.0 if whole is None else open_share(whole)
    of_product = 1.0 if exact else _EIGHT_BITS
    plans: list[tuple[float, Shortening, Shortening | None]] = []
    for width in [width for width in _WIDTHS if width < dims] or [max(1, dims // 2) + 1]:
        short = Shortening(basis[:, dims - width + 1 :], exact)
        is_open = open_share(short)
        finish = min((_AGAIN * is_open, None), (_CLOSER * is_open + _AGAIN * left, whole), key=lambda x: x[0])
        plans.append((of_product * width / dims + _AFTER / dims + finish[0], short, finish[1]))
    if whole is not None:
        plans.append((of_product + _AFTER / dims + _AGAIN * left, whole, None))
    cost, short, then = min(plans, key=lambda plan: plan[0])
    if cost > _WORTH:
        return NoScreen(f"every pair: bounds would leave so many open that they cost {cost:.2f} of scoring all")
    return HardScreen(images, captions, pool, short, then)


def _spread_out(count: int, most: int) -> Int[Tensor, " n"]:
    """At most ``most`` of ``count`` positions, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def rows_of(starts: Int[Tensor, " n"], lengths: Int[Tensor, " n"]) -> Int[Tensor, " t"]:
    """The rows of some sets, one set after the other.

    Example:
        >>> rows_of(torch.tensor([5, 0]), torch.tensor([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1])) + (starts - ends + lengths).repeat_interleave(lengths)


def _cuts_with_little_padding(lengths: Int[Tensor, " M"], words: int) -> list[int]:
    """Where columns begin: about ``words`` words in each, and captions that differ little in length (ascending)."""
    cuts, count, shortest = [0], 0, 0
    for place, length in enumerate(lengths.tolist()):
        too_long = length > 1 + 1.15 * shortest and (place - cuts[-1]) * length > words // 4
        if count and (count + length > words or too_long):
            cuts.append(place)
            count = 0
        shortest = length if count == 0 else shortest
        count += length
    return [*cuts, len(lengths)]


def eight_bits_are_exact() -> bool:
    """Whether products of 8-bit integers are exact here: some processors add pairs of products in 16 bits."""
    full = torch.full((48, 256), 127, dtype=torch.int8)
    try:
        found = torch._int_mm(full, torch.cat([full, -full]).T)
    except (RuntimeError, AttributeError):
        return False
    return bool((found.abs() == 256 * 127 * 127).all())
