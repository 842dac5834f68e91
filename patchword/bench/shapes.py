"""Methods and vector sets in their published sizes, with captions as long as real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        more: vectors of a caption besides those; -1 where the mark at the start has none.
    """

    rows: int
    width: int
    words: bool = True
    more: int = 0


@dataclass(frozen=True)
class System:
    """A method in one of its published settings.

    Attributes:
        method: its name in the table of methods.
        shape: of its sets.
        changes: of its configuration's defaults.
    """

    method: str
    shape: SetShape
    changes: Mapping[str, Any] = field(default_factory=dict)


# ViT-B/32, which is what transformers makes of empty fields; one mark stands before the first word.
_CLIP = {"image": {"kind": "clip"}, "text": {"start_marks": 1}, "joint_dim": 512}

# What `patchword bench` measures, by the name it is asked for.
SYSTEMS = {
    "vse_inf": System("vse_inf", SetShape(1, 1024, words=False)),
    "hrem": System("hrem", SetShape(1, 1024, words=False)),
    "aahr": System("aahr", SetShape(1, 1024, words=False)),
    "chan": System("chan", SetShape(36, 1024)),
    "esl": System("esl", SetShape(36, 1022)),
    "esl_a": System("esl", SetShape(36, 1022), {"pyramid": "adaptive"}),
    "scta": System("scta", SetShape(197, 512)),
    "laps": System("laps", SetShape(197, 512)),
    "cefg": System("cefg", SetShape(73, 1024, more=1)),
    "cefg_saf": System("cefg", SetShape(73, 1024, more=1), {"head": "saf"}),
    "clip": System("clip", SetShape(1, 512, words=False), _CLIP),
    "clip_patches": System("clip", SetShape(49, 512, more=-1), {**_CLIP, "interaction": "patches"}),
}


def system(name: str) -> System:
    """What is measured under a name.

    Raises:
        ConfigError: nothing.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"unknown method {name!r}. Methods that can be measured: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def caption_lengths(count: int, generator: np.random.Generator) -> Int[Tensor, " C"]:
    """Numbers of words distributed like those of COCO's test captions."""
    counts = np.array(_COUNTS)
    lengths = np.arange(_SHORTEST, _SHORTEST + len(counts))
    return torch.from_numpy(generator.choice(lengths, size=count, p=counts / counts.sum()))


def random_sets(shape: SetShape, images: int, captions: int, seed: int = 0) -> tuple[Encoded, Encoded]:
    """Random unit vectors in the shapes that a method of published size gives."""
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
    """A method of published size with random weights (a BiGRU reads 11,354 words).

    Raises:
        ConfigError: nothing is measured under this name.
    """
    chosen = system(name)
    cls: Any = method_class(chosen.method)
    config = cls.Config.model_validate(dict(chosen.changes))
    if isinstance(config.text, BigruConfig):
        config = config.model_copy(update={"text": config.text.model_copy(update={"vocab_size": 11354})})
    made: Method = cls(config)
    return made
