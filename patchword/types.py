"""What flows between the floors: batches that enter an encoder, vector sets that leave it, and explanations.

Axis letters everywhere: B images, C captions, R patches of an image, L words of a caption, D joint width, F raw feature
width. A *patch* is a region, a grid cell or a vision-transformer token; a *word* is whatever the text encoder counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchword.errors import ShapeError


def real_slots(lengths: Int[Tensor, " N"], size: int) -> Bool[Tensor, "N S"]:
    """True at the real slots of sets that are padded to ``size``."""
    mask: Bool[Tensor, "N S"] = torch.arange(size, device=lengths.device) < lengths[:, None]
    return mask


@dataclass(frozen=True)
class Images:
    """A batch of images on its way into an image encoder.

    Attributes:
        values: region features ``(B, R, F)``, zero-padded to the longest image, or pixels ``(B, 3, H, W)``.
        lengths: number of real regions of each image; None for pixels (the encoder knows its patch count).
        keep: for pixels in training: which grid cells survive the size augmentation, ``(B, R)``; None keeps all.
        extra: side inputs that some methods ask for (``Method.image_extras``), each with B rows.
    """

    values: Float[Tensor, "B ..."]
    lengths: Int[Tensor, " B"] | None = None
    keep: Bool[Tensor, "B R"] | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> Images:
        """Move every tensor to a device."""
        return Images(
            self.values.to(device, non_blocking=True),
            None if self.lengths is None else self.lengths.to(device, non_blocking=True),
            None if self.keep is None else self.keep.to(device, non_blocking=True),
            {name: value.to(device, non_blocking=True) for name, value in self.extra.items()},
        )

    def __getitem__(self, rows: slice) -> Images:
        lengths = None if self.lengths is None else self.lengths[rows]
        keep = None if self.keep is None else self.keep[rows]
        return Images(self.values[rows], lengths, keep, {name: value[rows] for name, value in self.extra.items()})


@dataclass(frozen=True)
class Captions:
    """A batch of tokenised captions on its way into a text encoder.

    Attributes:
        tokens: token ids ``(C, L)``, padded with 0 at the end.
        lengths: number of real tokens of each caption, special tokens counted.
        extra: side inputs that some methods ask for (``Method.caption_extras``), each with C rows.
    """

    tokens: Int[Tensor, "C L"]
    lengths: Int[Tensor, " C"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Captions:
        """Move every tensor to a device."""
        return Captions(
            self.tokens.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            {name: value.to(device, non_blocking=True) for name, value in self.extra.items()},
        )

    def __getitem__(self, rows: slice) -> Captions:
        return Captions(
            self.tokens[rows], self.lengths[rows], {name: value[rows] for name, value in self.extra.items()}
        )


@dataclass(frozen=True)
class Encoded:
    """Vector sets of N images or captions, stored without padding: the rows of set i are consecutive.

    A method with one vector per item has ``lengths`` all 1. Everything that scoring needs is here, so an ``Encoded``
    can be saved, moved, sliced and joined without knowing the method.

    Example:
        >>> sets = Encoded.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> sets.vectors.shape, sets.offsets.tolist()
        (torch.Size([4, 4]), [0, 3, 4])
        >>> sets.padded()[1].tolist()
        [[True, True, True], [True, False, False]]
    """

    vectors: Float[Tensor, "T D"]
    lengths: Int[Tensor, " N"]

    @classmethod
    def from_padded(cls, padded: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Encoded:
        """Drop the padding of a ``(N, S, D)`` block. Differentiable; a view when nothing is padded."""
        n, size, width = padded.shape
        if bool((lengths == size).all()):
            return cls(padded.reshape(n * size, width), lengths)
        mask = real_slots(lengths, size)
        return cls(padded[mask], lengths)

    @classmethod
    def concat(cls, parts: Sequence[Encoded]) -> Encoded:
        """Join several collections into one, in order."""
        return cls(torch.cat([p.vectors for p in parts]), torch.cat([p.lengths for p in parts]))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> Int[Tensor, " N1"]:
        """Row where each set begins, with the total at the end (N + 1 numbers)."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @property
    def max_length(self) -> int:
        """Size of the largest set."""
        return int(self.lengths.max()) if len(self) else 0

    def padded(self) -> tuple[Float[Tensor, "N S D"], Bool[Tensor, "N S"]]:
        """Zero-padded block ``(N, S, D)`` and the mask of its real rows. Differentiable."""
        size = self.max_length
        mask = real_slots(self.lengths, size)
        if bool(mask.all()):
            return self.vectors.reshape(len(self), size, -1), mask
        block = self.vectors.new_zeros(len(self), size, self.vectors.shape[1])
        return block.masked_scatter(mask[..., None], self.vectors), mask

    def select(self, items: Int[Tensor, " n"]) -> Encoded:
        """The sets at ``items``, in that order (an item may repeat)."""
        lengths = self.lengths[items]
        starts = self.offsets[:-1][items]
        ends = lengths.cumsum(0)
        within = torch.arange(int(lengths.sum()), device=items.device) - (ends - lengths).repeat_interleave(lengths)
        return Encoded(self.vectors[starts.repeat_interleave(lengths) + within], lengths)

    def slice(self, start: int, stop: int) -> Encoded:
        """The sets ``start:stop`` as views."""
        lengths = self.lengths[start:stop]
        first = int(self.lengths[:start].sum())
        return Encoded(self.vectors[first : first + int(lengths.sum())], lengths)

    def to(self, device: torch.device | str) -> Encoded:
        """Move both tensors to a device."""
        return Encoded(self.vectors.to(device), self.lengths.to(device))

    def float(self) -> Encoded:
        """Cast the vectors to float32, in which everything that ranks is computed."""
        return replace(self, vectors=self.vectors.float())


@dataclass(frozen=True)
class Alignment:
    """Why an image and a caption got their score: one part per (word, patch) pair; the parts add up to the score.

    Attributes:
        parts: ``(L, R)``; ``parts.sum()`` equals ``score`` up to rounding.
        score: the score that the method gives to this pair.
        words: the text of each row, when known.
        boxes: ``(R, 4)`` x1, y1, x2, y2 in 0..1 of each column, when known.
    """

    parts: Float[Tensor, "L R"]
    score: float
    words: tuple[str, ...] = ()
    boxes: Float[Tensor, "R 4"] | None = None

    def __post_init__(self) -> None:
        if self.words and len(self.words) != len(self.parts):
            raise ShapeError(f"{len(self.words)} words were given for {len(self.parts)} rows of an alignment.")
