"""SCTA and LAPS: patches chosen and condensed for every caption, aligned with its words.

SCTA: "Enhancing Cross-modal Semantic Consistency via Key Token Alignment for Image-text Retrieval" (ICME 2025).
LAPS: Fu, Zhang, Xia, Mao: "Linguistic-Aware Patch Slimming Framework for Fine-grained Cross-Modal Alignment"
(CVPR 2024). For every pair, half of the patches are kept, those most like the image as a whole and like this caption;
they are condensed to a few mixtures. SCTA condenses the words too, LAPS compares all of them. The score is the mean of
the best cosines in both directions.

Equations are written from the authors' code (ICME2025ITR/SCTA and CrossmodalGroup/LAPS, ``lib/cross_net.py``), which
produced the published numbers. Published results: docs/methods/scta.md. Recipes: recipes/scta_*.yaml and
recipes/laps_*.yaml. Golden values: tests/golden/scta.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize, one_hot
from torch.nn.utils.rnn import pad_sequence

from patchword.config import Config
from patchword.encoders.all_tokens import ClassVitConfig, ImageTower, TokenConfig, build_words, patch_count
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import VitConfig
from patchword.encoders.text import TextConfig
from patchword.layers.condense import (
    PatchCondenser,
    WordCondenser,
    draw_heads,
    hidden_width,
    image_shares,
    kept_count,
    mixture_count,
    patch_scores,
    word_bank,
    word_counts,
)
from patchword.methods.base import LossConfig, Method, Step, ranking_loss
from patchword.methods.formula import Formula
from patchword.types import Alignment, Captions, Encoded, Images, real_slots

SLOPE = 0.1  # of the leaky ReLU over cosines
SHARD = 256  # images that the authors' evaluation scores with one draw of the random layer


class SctaConfig(Config):
    """SCTA; the defaults are the published setting. ``word_condenser: none`` is LAPS.

    Attributes:
        joint_dim: D, width of the joint space.
        image: ViT or Swin as published. Region features and ResNet grids are our extension; they have no class token.
        text: BERT as published. A BiGRU is our extension; its first token takes the place of ``[CLS]``.
        keep_ratio: share of the patches that are kept for a caption ("img_sparse_ratio").
        patch_ratio: mixtures of an image as a share of the kept patches ("img_aggr_ratio"): 0.3, in LAPS 0.4.
        patches: number of patches that the number of mixtures is computed from; None takes that of the image tower
            (196 for ViT-B/16, 49 for Swin-B; 36 for region features).
        word_condenser: ``random`` mixes the words by a layer that is drawn, not learned; ``none`` keeps all words, and
            has no use for ``word_ratio``, ``word_head`` and ``bank_seed``.
        word_ratio: mixtures of a caption as a share of its words ("cap_aggr_ratio").
        word_head: the layer of ``random``. ``bank``: drawn anew for every caption and step in training; in evaluation
            one fixed set of rows, stored with the weights, of which a caption uses the first k. ``resample``: drawn in
            evaluation too, as in the authors' code, so that scores differ from call to call. ``trained``: the bank is
            learned. That is a different model: its numbers are not those of SCTA.
        bank_seed: of the stored bank.
        word_limit: in evaluation, only the first so many word vectors of a caption count.
    """

    joint_dim: int = Field(512, gt=0)
    image: TokenConfig = ClassVitConfig()
    text: TextConfig = BertConfig()
    keep_ratio: float = Field(0.5, gt=0, le=1)
    patch_ratio: float = Field(0.3, gt=0)
    patches: int | None = Field(None, gt=0)
    word_condenser: Literal["random", "none"] = "random"
    word_ratio: float = Field(0.75, gt=0)
    word_head: Literal["bank", "resample", "trained"] = "bank"
    bank_seed: int = Field(0, ge=0)
    word_limit: int = Field(90, gt=0)

    @model_validator(mode="after")
    def _all_words_need_no_mixtures(self) -> SctaConfig:
        if self.word_condenser == "none":
            for key in ("word_ratio", "word_head", "bank_seed"):
                value = getattr(self, key)
                if value != type(self).model_fields[key].default:
                    raise ValueError(f"{key} {value} is of the mixtures of words, which word_condenser none leaves out")
        return self


class LapsConfig(SctaConfig):
    """LAPS: all words are compared, and an image has a third more mixtures than in SCTA."""

    patch_ratio: float = Field(0.4, gt=0)
    word_condenser: Literal["none"] = "none"


class SctaLoss(LossConfig):
    """Hinge over all negatives in epoch 0, multiplied by the share of the epoch that is done; then the hardest ones.

    Attributes:
        monitor_weight: of (share of patches kept - ``keep_ratio``)^2. It is a constant without gradient.
        non_finite: ``skip`` leaves out a step whose loss is NaN or infinite, as the authors' code does; ``stop`` ends
            the training there.
    """

    same_image: Literal["negative", "ignored"] = "ignored"
    ramp_epoch: int | None = 0
    monitor_weight: float = Field(2.0, ge=0)
    non_finite: Literal["skip", "stop"] = "skip"


@dataclass(frozen=True)
class CaptionTokens:
    """What captions bring to a comparison.

    Attributes:
        means: ``(C, D)`` unit mean of all words of a caption; no gradient goes through it.
        tokens: ``(C, J, D)`` unit vectors; rows beyond ``counts`` mean nothing.
        counts: ``(C,)`` tokens of each caption.
    """

    means: Float[Tensor, "C D"]
    tokens: Float[Tensor, "C J D"]
    counts: Int[Tensor, " C"]


class Scta(Method):
    """Patches are chosen for each caption; mixtures of patches meet mixtures of words."""

    name = "scta"
    shortlist_sample = 256
    title = "SCTA"
    shortlist = "anchors"
    Config = SctaConfig
    Loss = SctaLoss
    config: SctaConfig
    loss: SctaLoss
    bank: Tensor

    def __init__(self, config: SctaConfig, loss: SctaLoss | None = None) -> None:
        super().__init__(config, loss)
        D = config.joint_dim
        self.has_class_token = isinstance(config.image, VitConfig) and config.image.class_token
        self.image = ImageTower(config.image, D)
        self.text = build_words(config.text, D)
        count = config.patches if config.patches is not None else patch_count(config.image)
        self.patch_condenser = PatchCondenser(D, mixture_count(count, config.patch_ratio, config.keep_ratio))
        if config.word_condenser == "random":
            self.word_condenser = WordCondenser(D)
            bank = word_bank(hidden_width(D), config.bank_seed)
            if config.word_head == "trained":
                self.bank = nn.Parameter(bank)
            else:
                self.register_buffer("bank", bank)

    @property
    def label(self) -> str:
        """What to call this model in a table: the learned bank makes it another one."""
        is_trained = self.config.word_condenser == "random" and self.config.word_head == "trained"
        return f"{self.name} with a trained word head" if is_trained else self.name

    @property
    def formula(self) -> Formula:
        """None: the score has weights."""
        is_both = self.config.word_condenser == "random"
        return Formula(weights="the condensers of patches and words" if is_both else "the condenser of patches")

    def encode_images(self, images: Images) -> Encoded:
        """One vector per token, as projected: neither condensed nor normalised, since both depend on the caption."""
        return Encoded.from_padded(*self.image(images))

    def encode_captions(self, captions: Captions) -> Encoded:
        """One vector per token, ``[CLS]`` and ``[SEP]`` included; in evaluation the first ``word_limit`` of them."""
        lengths = captions.lengths if self.training else captions.lengths.clamp(max=self.config.word_limit)
        return Encoded.from_padded(self.text(captions.tokens, captions.lengths), lengths)

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Every pair, image by image; memory C*A*D floats. Heads are drawn once per caption and call."""
        return self.compare(images, self.caption_tokens(captions)[0])

    def compare(self, images: Encoded, words: CaptionTokens) -> Float[Tensor, "B C"]:
        """Score images against the tokens of captions."""
        logits = self.patch_condenser(images.vectors)
        bounds = images.offsets.tolist()
        rows = [
            score_captions(images.vectors[a:b], logits[a:b], words, self.config.keep_ratio, self.has_class_token)
            for a, b in pairwise(bounds)
        ]
        return torch.stack(rows)

    def caption_tokens(
        self, captions: Encoded, heads: Float[Tensor, "C K h"] | None = None
    ) -> tuple[CaptionTokens, Float[Tensor, "C J L"]]:
        """Mean and tokens of every caption, and the share of every word in every token.

        LAPS: all words. SCTA: the first word ``[CLS]``, then k mixtures of the other words, ``[SEP]`` among them,
        y_j = sum over words i of share[j, i] c_i. A caption of one token has mixtures of that token.

        Args:
            captions: as encoded.
            heads: rows of the random layer for every caption; drawn, or those of the bank, by default.
        """
        words, real = captions.padded()  # (C, L, D), (C, L)
        with torch.no_grad():
            means = normalize(words.sum(1) / captions.lengths[:, None], dim=1)
        if self.config.word_condenser == "none":
            every = torch.eye(words.shape[1], device=words.device).expand(len(words), -1, -1)
            return CaptionTokens(means, normalize(words, dim=2), captions.lengths), every
        counts = word_counts(captions.lengths, self.config.word_ratio)
        inner = real & (torch.arange(words.shape[1], device=words.device) >= (captions.lengths > 1)[:, None])
        mixed = self.word_condenser(words, inner, self.heads(counts, captions) if heads is None else heads)  # (C, K, L)
        first = one_hot(torch.zeros_like(counts), words.shape[1]).to(mixed)[:, None]  # (C, 1, L)
        shares = torch.cat([first, mixed], dim=1)
        return CaptionTokens(means, normalize(shares @ words, dim=2), counts + 1), shares

    def heads(self, counts: Int[Tensor, " C"], captions: Encoded | None = None) -> Float[Tensor, "C K h"]:
        """Rows of the random layer for captions with ``counts`` mixtures, zero-padded or with rows to spare.

        Within a ``variant`` of ``resample`` the seed, the shard and the captions decide what is drawn, so that threads
        and processes change nothing.
        """
        head, generator = self.config.word_head, None
        if head == "resample" or (head == "bank" and self.training):
            if self.drawn is not None and captions is not None:
                counts, generator = counts.cpu(), _generator(self.drawn, captions)
            drawn = draw_heads(counts, self.bank.shape[1], generator)
            return pad_sequence([weight for weight, _ in drawn], batch_first=True).to(self.bank.device)
        return self.bank[: int(counts.max())].expand(len(counts), -1, -1)

    @contextmanager
    def variant(self, seed: int, shard: int = 0) -> Iterator[None]:
        """Evaluate with another random layer for a while: one of the models that SCTA stands for.

        With ``bank`` that is another bank, whatever the shard. With ``resample`` every caption gets a layer of its own,
        another one for every shard of images. Nothing changes where no layer is drawn (LAPS, ``trained``).
        """
        if not self.has_variants:
            yield
            return
        if self.config.word_head == "resample":
            self.drawn = (seed, shard)
            try:
                yield
            finally:
                self.drawn = None
            return
        stored = self.bank.clone()
        self.bank.copy_(word_bank(stored.shape[1], seed))
        try:
            yield
        finally:
            self.bank.copy_(stored)

    @property
    def has_variants(self) -> bool:
        """Whether ``variant`` changes the scores."""
        return self.config.word_condenser == "random" and self.config.word_head != "trained"

    @property
    def draw_images(self) -> int | None:
        """Images that are scored with one draw; None: all of them."""
        return SHARD if self.config.word_head == "resample" else None

    def losses(
        self, scores: Float[Tensor, "B B"], images: Encoded, captions: Encoded, step: Step
    ) -> dict[str, Float[Tensor, ""]]:
        """Ranking loss plus monitor_weight * (share of kept patches - keep_ratio)^2, which has no gradient.

        A loss that is not finite becomes a constant zero without gradients, unless ``non_finite`` is ``stop``.

        Source: ICME2025ITR/SCTA ``lib/loss.py`` and ``train.py``.
        """
        base = ranking_loss(self.loss, scores, step)
        patches = images.lengths.double() - int(self.has_class_token)
        kept = torch.ceil(patches * self.config.keep_ratio)
        share = kept.sum() / patches.sum()
        monitor = (self.loss.monitor_weight * (share - self.config.keep_ratio).square()).to(base)
        total = base + monitor
        if self.loss.non_finite == "skip" and not bool(total.isfinite()):
            total = torch.zeros_like(total, requires_grad=True)
        return {"total": total, "base": base.detach(), "monitor": monitor}

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split the score of one pair over words x patches.

        A best cosine of an image token and a caption token is a sum over the patches and the words that they are
        mixtures of: share of the word * share of the patch * <word, patch> / (both lengths). It adds 1 / (tokens of its
        direction) of that, a tenth of it where it is negative. A dropped patch gets what the token of the dropped
        patches brings. What the class token brings is spread evenly over all patches.
        """
        image, caption = self.encode_images(images[0:1]), self.encode_captions(captions[0:1])
        side, shares = self.caption_tokens(caption)
        logits = self.patch_condenser(image.vectors)
        score = score_captions(image.vectors, logits, side, self.config.keep_ratio, self.has_class_token)
        first = int(self.has_class_token)
        x = image.vectors[first:]
        kept = kept_count(len(x), self.config.keep_ratio)
        by_patch = image_shares(logits[first:], patch_scores(x, side.means), kept)[0].double()  # (A + 1, P)
        by_word = shares[0, : int(side.counts[0])].double()  # (J, L)
        x, words = x.double(), caption.vectors.double()
        by_patch = by_patch / (by_patch @ x).norm(dim=1, keepdim=True).clamp_min(1e-12)
        by_word = by_word / (by_word @ words).norm(dim=1, keepdim=True).clamp_min(1e-12)
        pairs = words @ x.T  # (L, P)
        cosines = by_word @ pairs @ by_patch.T  # (J, A + 1)
        if self.has_class_token:
            by_class = words @ normalize(image.vectors[0].double(), dim=0)  # (L,)
            cosines = torch.cat([(by_word @ by_class)[:, None], cosines], dim=1)
        used = best_weights(cosines)  # (J, S)
        parts = pairs * (by_word.T @ used[:, first:] @ by_patch)
        if self.has_class_token:
            parts = parts + (by_class * (by_word.T @ used[:, 0]))[:, None] / len(x)
        return Alignment(parts.to(image.vectors), float(score[0]))


class Laps(Scta):
    """LAPS: the same model with all words and, in the published setting, more mixtures per image."""

    name = "laps"
    shortlist_sample = 256
    title = "LAPS"
    Config = LapsConfig


def _generator(draw: tuple[int, int], captions: Encoded) -> torch.Generator:
    """Random numbers that depend on a seed, a shard and these captions only."""
    vectors = captions.vectors.detach().cpu()
    seen = hashlib.blake2b(vectors.numpy().tobytes(), digest_size=8, key="{} {}".format(*draw).encode())
    return torch.Generator("cpu").manual_seed(int.from_bytes(seen.digest(), "little"))


def score_captions(
    rows: Float[Tensor, "R D"],
    logits: Float[Tensor, "R A"],
    words: CaptionTokens,
    keep_ratio: float,
    has_class_token: bool,
) -> Float[Tensor, " C"]:
    """Score one image against captions.

    Image tokens: the class token, mixtures u_t = sum of share * patch, and the token of the dropped patches; all
    divided by their lengths. G = LeakyReLU of their cosines with the caption's tokens. score = mean over caption
    tokens of the best image token + mean over image tokens of the best caption token.

    Args:
        rows: tokens of the image, raw, the class token first where there is one.
        logits: of the same rows for the mixtures (those of the class token are not used).
        words: the captions.
    """
    patches, logits = (rows[1:], logits[1:]) if has_class_token else (rows, logits)
    scores = patch_scores(patches, words.means)  # (C, P)
    shares = image_shares(logits, scores, kept_count(len(patches), keep_ratio))  # (C, A + 1, P)
    mixed = (shares.flatten(0, 1) @ patches).unflatten(0, shares.shape[:2])  # (C, A + 1, D)
    lengths = torch.linalg.vector_norm(mixed, dim=2).clamp_min(1e-12)
    cosines = words.tokens @ mixed.transpose(1, 2) / lengths[:, None]  # (C, J, A + 1)
    if has_class_token:
        cosines = torch.cat([(words.tokens @ normalize(rows[0], dim=0))[..., None], cosines], dim=2)
    real = real_slots(words.counts, cosines.shape[1])  # (C, J)
    by_word = leaky_relu(cosines.amax(2), SLOPE).masked_fill(~real, 0.0).sum(1) / words.counts
    by_patch = leaky_relu(cosines.masked_fill(~real[..., None], -torch.inf).amax(1), SLOPE).mean(1)
    return by_word + by_patch


def best_weights(cosines: Float[Tensor, "J S"]) -> Float[Tensor, "J S"]:
    """How often each cosine of one pair counts in its score: the sum of weight * cosine is the score."""
    J, S = cosines.shape
    rows = one_hot(cosines.argmax(1), S).to(cosines) / J + one_hot(cosines.argmax(0), J).to(cosines).T / S
    return torch.where(cosines < 0, SLOPE, 1.0) * rows
