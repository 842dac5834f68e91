"""CLIP, SigLIP and SigLIP 2 without training here: one vector per image and per caption, or their tokens.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021). Zhai, Mustafa,
Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023). Tschannen et al., "SigLIP 2" (2025).
Towers and weights are transformers'; nothing is trained or fitted here.

``interaction: global`` is the published model: the cosine of two pooled vectors. ``interaction: patches`` is ours: the
late interaction of ColBERT and CHAN on token vectors that the published training never looked at, so it promises
nothing; try both on your own data. Results with tiny random weights only: docs/zero_shot.md.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.clip_towers import ClipImageConfig, ClipTextConfig, ImageTower, TextTower, build_clip
from patchword.encoders.token_shares import image_shares, text_shares
from patchword.layers.normalise import unit
from patchword.methods.base import LossConfig, Method, Pooling, lengths_of
from patchword.methods.formula import COSINES, Formula
from patchword.types import Alignment, Captions, Encoded, Images

Interaction = Literal["global", "patches"]


class ClipConfig(Config):
    """A dual encoder of transformers.

    Attributes:
        image, text: the towers; there is no published default, because every checkpoint names its own.
        joint_dim: D, width of the joint space.
        interaction: ``global`` (published) or ``patches`` (ours).
    """

    image: ClipImageConfig
    text: ClipTextConfig
    joint_dim: int = Field(gt=0)
    interaction: Interaction = "global"


class Clip(Method):
    """Zero-shot dual encoder; the score is a cosine, or a mean over words of the best patch's cosine.

    Args:
        model: a transformers model that fits the configuration; None makes one with random weights.
    """

    name = "clip"
    title = "CLIP"
    intra_modal = "score"
    Config = ClipConfig
    config: ClipConfig

    def __init__(self, config: ClipConfig, loss: LossConfig | None = None, model: Any = None) -> None:
        super().__init__(config, loss)
        whole = model if model is not None else build_clip(config.image, config.text, config.joint_dim)
        self.image = ImageTower(config.image, whole)
        self.text = TextTower(config.text, whole, config.image.kind)
        self.logit_scale = nn.Parameter(whole.logit_scale.detach().clone().reshape(()))
        self.logit_bias = None
        self.choose(config.interaction)
        if config.image.kind != "clip":
            self.logit_bias = nn.Parameter(whole.logit_bias.detach().clone().reshape(()))

    def choose(self, interaction: Interaction) -> None:
        """Set the interaction; the weights are the same for both."""
        self.config = self.config.model_copy(update={"interaction": interaction})
        self.shortlist = "own" if interaction == "global" else "anchors"

    @classmethod
    def default_loss(cls) -> LossConfig:
        """InfoNCE, CLIP's loss (SigLIP's sigmoid loss is not offered)."""
        return LossConfig(kind="info_nce", margin=0.0)

    @property
    def label(self) -> str:
        """Family, and whether the interaction is ours."""
        return self.config.image.kind + ("" if self.is_global else " patches (ours)")

    @property
    def is_global(self) -> bool:
        """Whether every item is one vector."""
        return self.config.interaction == "global"

    def encode_images(self, images: Images) -> Encoded:
        """One unit vector per image, or one per patch."""
        if self.is_global:
            vectors = unit(self.image.pooled(images))
            return Encoded(vectors, lengths_of(vectors))
        return Encoded.from_padded(*_units(*self.image.patches(images)))

    def encode_captions(self, captions: Captions) -> Encoded:
        """One unit vector per caption, or one per token, the end mark included and marks at the start left out."""
        if self.is_global:
            vectors = unit(self.text.pooled(captions.tokens, captions.lengths))
            return Encoded(vectors, lengths_of(vectors))
        first = self.config.text.start_marks
        words = self.text.words(captions.tokens, captions.lengths)[:, first:]
        return Encoded.from_padded(*_units(words, captions.lengths - first))

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """``global``: <image b, caption c>.  ``patches``: mean over words l of max over patches r of <r, l>."""
        if self.is_global:
            return images.vectors @ captions.vectors.T
        patches, patch_mask = images.padded()
        words, word_mask = captions.padded()
        s = torch.einsum("brd,cld->bclr", patches, words)
        best = s.masked_fill(~patch_mask[:, None, None, :], -torch.inf).amax(3)  # (B, C, L)
        return best.masked_fill(~word_mask, 0.0).sum(2) / captions.lengths

    def logits(self, scores: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Scores on the scale that the published model was trained on: exp(scale) * cosine (+ bias for SigLIP)."""
        scaled = scores * self.logit_scale.exp()
        return scaled if self.logit_bias is None else scaled + self.logit_bias

    def match_probability(self, scores: Float[Tensor, "*n"]) -> Float[Tensor, "*n"] | None:
        """SigLIP's own probability of a match, sigmoid(exp(scale) * cosine + bias).

        None for CLIP, whose softmax compares the captions of a list and says nothing of a pair; and for ``patches``,
        whose scores the scale was not trained for.
        """
        return torch.sigmoid(self.logits(scores)) if self.logit_bias is not None and self.is_global else None

    @property
    def best_patch_pooling(self) -> tuple[Pooling, float] | None:
        """The mean over words, for ``patches``."""
        return None if self.is_global else ("mean", 1.0)

    @property
    def formula(self) -> Formula:
        """A dot product, or for ``patches`` the best patches of the words."""
        return (
            super().formula
            if self.is_global
            else Formula(f"{COSINES}; z[l] = max over r of s; the score is the mean of z")
        )

    @property
    def not_exported(self) -> str | None:
        """NaFlex has no fixed table of positions."""
        is_naflex = self.config.image.kind == "siglip2"
        return "NaFlex resizes its position table for the shape of every picture" if is_naflex else None

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze all of the vision model (blocks >= 4) or nothing."""
        self.image.backbone.requires_grad_(blocks < 4)

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split one pair's score over word x patch; the boxes are in 0..1 of what the pixels show.

        ``global``: u = sum of the patches' shares, v = sum of the words' shares (``encoders/token_shares.py``);
        part[l, r] = <v_l, u_r> / (|v| |u|), and the parts add up to the cosine. Column 0 is the whole picture: what
        belongs to no patch. ``patches``: every word's best patch gets its cosine / number of words.
        """
        image, caption = images[0:1], captions[0:1]
        score = float(self.score(self.encode_images(image), self.encode_captions(caption))[0, 0])
        if self.is_global:
            u, v = image_shares(self.image, image), text_shares(self.text, caption)
            parts = (v / (v.sum(0).norm() + 1e-8)) @ (u / (u.sum(0).norm() + 1e-8)).T
            boxes = torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), self.image.boxes(image)])
            return Alignment(parts, score, boxes=boxes)
        words, patches = self.encode_captions(caption).vectors, self.encode_images(image).vectors
        s = words @ patches.T / len(words)  # (L - marks, R)
        best = torch.nn.functional.one_hot(s.argmax(1), s.shape[1]).to(s)
        parts = torch.cat([s.new_zeros(self.config.text.start_marks, s.shape[1]), s * best])
        return Alignment(parts, score, boxes=self.image.boxes(image))


def _units(vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length one, and how many are real."""
    return unit(vectors), lengths
