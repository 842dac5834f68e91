"""Methods and vector sets in their published sizes, with captions as long as real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.errors import ConfigError
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.types import Encoded

# Captions with 8, 9, 10 .. 52 words, the two special ones counted, among the 25,000 of COCO's test split (mean 13.3).
_SHORTEST = 8
_COUNTS = (
    2, 105, 1290, 4270, 5277, 4909, 3528, 2175, 1293, 805, 443, 292, 187, 125, 71, 47, 42, 33, 29, 16, 14, 9, 5, 3, 6,
    4, 3, 0, 2, 3, 1, 1, 3, 0, 0, 0, 0, 2, 0, 2, 0, 1, 1, 0, 1,
)  # fmt: skip


@dataclass(frozen=True)
class SetShape:
    """What a method of published size makes of an image and a caption in evaluation.

    Attributes:
        rows: vectors of an image.
        width: of a vector.
        words: whether a caption has a vector for each word, or a single one.
        more: vectors of a caption besides those.
    """

    rows: int
    width: int
    words: bool = True
    more: int = 0


_SHAPES = {
    "vse_inf": SetShape(1, 1024, words=False),
    "hrem": SetShape(1, 1024, words=False),
    "aahr": SetShape(1, 1024, words=False),
    "chan": SetShape(36, 1024),
    "esl": SetShape(36, 1022),
    "scta": SetShape(197, 512),
    "laps": SetShape(197, 512),
    "cefg": SetShape(73, 1024, more=1),
}


def caption_lengths(count: int, generator: np.random.Generator) -> Int[Tensor, " C"]:
    """Numbers of words distributed like those of COCO's test captions."""
    counts = np.array(_COUNTS)
    lengths = np.arange(_SHORTEST, _SHORTEST + len(counts))
    return torch.from_numpy(generator.choice(lengths, size=count, p=counts / counts.sum()))


def random_sets(method: Method, images: int, captions: int, seed: int = 0) -> tuple[Encoded, Encoded]:
    """Random unit vectors in the shapes that a method of published size gives.

    Raises:
        ConfigError: the published shapes of this method are not known.
    """
    if method.name not in _SHAPES:
        raise ConfigError(f"the published shapes of {method.name!r} are not known. Known: {', '.join(_SHAPES)}.")
    shape = _SHAPES[method.name]
    generator = np.random.default_rng(seed)
    words = caption_lengths(captions, generator) + shape.more if shape.words else torch.ones(captions, dtype=torch.long)
    torch.manual_seed(seed)

    def unit_rows(count: int) -> Tensor:
        made = torch.empty(count, shape.width)
        for part in made.split(1 << 14):
            part.normal_()
            part /= part.norm(dim=1, keepdim=True)
        return made

    regions = torch.full((images,), shape.rows)
    return Encoded(unit_rows(images * shape.rows), regions), Encoded(unit_rows(int(words.sum())), words)


def published(name: str) -> Method:
    """A method of published size with random weights (a BiGRU reads 11,354 words)."""
    cls: Any = method_class(name)
    config = cls.Config()
    if isinstance(config.text, BigruConfig):
        config = config.model_copy(update={"text": config.text.model_copy(update={"vocab_size": 11354})})
    made: Method = cls(config)
    return made
