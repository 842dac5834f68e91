"""Methods and vector sets that the tests of scoring share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from condensed_toys import made as condensed

from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.base import Method
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.methods.chan import Chan, ChanConfig
from patchword.methods.esl import Esl, EslConfig
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.types import Encoded

BASE = {"joint_dim": 8, "image": RegionsConfig(width=5), "text": BigruConfig(vocab_size=5, word_dim=3)}


def chan(pooling: str = "mean", coding: str = "vha", padding: str = "masked") -> Chan:
    chosen = {"pooling": pooling, "coding": coding, "score_padding": padding, "context": "none"}
    return Chan(ChanConfig.model_validate({**BASE, **chosen})).eval()


def vse() -> VseInfinity:
    return VseInfinity(VseInfinityConfig.model_validate(BASE)).eval()


torch.manual_seed(0)  # two processes that make these methods make the same
METHODS: dict[str, Method] = {
    "chan": chan(),
    "chan lse": chan("lse"),
    "chan max": chan("max"),
    "chan sum": chan("sum"),
    "chan softmax": chan("softmax"),
    "chan tha": chan(coding="tha"),
    "vse_inf": vse(),
}


def cefg() -> Cefg:
    return Cefg(CefgConfig.model_validate({**BASE, "sim_dim": 6, "head": "sgr"})).eval()


def esl() -> Esl:
    return Esl(EslConfig.model_validate({**BASE, "levels": 3})).eval()


# Methods with tiles of their own that ask for more of their sets.
OTHERS: dict[str, Method] = {"cefg": cefg(), "esl": esl(), "scta": condensed("scta", width=8)}


def lengths(count: int, longest: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, longest + 1, count))


def unit_sets(sizes: Sequence[int] | torch.Tensor, dims: int, seed: int) -> Encoded:
    """Random unit vectors."""
    sizes = torch.as_tensor(sizes)
    vectors = torch.randn(int(sizes.sum()), dims, generator=torch.Generator().manual_seed(seed))
    return Encoded(vectors / vectors.norm(dim=1, keepdim=True), sizes)


def tied_sets(sizes: Sequence[int] | torch.Tensor, dims: int, seed: int) -> Encoded:
    """Vectors of few small integers: their products are exact, and many scores are equal."""
    sizes = torch.as_tensor(sizes)
    draw = torch.Generator().manual_seed(seed)
    return Encoded(torch.randint(-1, 2, (int(sizes.sum()), dims), generator=draw).float(), sizes)


def sets_for(
    method: Method, images: int, captions: int, *, dims: int = 8, seed: int = 0, tied: bool = False
) -> tuple[Encoded, Encoded]:
    """Images and captions of different sizes, or of one vector each where the method has one."""
    make = tied_sets if tied else unit_sets
    if method.name == "cefg":  # a pooled vector and two contexts a region; a pooled vector and words
        return make(2 * lengths(images, 6, seed) + 1, dims, seed), make(lengths(captions, 9, seed + 1) + 1, dims, seed)
    if isinstance(method, Esl):
        dims = sum(method.config.widths)
    if method.name == "vse_inf":
        return make([1] * images, dims, seed), make([1] * captions, dims, seed + 1)
    return make(lengths(images, 6, seed), dims, seed), make(lengths(captions, 9, seed + 1), dims, seed + 1)


def owners(images: int, captions: int, seed: int = 0) -> np.ndarray:
    """Every image has a caption, in any order."""
    draw = np.random.default_rng(seed)
    return draw.permutation(np.concatenate([np.arange(images), draw.integers(0, images, captions - images)]))
