"""Images held in memory, and small models with random weights, for tests that need no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.chan import Chan, ChanConfig
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.model import Model
from patchword.types import Images


class Rows:
    """Region features held in memory."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def read(self, images: Any) -> Images:
        """A batch."""
        return Images(self.values[list(images)], torch.full((len(images),), self.values.shape[1]))

    def select(self, images: Any) -> Rows:
        """A subset."""
        return Rows(self.values[list(images)])


def random_model(
    kind: str,
    captions: Sequence[str],
    *,
    width: int = 5,
    image: Any = None,
    joint_dim: int = 8,
    seed: int = 0,
    **config: Any,
) -> Model:
    """CHAN or VSE-infinity with random weights.

    Args:
        kind: ``chan`` or ``vse_inf``.
        captions: whose words it knows.
        width: of the regions that it reads.
        image: configuration of another image encoder.
        joint_dim: width of the joint space.
        seed: of the weights.
        config: of CHAN; its pooling is the mean by default.
    """
    torch.manual_seed(seed)
    tokenizer = WordTokenizer(Vocabulary.build(captions, min_count=1))
    text = BigruConfig(vocab_size=tokenizer.size, word_dim=8)
    towers: Any = {"image": RegionsConfig(width=width) if image is None else image, "text": text}
    if kind == "chan":
        made: Any = Chan(ChanConfig(joint_dim=joint_dim, **{"pooling": "mean", **config}, **towers))
    else:
        made = VseInfinity(VseInfinityConfig(joint_dim=joint_dim, **towers))
    return Model(made.eval(), tokenizer)
