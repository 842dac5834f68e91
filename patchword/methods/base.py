"""The contract of a method: four verbs, a loss, and what it says about itself. Its callers know nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.config import Config as BaseConfig
from patchword.encoders.patches import RegionsConfig
from patchword.losses.contrastive import info_nce
from patchword.losses.triplet import hinge
from patchword.methods.formula import DOT, Formula
from patchword.types import Alignment, Captions, Encoded, Images

Pooling = Literal["mean", "max", "sum", "lse", "softmax"]  # of one number for each word to a score


class LossConfig(BaseConfig):
    """Ranking loss of the published systems.

    Attributes:
        kind: ``hinge`` or ``info_nce`` (a mean over the batch).
        reduction: of the hinge: the ``sum`` over the batch, as in the authors' code, or that sum divided by the size of
            the batch. With the sum, gradients grow with the batch, and the clipping of their norm acts at every step.
        margin: in units of the score.
        temperature: of InfoNCE.
        label_smoothing: of InfoNCE, the share of the target that all candidates get evenly; 0 in the authors' code.
        warmup_epochs: epochs of the hinge over all negatives before only the hardest one counts.
        anneal_epochs: epochs after the warm-up in which the number of counted negatives shrinks geometrically from all
            to one; 0 is the authors' sudden switch.
        negatives_after: ``hardest``, or ``all`` to keep counting all negatives.
        same_image: whether another caption of the same image is a ``negative`` (as in the authors' code) or
            ``ignored``.
        ramp_epoch: the epoch in which the loss is multiplied by iteration / iterations (VSE-infinity's grid warm-up).
    """

    kind: Literal["hinge", "info_nce"] = "hinge"
    reduction: Literal["sum", "mean"] = "sum"
    margin: float = Field(0.2, ge=0)
    temperature: float = Field(0.01, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup_epochs: int = Field(1, ge=0)
    anneal_epochs: int = Field(0, ge=0)
    negatives_after: Literal["hardest", "all"] = "hardest"
    same_image: Literal["negative", "ignored"] = "negative"
    ramp_epoch: int | None = None

    @model_validator(mode="after")
    def _hinge_has_no_labels(self) -> LossConfig:
        if self.kind == "hinge" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing {self.label_smoothing} means nothing to the hinge; set kind to info_nce, or "
                "label_smoothing to 0"
            )
        return self


@dataclass(frozen=True)
class Step:
    """Where training stands when a loss is asked for.

    Attributes:
        epoch: from 0.
        iteration: within the epoch, from 0.
        iterations: of this epoch.
        step: optimiser steps taken before this one, over the whole run.
        image_rows: ``(B,)`` position of each pair's image in the data set, to tell captions of the same image.
    """

    epoch: int = 0
    iteration: int = 0
    iterations: int = 1
    image_rows: Int[Tensor, " B"] | None = None
    step: int = 0

    @property
    def progress(self) -> float:
        """Fraction of this epoch that is done, 0 <= progress < 1."""
        return self.iteration / max(1, self.iterations)


class Method(nn.Module, ABC):
    """A system that scores images against captions.

    A subclass must define

    * ``name``, and ``Config`` with the fields ``image`` and ``text`` (defaults = the published setting);
    * ``self.image`` with its ``patches`` (``build_patches``), and ``self.text`` (``build_text``): pretrained towers,
      vocabularies and word vectors find their place there;
    * ``encode_images``, ``encode_captions``, ``score`` and ``explain``.

    All else has a default. What only training needs stays inside the method: in training mode a vector set may hold
    more rows than scoring needs (a key for a queue, the vectors before pooling), and the same method's ``score`` knows
    them.

    Attributes:
        name: as recipes and checkpoints call it.
        title: as papers call it.
        Config, Loss: classes of its settings, and of those of its loss.
        training_only: prefixes of the state that nothing but training needs (queues, key encoders, a graph over the
            batch). It is kept for resuming and left out of checkpoints.
        matching: prefixes of parameters that belong to neither tower although their names begin with ``image`` or
            ``text`` (``parameter_groups``).
        intra_modal: ``score``: two images, or two captions, may be compared by the method's own score; empty when
            they may not.
        shortlist: which vector per item finds the candidates of a search (``shortlist/pooled.py``). ``own``: items have
            one vector, and the score is their inner product; ``anchors``: both sides lie in one space, and the score
            rests on each word's best patch; ``mean``: neither.
        shortlist_sample: images whose exact scores teach a query its vector for the shortlist.
        drawn: seed and shard of a random part of the score that no weight holds; None where there is none.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseConfig]]
    Loss: ClassVar[type[BaseConfig]] = LossConfig
    title: ClassVar[str] = ""
    training_only: ClassVar[tuple[str, ...]] = ()
    matching: ClassVar[tuple[str, ...]] = ()
    intra_modal: ClassVar[str] = ""
    shortlist: Literal["own", "anchors", "mean"] = "mean"
    shortlist_sample: ClassVar[int] = 512
    drawn: tuple[int, int] | None = None

    def __init__(self, config: Any, loss: Any = None) -> None:
        super().__init__()
        self.config = config
        self.loss = loss if loss is not None else self.default_loss()

    # Required.

    @abstractmethod
    def encode_images(self, images: Images) -> Encoded:
        """Turn a batch of images into vector sets."""

    @abstractmethod
    def encode_captions(self, captions: Captions) -> Encoded:
        """Turn a batch of captions into vector sets."""

    @abstractmethod
    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Score every image against every caption: the readable formula, the oracle of ``scoring/``."""

    @abstractmethod
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split the score of one pair (a batch of one each) into word x patch parts that add up to it.

        It takes the inputs, not their encodings, because a pooled vector no longer knows its patches.
        """

    # What it reads, and what it is called.

    @property
    def label(self) -> str:
        """What to call this model in a table; a variant that is no published system says so."""
        return self.name

    @property
    def reads(self) -> Literal["regions", "pictures"]:
        """What ``encode_images`` reads: region features, or the pixels of pictures."""
        return "regions" if isinstance(self.config.image, RegionsConfig) else "pictures"

    @property
    def image_extras(self) -> tuple[str, ...]:
        """Names of the side inputs that ``encode_images`` reads from ``Images.extra``."""
        return ()

    @property
    def caption_extras(self) -> tuple[str, ...]:
        """Names of the side inputs that ``encode_captions`` reads from ``Captions.extra``."""
        return ()

    @property
    def reads_padding(self) -> bool:
        """Whether an encoding in evaluation depends on how far its batch is padded, as some authors' code does.

        Such captions are encoded in the order of the file; their numbers depend on the size of the batches.
        """
        return False

    # Training.

    @classmethod
    def default_loss(cls) -> Any:
        """The published loss setting of this method."""
        return cls.Loss()

    def losses(
        self, scores: Float[Tensor, "B B"], images: Encoded, captions: Encoded, step: Step
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss of a batch of true pairs; the key ``total`` is what is optimised, the others are logged.

        The sets are those of all processes. Random numbers drawn here and in ``score`` are the same on every process.
        """
        return {"total": ranking_loss(self.loss, scores, step)}

    def begin_step(self, step: Step) -> None:
        """What happens once before a training step, such as moving momentum encoders. Nothing by default."""

    def hardest_margin(self, step: Step, batch: int) -> float | None:
        """The margin, while only the hardest negative of each query is trained on; else None.

        For the detection of a collapse, which happens then (``train/collapse.py``).
        """
        if not isinstance(self.loss, LossConfig) or self.loss.kind != "hinge" or self.loss.margin == 0:
            return None
        return self.loss.margin if counted_negatives(self.loss, step, batch) == 1 else None

    @property
    def mixes_batch(self) -> bool:
        """Whether the images of a batch see each other's vectors, so that a part of a batch gives other numbers."""
        return False

    @property
    def has_batch_statistics(self) -> bool:
        """Whether an encoding depends on the other items of its batch in training (batch normalisation)."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.modules())

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by role, for learning-rate factors and freezing; together they are all parameters."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            group = "matching" if name.startswith(self.matching) else group_of(name)
            groups.setdefault(group, []).append(parameter)
        return groups

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze the first ``blocks`` stages of a raw-image backbone (4 = all of it); nothing to do without one."""
        tower: Any = self.image
        tower.patches.freeze_blocks(blocks)

    # Scoring and search.

    def pair_bytes(self, images: Encoded, captions: Encoded) -> int:
        """Temporary memory of ``score`` for one pair, in bytes: what the size of a tile is chosen by."""
        return 4 * max(1, images.max_length) * max(1, captions.max_length)

    @property
    def best_patch_pooling(self) -> tuple[Pooling, float] | None:
        """How the best cosine of each word becomes the score, with its temperature; None for any other score.

        A search of few words uses it to score many images faster (``retrieve/rescore.py``).
        """
        return None

    def match_probability(self, scores: Float[Tensor, "*n"]) -> Float[Tensor, "*n"] | None:
        """Probability that a pair of such a score matches, where the model was trained to say it; else None."""
        return None

    # Export.

    @property
    def formula(self) -> Formula:
        """How a score is made of the vectors, for ``export``; a dot product for ``own``, else unknown."""
        return Formula(DOT) if self.shortlist == "own" else Formula()

    @property
    def export_notes(self) -> tuple[str, ...]:
        """What a user of the exported encoders must know that shapes and ``formula`` do not tell, one sentence each."""
        return ()

    @property
    def not_exported(self) -> str | None:
        """Why the encoders can not stand alone in a file, as one sentence; None when they can."""
        alone = "its images see the others of their batch, so that an image alone has no encoding of its own"
        return alone if self.mixes_batch else None

    def image_block(self, images: Images) -> tuple[Float[Tensor, "B S D"], Int[Tensor, " B"]] | None:
        """The sets of a batch as a padded block and their sizes, in a form that a tracer can follow.

        None takes the one vector of ``own``, or else the block that ``encode_images`` gives to ``Encoded.from_padded``.
        """
        return None

    def caption_block(self, captions: Captions) -> tuple[Float[Tensor, "C S D"], Int[Tensor, " C"]] | None:
        """As for images."""
        return None


GROUPS = ("text", "text_backbone", "image", "image_backbone", "matching")


def group_of(parameter_name: str) -> str:
    """Role of a parameter, one of ``GROUPS``: the tower that its name begins with, or ``matching`` for neither.

    Example:
        >>> group_of("text.bert.encoder.layer.0.output.dense.weight"), group_of("image.fc.bias"), group_of("forms.p")
        ('text_backbone', 'image', 'matching')
    """
    tower = next((tower for tower in ("text", "image") if parameter_name.startswith(tower)), None)
    if tower is None:
        return "matching"
    return f"{tower}_backbone" if ".backbone." in parameter_name or ".bert." in parameter_name else tower


def ranking_loss(config: LossConfig, scores: Float[Tensor, "B B"], step: Step) -> Float[Tensor, ""]:
    """The loss that ``config`` describes, at this point of training."""
    ignore: Bool[Tensor, "B B"] | None = None
    if config.same_image == "ignored" and step.image_rows is not None:
        ignore = step.image_rows[:, None] == step.image_rows[None, :]
    if config.kind == "info_nce":
        smoothing = config.label_smoothing
        loss = info_nce(scores, config.temperature, config.margin, label_smoothing=smoothing, ignore=ignore)
    else:
        loss = hinge(scores, config.margin, hardest=counted_negatives(config, step, len(scores)), ignore=ignore)
        if config.reduction == "mean":
            loss = loss / len(scores)
    if config.ramp_epoch is not None and step.epoch == config.ramp_epoch:
        loss = loss * step.progress
    return loss


def counted_negatives(config: LossConfig, step: Step, batch: int) -> int | None:
    """How many negatives of each query the hinge counts now; None means all.

    Example:
        >>> c = LossConfig(warmup_epochs=1, anneal_epochs=2)
        >>> [counted_negatives(c, Step(epoch=e), 65) for e in (0, 1, 2, 3)]
        [None, 64, 8, 1]
    """
    if step.epoch < config.warmup_epochs or config.negatives_after == "all":
        return None
    if step.epoch >= config.warmup_epochs + config.anneal_epochs:
        return 1
    done = (step.epoch - config.warmup_epochs + step.progress) / config.anneal_epochs
    return max(1, round(math.pow(batch - 1, 1 - done)))


def is_training_only(method: Method, key: str) -> bool:
    """Whether a key of the state dict is needed by training only."""
    return key.startswith(method.training_only) if method.training_only else False


def lengths_of(tensor: Tensor) -> Int[Tensor, " N"]:
    """Set sizes of vectors that stand alone: all ones."""
    size = tensor.shape[:1]  # not len(), which a tracer takes for fixed
    return torch.ones(size, dtype=torch.long, device=tensor.device)
