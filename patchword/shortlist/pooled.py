"""One vector per image and per caption, for the shortlist: which kind suits a method, and how it is made.

- ``own``: the method has one vector per item and scores by their inner product. The shortlist is then the score itself.
- ``anchors``: an image is described by how well its best patch answers each of some fixed word vectors:
  f[g] = max over patches r of <anchor g, patch r>. For max-sim scores an image *is* a function of a word,
  f(w) = max_r <w, patch r>, and these are its values at G places, so a query's score is nearly a linear function of
  them. That function is fitted for each query on a sample of images that are scored exactly (``shortlist/fit.py``).
- ``fde``: MUVERA's fixed-dimensional encodings (``fde.py``), which need no fit.
- ``mean``: the mean of the unit vectors, divided by its length.

The anchors are word vectors of made-up captions over the model's own vocabulary, and some random directions; the same
ones for the same model.
Measured recall of all four on real vectors: docs/performance.md.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from patchword.data.tokenizers import PieceTokenizer, WordTokenizer
from patchword.errors import CheckpointError, DataError
from patchword.model import Model
from patchword.scoring.hard_assignment import best_patches
from patchword.shortlist.fde import FixedEncoding
from patchword.store.manifest import Pooling, PoolKind
from patchword.types import Encoded

ANCHORS = 512
_CAPTIONS, _WORDS = 256, 8  # made-up captions, and words of each
_SHARPNESS = 20.0  # of a word's share in the anchors near it
_COMMON_WORDS = (
    "a the on in of with and two man woman people dog cat child boy girl water beach snow grass street city building "
    "house room table chair kitchen food plate pizza cake fruit bus train car truck bicycle motorcycle plane boat bird "
    "horse sheep cow elephant bear zebra giraffe tree flower mountain sky sun night road sign light bed sofa bathroom "
    "computer phone book clock umbrella bag ball baseball tennis football skateboard surfboard ski kite player team "
    "field park river lake sea rock sand shirt hat dress jacket glasses red blue green yellow white black brown orange "
    "small large young old sitting standing walking running jumping playing riding holding eating looking smiling"
)


@dataclass(frozen=True)
class PoolSpec:
    """What makes the one vector per item.

    Attributes:
        pooling: how, as the manifest has it; the kinds are described at the top of this file.
        anchors: ``(G, D)`` unit vectors of ``anchors``. The manifest lacks them: they come from the model again.
    """

    pooling: Pooling
    anchors: Float[Tensor, "G D"] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, pooling: Pooling, model: Model) -> PoolSpec:
        """The specification of an index.

        Args:
            pooling: of its manifest.
            model: that it was made with.
        """
        if pooling.kind != "anchors":
            return cls(pooling)
        return cls(pooling, anchor_words(model, pooling.source, pooling.width, pooling.seed))

    @torch.no_grad()
    def pool_images(self, sets: Encoded) -> Float[Tensor, "N G"]:
        """The vector of each image, float32.

        Raises:
            DataError: the vectors are of another width, or a set of an ``own`` method has several.
        """
        self._check(sets)
        if self.pooling.kind == "anchors":
            whole = Encoded(require_anchors(self), torch.tensor([self.pooling.width]))
            return best_patches(Encoded(normalize(sets.vectors.float(), dim=1), sets.lengths), whole)
        if self.pooling.kind == "fde":
            return self._encoding.images(sets.float())
        return sets.vectors.float() if self.pooling.kind == "own" else mean_vectors(sets)

    @torch.no_grad()
    def pool_captions(self, sets: Encoded) -> Float[Tensor, "M G"]:
        """The vector of each caption, float32: its inner product with an image's goes with the score.

        For ``anchors``: the mean over words of the share that each anchor has in the word, a softmax of their cosines.

        Raises:
            DataError: as for images.
        """
        self._check(sets)
        if self.pooling.kind == "anchors":
            cosines = normalize(sets.vectors.float(), dim=1) @ require_anchors(self).T  # (T, G)
            return segment_means(torch.softmax(_SHARPNESS * cosines, dim=1), sets)
        if self.pooling.kind == "fde":
            return self._encoding.captions(sets.float())
        return sets.vectors.float() if self.pooling.kind == "own" else mean_vectors(sets)

    @property
    def _encoding(self) -> FixedEncoding:
        return FixedEncoding(self.pooling.source, seed=self.pooling.seed, **self.pooling.settings)

    def _check(self, sets: Encoded) -> None:
        if sets.vectors.shape[1] != self.pooling.source:
            raise DataError(
                f"vectors of width {sets.vectors.shape[1]} were given to a shortlist made for {self.pooling.source}. "
                "Use the model that the index was made with."
            )
        if self.pooling.kind == "own" and len(sets) != len(sets.vectors):
            raise DataError(
                f"{len(sets):,} items have {len(sets.vectors):,} vectors. Expected one vector each from this method."
            )


def pool_kind(model: Model, kind: PoolKind | None = None, *, seed: int = 0) -> PoolSpec:
    """The vector that suits a model; always the same for the same model.

    Args:
        model: any loaded model.
        kind: instead of the method's own (``Method.shortlist``).
        seed: of everything drawn.

    Raises:
        DataError: ``own`` was asked of a method with several vectors per item.
    """
    suits = model.method.shortlist
    chosen: PoolKind = suits if kind is None else kind
    if chosen == "own" and suits != "own":
        raise DataError(f"{model.method.name} has several vectors per item. Expected anchors, fde or mean.")
    source = joint_width(model)
    width, settings = source, dict[str, int]()
    if chosen == "anchors":
        width = ANCHORS
    elif chosen == "fde":
        settings = {"bits": 4, "repetitions": 8, "inner": 16, "width": 2048}
        width = FixedEncoding(source, seed=seed, **settings).final_width
    return PoolSpec.of(Pooling(kind=chosen, width=width, source=source, seed=seed, settings=settings), model)


def joint_width(model: Model) -> int:
    """The width D of a model's vectors: from its configuration, or from an encoded word."""
    width = getattr(model.method.config, "joint_dim", None)
    return int(width) if width is not None else model.encode_captions(["a"]).vectors.shape[1]


def anchor_words(model: Model, source: int, count: int, seed: int) -> Float[Tensor, "G D"]:
    """Unit word vectors of made-up captions, and random directions for a quarter.

    The latter serve queries that are unlike words (images). All are random for a model that can not read a text alone.
    """
    draw = torch.Generator().manual_seed(seed)
    anchors = normalize(torch.randn(count, source, generator=draw), dim=1)
    captions = made_captions(model, seed)
    if captions is not None:
        words = model.encode_captions(captions).vectors.float()
        if words.shape[1] == source:  # else a caption's vectors are not as wide as an image's
            few = count - count // 4
            order = torch.randperm(len(words), generator=draw)
            anchors[:few] = normalize(words[order[torch.arange(few) % len(order)]], dim=1)
    return anchors


def made_captions(model: Model, seed: int, count: int = _CAPTIONS) -> list[str] | None:
    """Captions of random words of the vocabulary, earlier words more often; None where a text alone is not enough."""
    if model.tokenizer is None or model.method.caption_extras:
        return None
    words = vocabulary_words(model.tokenizer)
    if len(words) < 2:
        return None
    draw = random.Random(seed)
    weights = [1 / (10 + place) for place in range(len(words))]  # vocabularies list frequent words first
    return [" ".join(draw.choices(words, weights, k=_WORDS)) for _ in range(count)]


def vocabulary_words(tokenizer: object) -> Sequence[str]:
    """Whole words that a tokeniser knows; a list of common ones where it does not tell."""
    if isinstance(tokenizer, WordTokenizer):
        found: Sequence[str] = tokenizer.vocabulary.words
    elif isinstance(tokenizer, PieceTokenizer):
        found = tokenizer.pieces.tokens
    else:
        return _COMMON_WORDS.split()
    return [word for word in found if word.isalpha()]


def mean_vectors(sets: Encoded) -> Float[Tensor, "N D"]:
    """Mean of the unit vectors of each set, divided by its length."""
    return normalize(segment_means(normalize(sets.vectors.float(), dim=1), sets), dim=1)


def segment_means(rows: Float[Tensor, "T G"], sets: Encoded) -> Float[Tensor, "N G"]:
    """Mean of the rows that belong to each set."""
    owner = torch.arange(len(sets)).repeat_interleave(sets.lengths)
    sums = rows.new_zeros(len(sets), rows.shape[1]).index_add_(0, owner, rows)
    return sums / sets.lengths[:, None]


def require_anchors(spec: PoolSpec) -> Float[Tensor, "G D"]:
    """The anchors of a specification.

    Raises:
        CheckpointError: it was read without the model.
    """
    if spec.anchors is None:
        raise CheckpointError("a shortlist of kind anchors was opened without its model. Give the model of the index.")
    return spec.anchors
