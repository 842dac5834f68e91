"""The ranking losses of HREM and AAHR: over the plain vectors of a batch, and over those of its graph.

Source: CrossmodalGroup/HREM ``lib/loss.py`` and ``graph_lib.py``; Image-Text-Matching/AAHR ``lib/loss.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from patchword.config import Config
from patchword.losses.distance_weighted import distance_weighted
from patchword.losses.triplet import hinge

Draws = Iterator[tuple[Tensor | None, Tensor | None]]  # of the trip losses of a step, in the order of their calls


class RelationLoss(Config):
    """What the losses of HREM and AAHR share; the defaults are the published Flickr30K setting.

    Attributes:
        base, graph: loss of the plain vectors and of those from the graph: ``trip`` (negatives drawn by distance) or
            ``vse`` (hinge over all negatives, over the hardest ones from ``warmup_epochs`` on).
        trip_margin: of ``trip``, in units of the score; a constant in the authors' code.
        trip_cutoff: negatives at this distance or farther are never drawn (COCO: 1.9).
        margin: of ``vse``.
        warmup_epochs: of ``vse``.
        all_negatives: ``vse`` over all negatives is a ``sum`` over the batch or its ``mean``.
        same_image: whether another caption of the same image is a negative of ``vse``.
        graph_from_step: optimiser step of the run from which the graph takes part, 0 = from the start.
        cross: also match plain vectors with those from the graph.
    """

    base: Literal["trip", "vse"] = "trip"
    graph: Literal["trip", "vse"] = "trip"
    trip_margin: float = Field(0.2, ge=0)
    trip_cutoff: float = Field(1.7, gt=0)
    margin: float = Field(0.2, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    all_negatives: Literal["sum", "mean"] = "sum"
    same_image: Literal["negative", "ignored"] = "ignored"
    graph_from_step: int = Field(8000, ge=0)
    cross: bool = True


class Matching:
    """The ranking losses of one step: ``trip`` or ``vse`` on any number of score matrices, counting what happens.

    Args:
        config: the losses.
        epoch: from 0.
        same_image: pairs of the same image, the diagonal included.
        draws: negatives of the ``trip`` losses in the order of their calls; drawn when None.

    Attributes:
        events: counts over all ``trip`` losses of the step so far, see ``Sampled``.
        weights: probabilities of the negatives, two directions for each ``trip`` loss.
    """

    def __init__(self, config: RelationLoss, epoch: int, same_image: Bool[Tensor, "B B"], draws: Draws | None) -> None:
        self.config, self.epoch, self.same, self.draws = config, epoch, same_image, draws
        self.events: dict[str, Tensor] = {}
        self.weights: list[Tensor] = []

    def __call__(self, kind: Literal["trip", "vse"], scores: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
        """The loss of one score matrix."""
        config = self.config
        if kind == "vse":
            hardest = 1 if self.epoch >= config.warmup_epochs else None
            ignore = self.same if config.same_image == "ignored" else None
            loss = hinge(scores, config.margin, hardest=hardest, ignore=ignore)
            return loss / len(scores) if hardest is None and config.all_negatives == "mean" else loss
        draws = next(self.draws) if self.draws is not None else None
        found = distance_weighted(scores, self.same, margin=config.trip_margin, cutoff=config.trip_cutoff, draws=draws)
        self.weights += found.weights
        counted = {"zeroed": found.zeroed, "far_anchors": found.far_anchors, "above_one": found.above_one}
        for name, count in counted.items():
            self.events[f"trip_{name}"] = self.events.get(f"trip_{name}", 0) + count.to(scores.dtype)
        return found.loss

    def across(
        self,
        images: Float[Tensor, "B D"],
        captions: Float[Tensor, "B D"],
        enhanced: Float[Tensor, "N D"],
    ) -> Float[Tensor, ""]:
        """Losses of the vectors from the graph: with the plain ones of the other modality, and with each other."""
        a, b = functional.normalize(enhanced).split(len(images))
        kind = self.config.graph
        total = images.new_zeros(())
        if self.config.cross:
            total = self(kind, images @ b.T) + self(kind, a @ captions.T)
        return total + self(kind, a @ b.T)


def same_image(image_rows: Int[Tensor, " B"] | None, batch: int, device: torch.device) -> Bool[Tensor, "B B"]:
    """Which pairs of a batch are of the same image; without rows every item has its own.

    Example:
        >>> same_image(torch.tensor([7, 8, 7]), 3, torch.device("cpu")).int().tolist()
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    rows = image_rows if image_rows is not None else torch.arange(batch, device=device)
    return rows[:, None] == rows[None, :]
