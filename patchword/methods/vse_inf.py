"""VSE-infinity: one vector per image and per caption, pooled by learned weights over sorted values.

Chen, Hu, Wu, Jiang, Wang: "Learning the Best Pooling Strategy for Visual Semantic Embedding" (CVPR 2021). Section
numbers are those of the paper. Where the authors' code and the paper differ, the code produced the published numbers,
so the code wins and the line carries a `differs from paper` comment.

Published results: docs/methods/vse_inf.md. Recipes: recipes/vse_inf_*.yaml. Golden values: tests/golden/vse_infinity.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import PatchConfig, RegionsConfig
from patchword.encoders.projected import ProjectedPatches
from patchword.encoders.text import TextConfig, build_text
from patchword.layers.gpo import Gpo, sort_descending
from patchword.layers.normalise import unit
from patchword.methods.base import LossConfig, Method, lengths_of
from patchword.types import Alignment, Captions, Encoded, Images, real_slots


class VseInfinityConfig(Config):
    """VSE-infinity.

    Attributes:
        joint_dim: D, width of the joint space.
        image: what the image tower reads; regions are the published default.
        residual_mlp: add the two-layer MLP beside the linear projection (regions: yes, grids: no in the published
            models).
        text: the text tower.
        pooling: ``gpo``, or ``mean`` (the "VSE++" sanity baseline of the paper's tables).
        unit_images, unit_captions: divide the pooled vectors by their length.
        mlp_padding: ``reference`` lets zero-padded region slots into the MLP's training statistics, as the authors'
            code does; ``masked`` leaves them out, so that a result does not depend on the longest image of the batch.
    """

    joint_dim: int = Field(1024, gt=0)
    image: PatchConfig = RegionsConfig()
    residual_mlp: bool = True
    text: TextConfig = BigruConfig()
    pooling: Literal["gpo", "mean"] = "gpo"
    unit_images: bool = True
    unit_captions: bool = True
    mlp_padding: Literal["reference", "masked"] = "reference"


class ImageTower(ProjectedPatches):
    """Section 3.1: project every patch; what pools them."""

    def __init__(self, config: VseInfinityConfig) -> None:
        super().__init__(config.image, config.joint_dim, residual_mlp=config.residual_mlp, padding=config.mlp_padding)
        self.pool = Gpo() if config.pooling == "gpo" else None


class VseInfinity(Method):
    """A dual encoder; the score is the cosine of two pooled vectors (section 3)."""

    name = "vse_inf"
    title = "VSE-infinity"
    shortlist = "own"
    Config = VseInfinityConfig
    config: VseInfinityConfig

    def __init__(self, config: VseInfinityConfig, loss: LossConfig | None = None) -> None:
        super().__init__(config, loss)
        self.image = ImageTower(config)
        self.text = build_text(config.text, config.joint_dim)
        self.text_pool = Gpo() if config.pooling == "gpo" else None

    def encode_images(self, images: Images) -> Encoded:
        """One vector per image."""
        vectors, lengths = self.image.features(images)
        pooled = pool(self.image.pool, vectors, lengths)
        return Encoded(unit(pooled) if self.config.unit_images else pooled, lengths_of(pooled))

    def encode_captions(self, captions: Captions) -> Encoded:
        """One vector per caption, from all its tokens, the special ones included."""
        words = self.text(captions.tokens, captions.lengths)
        pooled = pool(self.text_pool, words, captions.lengths)
        return Encoded(unit(pooled) if self.config.unit_captions else pooled, lengths_of(pooled))

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Cosine: score[b, c] = <image b, caption c>."""
        return images.vectors @ captions.vectors.T

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split one pair's score over word x patch through the pooling weights.

        The k-th largest value of a dimension comes from one patch, so the pooled vector is a sum over patches, and so
        is a caption's over words: part[l, r] = <share of word l, share of patch r> / (both lengths).
        """
        patches, n_patches = self.image.features(images[0:1])
        words = self.text(captions.tokens[0:1], captions.lengths[0:1])
        by_patch = shares(self.image.pool, patches, n_patches)
        by_word = shares(self.text_pool, words, captions.lengths[0:1])
        if self.config.unit_images:
            by_patch = by_patch / (by_patch.sum(0).norm() + 1e-8)
        if self.config.unit_captions:
            by_word = by_word / (by_word.sum(0).norm() + 1e-8)
        parts = by_word @ by_patch.T  # (L, R)
        return Alignment(parts, float(parts.sum()))


def pool(gpo: nn.Module | None, vectors: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """Pool padded sets by GPO, or by their mean when ``gpo`` is None."""
    if gpo is not None:
        pooled: Tensor = gpo(vectors, lengths)
        return pooled
    mask = real_slots(lengths, vectors.shape[1])
    return (vectors * mask[..., None]).sum(1) / lengths[:, None]


def shares(gpo: Gpo | None, vectors: Float[Tensor, "1 S D"], lengths: Int[Tensor, " 1"]) -> Float[Tensor, "n D"]:
    """What each real vector of one set contributes to the pooled vector; the shares add up to it."""
    real = vectors[0, : int(lengths[0])]  # (n, D)
    if gpo is None:
        return real / len(real)
    mask = torch.ones(1, len(real), dtype=torch.bool, device=real.device)
    weights = gpo.weights(lengths)[0]  # (n,)
    ordered = sort_descending(real[None], mask)[0]
    rank_of = real.argsort(dim=0, descending=True, stable=True)  # (n, D): which vector is k-th in each dimension
    return torch.zeros_like(real).scatter_(0, rank_of, weights[:, None] * ordered)
