"""ESL: words and regions compared level by level of a pyramid of ever narrower vectors (ESL-H and ESL-A).

Zhang et al.: "Enhanced Semantic Similarity Learning Framework for Image-Text Matching" (IEEE TCSVT 34(4), 2024). No
pooled embedding: every region and word vector is expanded into levels of width D, D/2, D/4, ...; each level has its
own full bilinear form between word and region. The sum over levels is a word x region matrix, which two attentions
without further parameters reduce to one number.

Equations are written from the authors' code (CrossmodalGroup/ESL), which produced the published numbers; one flag in
its model file chooses between the two systems, here ``pyramid``. Published results: docs/methods/esl.md. Recipes:
recipes/esl_*.yaml. Golden values: tests/golden/esl.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import PatchConfig, RegionsConfig
from patchword.encoders.projected import ProjectedPatches
from patchword.encoders.text import TextConfig, build_text
from patchword.layers.normalise import unit
from patchword.layers.pyramid import AdaptivePyramid, HeuristicPyramid, LevelForms, Pyramid, level_widths
from patchword.methods.base import LossConfig, Method
from patchword.methods.formula import COSINES, Formula
from patchword.precision import in_float32
from patchword.types import Alignment, Captions, Encoded, Images, real_slots

SLOPE = 0.1  # of the leaky rectifier, for negative scores
EPS = 1e-8


class EslConfig(Config):
    """ESL; the defaults are the published ESL-H over regions and BERT.

    Attributes:
        pyramid: ``heuristic`` (ESL-H: fixed neighbours, and an exponent that sharpens the weights of the levels) or
            ``adaptive`` (ESL-A: every output picks two inputs).
        joint_dim: D, width of level 0.
        levels: of the pyramid; the last one has the width joint_dim / kernel_size^(levels - 1), rounded down, at least
            1. Nine are published.
        kernel_size: how many times narrower each level is.
        image: what the image tower reads.
        residual_mlp: add the two-layer MLP beside the linear projection (regions: yes, grids: no).
        text: the text tower; BERT is the published one, a BiGRU is an extension of ours.
        unit_patches, unit_words: divide every vector of level 0 by its length.
        padding: of regions in training: ``reference`` takes zero-padded slots for regions, as the authors' code does
            (in the batch norm, both attentions and the mean over regions), so that scores depend on the widest image
            of the batch; ``masked`` leaves them out. In evaluation, and on grids, padding is always left out.
    """

    pyramid: Literal["heuristic", "adaptive"] = "heuristic"
    joint_dim: int = Field(512, gt=0)
    levels: int = Field(9, gt=0)
    kernel_size: int = Field(2, ge=2)
    image: PatchConfig = RegionsConfig()
    residual_mlp: bool = True
    text: TextConfig = BertConfig()
    unit_patches: bool = True
    unit_words: bool = True
    padding: Literal["reference", "masked"] = "reference"

    @model_validator(mode="after")
    def _last_level_has_a_width(self) -> EslConfig:
        if self.joint_dim < self.kernel_size ** (self.levels - 1):
            most = 1 + int(math.log(self.joint_dim, self.kernel_size) + 1e-9)
            raise ValueError(
                f"joint_dim {self.joint_dim} is too narrow for {self.levels} levels of kernel_size {self.kernel_size}: "
                f"use a joint_dim of at least {self.kernel_size ** (self.levels - 1)}, or at most {most} levels"
            )
        return self

    @property
    def widths(self) -> list[int]:
        """Width of every level."""
        return level_widths(self.joint_dim, self.levels, self.kernel_size)


class ImageTower(ProjectedPatches):
    """Project every patch: fc(x) + mlp(x) for regions, fc(x) for grid cells."""

    def __init__(self, config: EslConfig) -> None:
        padding = config.padding if isinstance(config.image, RegionsConfig) else "masked"
        super().__init__(config.image, config.joint_dim, residual_mlp=config.residual_mlp, padding=padding)

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """Patch vectors before normalisation, and how many of them count."""
        patches, lengths = self.patches(images)
        if self.training and self.padding == "reference":
            lengths = torch.full_like(lengths, patches.shape[1])  # a padded slot is one more region
        return self.project(patches, real_slots(lengths, patches.shape[1])), lengths


class Esl(Method):
    """Score = two attentions over the word x patch matrix of all levels.

    The rows of an encoded image hold the bilinear forms already (``LevelForms``), so that a word's row times a patch's
    row is the score of the two, over all levels at once.
    """

    name = "esl"
    shortlist_sample = 384
    matching = ("image_pyramid.", "text_pyramid.")  # as in the authors' groups
    title = "ESL"
    Config = EslConfig
    config: EslConfig

    def __init__(self, config: EslConfig, loss: LossConfig | None = None) -> None:
        super().__init__(config, loss)
        self.image = ImageTower(config)
        self.text = build_text(config.text, config.joint_dim)
        self.image_pyramid, self.text_pyramid = (self._pyramid(config) for _ in range(2))
        self.forms = LevelForms(config.widths, sparsified=config.pyramid == "heuristic")
        self.log_temperature = nn.Parameter(torch.full((), math.log(1 / 0.07)))

    @staticmethod
    def _pyramid(config: EslConfig) -> Pyramid:
        if config.pyramid == "heuristic":
            return HeuristicPyramid(config.widths, config.kernel_size)
        return AdaptivePyramid(config.widths)

    def encode_images(self, images: Images) -> Encoded:
        """One row per patch: its levels, each multiplied by the form of its level."""
        patches, lengths = self.image(images)
        with in_float32(patches):
            return Encoded.from_padded(self.forms(self.patch_levels(patches.to(self.log_temperature))), lengths)

    def encode_captions(self, captions: Captions) -> Encoded:
        """One row per token, the special ones included: its levels, one after the other."""
        words = self.text(captions.tokens, captions.lengths)
        with in_float32(words):
            return Encoded.from_padded(
                torch.cat(self.word_levels(words.to(self.log_temperature)), dim=-1), captions.lengths
            )

    def patch_levels(self, patches: Float[Tensor, "*N D"]) -> list[Float[Tensor, "*N _"]]:
        """Levels of projected patches."""
        level_0 = unit(patches) if self.config.unit_patches else patches
        levels: list[Tensor] = self.image_pyramid(level_0, renormalise=True)
        return levels

    def word_levels(self, words: Float[Tensor, "*N D"]) -> list[Float[Tensor, "*N _"]]:
        """Levels of projected words; unlike the patches', each comes from the level below before its normalisation."""
        level_0 = unit(words) if self.config.unit_words else words
        levels: list[Tensor] = self.text_pyramid(level_0, renormalise=False)
        return levels

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """tau: factor of both attentions, 14.3 at the start, not bounded."""
        return self.log_temperature.exp()

    @property
    def formula(self) -> Formula:
        """Both attentions; the forms of the levels are in the rows of an image."""
        how = (
            f"{COSINES}; p = leaky_relu(tanh(s), {SLOPE}); a = softmax over r of tau * p / (norm over l of p + 1e-8); "
            "b = softmax over l of tau * p / (norm over r of p + 1e-8); the score is the sum over r and l of "
            "a * s / (words of the caption) + b * s / (patches of the image)"
        )
        return Formula(how, {"tau": float(self.temperature.detach())})

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Both attentions of every pair; memory about ten times B*C*L*R floats."""
        patches, patch_mask = images.padded()
        words, word_mask = captions.padded()
        s = torch.einsum("cld,brd->bclr", words, patches)
        return split_scores(s, word_mask[None], patch_mask[:, None], self.temperature.to(s)).sum(dim=(2, 3))

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Give every word x patch cell what it adds to the score: its own score times its two attention weights."""
        image, caption = self.encode_images(images[0:1]), self.encode_captions(captions[0:1])
        s = (caption.vectors.double() @ image.vectors.double().T)[None, None]  # (1, 1, L, R)
        word_mask, patch_mask = (torch.ones(1, 1, n, dtype=torch.bool, device=s.device) for n in s.shape[2:])
        parts = split_scores(s, word_mask, patch_mask, self.temperature.to(s))[0, 0]
        return Alignment(parts, float(parts.sum()))


def attention(
    s: Float[Tensor, "B C L R"],
    word_mask: Bool[Tensor, "#B #C L"],
    patch_mask: Bool[Tensor, "#B #C R"],
    temperature: Float[Tensor, ""],
) -> tuple[Float[Tensor, "B C L R"], Float[Tensor, "B C L R"]]:
    """Which patches each word looks at, and which words each patch looks at.

    P = leaky rectifier of tanh(S).  a_wr = P_wr / (norm over words of P_wr + 1e-8), weights of the first attention =
    softmax over patches of tau a;  e_wr = P_wr / (norm over patches of P_wr + 1e-8), weights of the second = softmax
    over words of tau e. The lengths are taken across, not along, what the softmax runs over.

    Args:
        s: scores of words and patches; padded cells must be finite.
        word_mask, patch_mask: True at real words and patches, at least one each.
        temperature: tau.

    Returns:
        Weights that add up to 1 over the patches of each word, and over the words of each patch; 0 at padding of what
        they add up over, without meaning in the rows of padded words (first) and patches (second).
    """
    real_word, real_patch = word_mask[..., None], patch_mask[..., None, :]
    p = nn.functional.leaky_relu(torch.tanh(s), SLOPE).masked_fill(~(real_word & real_patch), 0.0)
    across_words = p / (torch.linalg.vector_norm(p, dim=2, keepdim=True) + EPS)
    across_patches = p / (torch.linalg.vector_norm(p, dim=3, keepdim=True) + EPS)
    by_word = torch.softmax((temperature * across_words).masked_fill(~real_patch, -torch.inf), dim=3)
    by_patch = torch.softmax((temperature * across_patches).masked_fill(~real_word, -torch.inf), dim=2)
    return by_word, by_patch


def split_scores(
    s: Float[Tensor, "B C L R"],
    word_mask: Bool[Tensor, "#B #C L"],
    patch_mask: Bool[Tensor, "#B #C R"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, "B C L R"]:
    """What every cell adds to the score of its pair; 0 in padding.

    score = (1/n) sum over words, patches of (first weights * S) + (1/R) sum over patches, words of (second weights * S)
    for n words and R patches: a sum of two means, of the raw scores, hence not a cosine and not bounded.

    Source: CrossmodalGroup/ESL, calculator of the similarities. Args: see ``attention``.
    """
    by_word, by_patch = attention(s, word_mask, patch_mask, temperature)
    n_words, n_patches = word_mask.sum(-1)[..., None, None], patch_mask.sum(-1)[..., None, None]
    cells = word_mask[..., None] & patch_mask[..., None, :]
    return ((by_word / n_words + by_patch / n_patches) * s).masked_fill(~cells, 0.0)
