"""CHAN: hard-assignment alignment of words to image regions.

Pan, Wu, Zhang: "Fine-grained Image-text Matching by Cross-modal Hard Aligning Network" (CVPR 2023). No pooled
embedding: an image is a set of unit region vectors, a caption a set of unit word vectors. Every word is scored by its
single best region (visual hard assignment) and the word scores are pooled to one number. The interaction has no
parameters.

Equations are written from the authors' code (ppanzx/CHAN, ``lib/similarity.py`` and ``lib/encoders.py``), which
produced the published numbers. Published results: docs/methods/chan.md. Recipes: recipes/chan_*.yaml. Golden values:
tests/golden/chan.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import PatchConfig, RegionsConfig, build_patches
from patchword.encoders.text import TextConfig, build_text
from patchword.layers.linear import xavier
from patchword.layers.normalise import unit
from patchword.methods.base import LossConfig, Method, Pooling
from patchword.methods.formula import COSINES, Formula
from patchword.types import Alignment, Captions, Encoded, Images, real_slots

Coding = Literal["vha", "tha", "vsa"]

# The options `coding` and `pooling` as formulas, for those who have the exported vectors only.
CODED: dict[Coding, str] = {
    "vha": "z[l] = max over r of s, one number for every word",
    "tha": "z[r] = max over l of s, one number for every region",
    "vsa": (
        "p = softmax over l of s / {t:g}, c[r] = sum over l of p * word l, z[r] = dot product of region r and c[r] / "
        "(length of c[r] + 1e-8)"
    ),
}
POOLED: dict[Pooling, str] = {
    "mean": "the mean of z",
    "max": "the largest z",
    "sum": "the sum of z",
    "lse": "log(sum of exp(z / {t:g}))",
    "softmax": "the sum of softmax(z / {t:g}) * z",
}


class ChanConfig(Config):
    """CHAN; the defaults are the published BiGRU configuration.

    Attributes:
        joint_dim: D, width of the joint space.
        image: what the image tower reads.
        context: what regions exchange after the projection: ``none`` ("basic"), ``self_attention``, or ``transformer``
            (attends across the images of the batch, as the authors' code does by mistake; for compatibility only).
        heads: attention heads of ``context``.
        text: the text tower.
        coding: ``vha`` (each word's best region), ``tha`` (each region's best word), ``vsa`` (each region's soft
            words).
        pooling: of the codes to one score.
        coding_temperature: of the softmax in ``vsa`` ("alpha").
        pooling_temperature: of ``lse`` and ``softmax`` ("belta"). LSE is not multiplied by it: its scores lie around
            1 / pooling_temperature, and the loss margin is in these units.
        unit_patches, unit_words: divide every vector by its length.
        attention_padding: ``reference`` lets zero-padded region slots act as keys, as the authors' code does in
            training; ``masked`` hides them. Equal whenever all images of a batch have the same number of regions.
            Only ``self_attention`` can hide them.
        score_padding: ``masked`` ignores padding; ``reference`` marks it with -1 as the authors' code does, which
            differs without unit vectors and makes ``softmax`` pooling NaN wherever there is padding.
    """

    joint_dim: int = Field(1024, gt=0)
    image: PatchConfig = RegionsConfig()
    context: Literal["none", "self_attention", "transformer"] = "self_attention"
    heads: int = Field(8, gt=0)
    text: TextConfig = BigruConfig(embedding="xavier")
    coding: Coding = "vha"
    pooling: Pooling = "lse"
    coding_temperature: float = Field(0.1, gt=0)
    pooling_temperature: float = Field(0.1, gt=0)
    unit_patches: bool = True
    unit_words: bool = True
    attention_padding: Literal["reference", "masked"] = "reference"
    score_padding: Literal["masked", "reference"] = "masked"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ChanConfig:
        if self.context != "none" and self.joint_dim % self.heads:
            raise ValueError(f"joint_dim {self.joint_dim} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _transformer_hides_nothing(self) -> ChanConfig:
        if self.context == "transformer" and self.attention_padding == "masked":
            raise ValueError(
                "attention_padding masked hides nothing from context transformer, which attends across images; set "
                "attention_padding to reference, or context to self_attention"
            )
        return self


class SelfAttention(nn.Module):
    """x + attention(layer norm(x)), regions of one image attending to each other; no feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Float[Tensor, "B R D"], padding: Bool[Tensor, "B R"] | None) -> Float[Tensor, "B R D"]:
        """Mix the regions of each image; ``padding`` is True at slots that must not act as keys."""
        y = self.ln(x)
        mixed: Tensor = self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        return x + mixed


class BatchTransformer(nn.Module):
    """The authors' ``transformer`` context: its attention reads (B, R, D) as (sequence, batch, width).

    So it attends across the images of the batch at equal region index, and results depend on the batch.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "B R D"], padding: Bool[Tensor, "B R"] | None) -> Float[Tensor, "B R D"]:
        """Attention across the batch, then a feed-forward part with QuickGELU."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        hidden = self.c_fc(self.ln_2(x))
        added: Tensor = self.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return x + added


class ImageTower(nn.Module):
    """Project every patch and let the patches of an image exchange context."""

    def __init__(self, config: ChanConfig) -> None:
        super().__init__()
        self.padding = config.attention_padding
        self.patches = build_patches(config.image)
        self.fc = xavier(nn.Linear(self.patches.width, config.joint_dim))
        kinds = {"self_attention": SelfAttention, "transformer": BatchTransformer}
        self.context = None if config.context == "none" else kinds[config.context](config.joint_dim, config.heads)

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """Patch vectors before normalisation, and their number."""
        patches, lengths = self.patches(images)
        projected = self.fc(patches)
        if self.context is not None:
            padding = ~real_slots(lengths, projected.shape[1])
            projected = self.context(projected, padding if self.padding == "masked" else None)
        return projected, lengths


class Chan(Method):
    """Score = pooled hard assignments of words to patches."""

    name = "chan"
    title = "CHAN"
    shortlist = "anchors"
    intra_modal = "score"
    Config = ChanConfig
    config: ChanConfig

    def __init__(self, config: ChanConfig, loss: LossConfig | None = None) -> None:
        super().__init__(config, loss)
        self.image = ImageTower(config)
        self.text = build_text(config.text, config.joint_dim)

    @classmethod
    def default_loss(cls) -> LossConfig:
        """Hinge with margin 0.05, in units of the score, after one epoch over all negatives."""
        return LossConfig(margin=0.05)

    @property
    def mixes_batch(self) -> bool:
        """True for the authors' ``transformer`` context."""
        return self.config.context == "transformer"

    def encode_images(self, images: Images) -> Encoded:
        """One unit vector per patch."""
        patches, lengths = self.image(images)
        return Encoded.from_padded(unit(patches) if self.config.unit_patches else patches, lengths)

    def encode_captions(self, captions: Captions) -> Encoded:
        """One unit vector per token, the special ones included."""
        words = self.text(captions.tokens, captions.lengths)
        return Encoded.from_padded(unit(words) if self.config.unit_words else words, captions.lengths)

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Codes of every pair, pooled; memory B*C*R*L floats."""
        codes, real = self.codes(images, captions)
        return pool_codes(codes, real, self.config.pooling, self.config.pooling_temperature, self.config.score_padding)

    def codes(self, images: Encoded, captions: Encoded) -> tuple[Float[Tensor, "B C S"], Bool[Tensor, "B C S"]]:
        """Codes of every pair before pooling (S = words for ``vha``, regions otherwise), and which of them are real."""
        patches, patch_mask = images.padded()
        words, word_mask = captions.padded()
        cfg = self.config
        return code_pairs(patches, patch_mask, words, word_mask, cfg.coding, cfg.coding_temperature, cfg.score_padding)

    @property
    def best_patch_pooling(self) -> tuple[Pooling, float] | None:
        """The pooling of the codes, where a code is the best cosine of a word and padding plays no part."""
        config = self.config
        if config.coding != "vha" or config.score_padding != "masked":
            return None
        return config.pooling, config.pooling_temperature

    @property
    def formula(self) -> Formula:
        """Cosines, coded and pooled."""
        coded = CODED[self.config.coding].format(t=self.config.coding_temperature)
        pooled = POOLED[self.config.pooling].format(t=self.config.pooling_temperature)
        return Formula(f"{COSINES}; {coded}; the score is {pooled}")

    @property
    def export_notes(self) -> tuple[str, ...]:
        """What the options that let padding take part mean for a batch."""
        notes = []
        if self.config.score_padding == "reference":
            notes.append("score_padding: reference takes a z of exactly -1 for padding; `score` leaves that out")
        attends = self.reads == "regions" and self.config.context == "self_attention"
        if attends and self.config.attention_padding == "reference":
            notes.append(
                "attention_padding: reference lets padded regions act as keys, as in patchword: give the images of a "
                "batch equal numbers of regions"
            )
        return tuple(notes)

    @property
    def not_exported(self) -> str | None:
        """The authors' ``transformer`` context sees the batch."""
        return (
            "its images see the others of their batch (model.context: transformer), so that an image alone has no "
            "encoding of its own"
            if self.mixes_batch
            else None
        )

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Give each word's part of the score to the region it is assigned to (``tha``: each region's part to its word).

        The pooled score is split over the slots so that the parts add up exactly: mean z/n, sum z, max its one slot,
        softmax p*z, and LSE p*score with p the softmax of z/temperature.
        """
        image, caption = self.encode_images(images[0:1]), self.encode_captions(captions[0:1])
        score = self.score(image, caption)[0, 0]
        codes = self.codes(image, caption)[0][0, 0]  # (S,)
        part = split_score(codes, score, self.config.pooling, self.config.pooling_temperature)
        s = caption.vectors @ image.vectors.T  # (L, R)
        if self.config.coding == "vha":
            share = torch.nn.functional.one_hot(s.argmax(1), s.shape[1]).to(s)  # each word's best region
            return Alignment(part[:, None] * share, float(score))
        if self.config.coding == "tha":
            share = torch.nn.functional.one_hot(s.argmax(0), s.shape[0]).to(s).T  # each region's best word
        else:
            share = torch.softmax(s / self.config.coding_temperature, dim=0)  # each region's soft words
        return Alignment(part[None, :] * share, float(score))


def code_pairs(
    patches: Float[Tensor, "B R D"],
    patch_mask: Bool[Tensor, "B R"],
    words: Float[Tensor, "C L D"],
    word_mask: Bool[Tensor, "C L"],
    coding: Coding,
    temperature: float,
    padding: Literal["masked", "reference"] = "masked",
) -> tuple[Float[Tensor, "B C S"], Bool[Tensor, "B C S"]]:
    """One code per word (``vha``) or per region (``tha``, ``vsa``) of every pair.

    With s[r, l] = <patch r, word l>:  vha: z_l = max_r s[r, l].  tha: z_r = max_l s[r, l].
    vsa: p = softmax over l of s[r, l] / temperature, c_r = sum_l p_l word_l, z_r = <patch r, c_r> / (||c_r|| + 1e-8).

    Args:
        patches, words: zero-padded sets; what lies in padded rows does not matter.
        patch_mask, word_mask: True at real rows, at least one each.
        padding: how padded slots are kept out, see ``ChanConfig.score_padding``.

    Returns:
        The codes, and which of them are real.

    Source: ppanzx/CHAN ``lib/similarity.py`` (VHACoding, THACoding, VSACoding).
    """
    s = torch.einsum("brd,cld->bclr", patches, words)
    real_patch, real_word = patch_mask[:, None, None, :], word_mask[None, :, :, None]
    fill = -1.0 if padding == "reference" else -torch.inf
    if coding == "vha":
        s = (
            s.masked_fill(~(real_patch & real_word), fill)
            if padding == "reference"
            else s.masked_fill(~real_patch, fill)
        )
        return s.amax(3), word_mask[None].expand(len(patches), -1, -1)
    real = patch_mask[:, None].expand(-1, len(words), -1)  # (B, C, R)
    if coding == "tha":
        return s.masked_fill(~real_word, fill).amax(2), real
    p = torch.softmax(s.masked_fill(~real_word, -torch.inf) / temperature, dim=2)  # over words
    attended = torch.einsum("bclr,cld->bcrd", p, words)
    codes = (patches[:, None] * attended).sum(3) / (attended.norm(dim=3) + 1e-8)
    return codes.masked_fill(~real, -1.0), real


def pool_codes(
    codes: Float[Tensor, "B C S"],
    real: Bool[Tensor, "B C S"],
    pooling: Pooling,
    temperature: float,
    padding: Literal["masked", "reference"] = "masked",
) -> Float[Tensor, "B C"]:
    """Pool the real codes of every pair to its score.

    mean: (1/n) sum z.  max: max z.  sum: sum z.  lse: log sum exp(z / temperature), not multiplied by the temperature.
    softmax: sum of softmax(z / temperature) * z.

    Source: ppanzx/CHAN ``lib/pooling.py``. The authors' code takes every code equal to -1 for padding.
    """
    if padding == "reference":
        codes = torch.where(real, codes, -1.0)
        real = codes != -1.0
    if pooling == "max":
        return codes.masked_fill(~real, -1.0 if padding == "reference" else -torch.inf).amax(2)
    if pooling in ("mean", "sum"):
        total = codes.masked_fill(~real, 0.0).sum(2)
        return total if pooling == "sum" else total / real.sum(2)
    logits = (codes / temperature).masked_fill(~real, -torch.inf)
    if pooling == "lse":
        return torch.logsumexp(logits, dim=2)
    weights = torch.softmax(logits, dim=2)
    return (weights * codes.masked_fill(~real, -torch.inf if padding == "reference" else 0.0)).sum(2)


def split_score(
    codes: Float[Tensor, " S"], score: Float[Tensor, ""], pooling: Pooling, temperature: float
) -> Float[Tensor, " S"]:
    """Share of each code in the pooled score of one pair; the shares add up to it."""
    if pooling == "mean":
        return codes / len(codes)
    if pooling == "sum":
        return codes
    if pooling == "max":
        return torch.nn.functional.one_hot(codes.argmax(), len(codes)).to(codes) * score
    weights = torch.softmax(codes / temperature, dim=0)
    return weights * (score if pooling == "lse" else codes)
