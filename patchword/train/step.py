"""One training step of any method: encode, gather, score, loss, gradients, optimiser.

Every random number of a step is a function of (seed, epoch, step), so a run that is killed and resumed makes the same
steps as one that was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from patchword.config import TrainConfig
from patchword.data.batches import Batch
from patchword.errors import CollapseError, ConfigError
from patchword.methods.base import Method, Step
from patchword.scoring.matrix import pair_scores
from patchword.train.distributed import average_gradients, gather_ids, gather_sets, pad_alike
from patchword.train.optimizer import clip_gradients, set_rates
from patchword.train.state import Position
from patchword.types import Encoded

FIRST_STEP = (
    "No update has been made yet, so the data or an option of the model is the cause. Check the data with patchword "
    "doctor data, and the options that the method's page in docs/methods names as having no finite gradient."
)
LATER_STEP = "Try a smaller --train.lr, or --train.precision float32."


@dataclass(frozen=True)
class Taken:
    """A step that was taken.

    Attributes:
        scores: of the batch over all processes, before the step.
        hardest_margin: the margin, while only the hardest negatives are trained on; see ``Method.hardest_margin``.
        numbers: loss, its parts, learning rate and norm of the gradients.
    """

    scores: Float[Tensor, "B B"]
    hardest_margin: float | None
    numbers: dict[str, float]


class Stepper:
    """Takes the optimiser steps of a method.

    Args:
        method: trained in place.
        config: training settings.
        accelerator: device, precision and processes.
        optimizer: of the method's parameters.

    Raises:
        ConfigError: the method can not be trained in parts of a batch, as the settings ask.
    """

    def __init__(
        self, method: Method, config: TrainConfig, accelerator: Accelerator, optimizer: torch.optim.Optimizer
    ) -> None:
        self.method, self.config, self.accelerator, self.optimizer = method, config, accelerator, optimizer
        parts = "train.micro_batch" if config.micro_batch is not None else "several processes"
        if method.mixes_batch and (config.micro_batch is not None or accelerator.num_processes > 1):
            raise ConfigError(
                f"this {method.name} lets the images of a batch see each other, so {parts} would change "
                "the result. Train it in one process without train.micro_batch, or use another model.context."
            )
        if config.micro_batch is not None and method.train().has_batch_statistics:
            raise ConfigError(
                f"`train.micro_batch` is {config.micro_batch}, but this {method.name} normalises over the batch, so "
                "smaller parts would change the result. Remove train.micro_batch, or use a configuration without "
                "batch normalisation."
            )

    def take(self, batch: Batch, position: Position, iterations: int) -> Taken:
        """One optimiser step on this process's share of a batch.

        Args:
            batch: pairs of this process.
            position: where training stands.
            iterations: steps of an epoch.

        Raises:
            CollapseError: loss or gradients are not finite; the step was not taken.
        """
        config, device = self.config, self.accelerator.device
        rate = set_rates(self.optimizer, config, position.epoch, position.step)
        images, captions = pad_alike(batch.images.to(device), batch.captions.to(device))
        batch = Batch(images, captions, batch.image_rows, batch.pairs)
        image_rows = gather_ids(batch.image_rows.to(device))
        step = Step(position.epoch, position.iteration, iterations, image_rows, position.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.method.begin_step(step)
        whole = config.micro_batch is None or config.micro_batch >= len(batch)
        scores, losses = self._whole_step(batch, step) if whole else self._cached_step(batch, step)
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        average_gradients(parameters)
        norm = clip_gradients(parameters, config.clip_norm)
        total = float(losses["total"].detach())
        if not math.isfinite(total + norm):
            advice = FIRST_STEP if position.step == 0 else LATER_STEP
            raise CollapseError(
                f"the loss is {total}, its gradient's norm {norm}, at step {position.step + 1} "
                f"(epoch {position.epoch + 1}); the step was not taken. {advice}"
            )
        self.optimizer.step()
        named = {name: float(value.detach()) for name, value in losses.items() if name != "total"}
        margin = self.method.hardest_margin(step, len(scores))
        return Taken(scores, margin, {"loss": total, "lr": rate, "grad_norm": norm, **named})

    def _whole_step(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode the whole share at once."""
        self.seed(step, 0)
        images, captions = self.encode(batch, slice(None))
        scores, losses = self.loss(images, captions, step)
        losses["total"].backward()
        return scores, losses

    def _cached_step(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode in micro-batches, twice: first for the scores of the whole batch, then for the gradients.

        The loss is that of the one global score matrix, so memory is saved and nothing changes.
        Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021).
        """
        size = self.config.micro_batch or len(batch)
        parts = [slice(k, k + size) for k in range(0, len(batch), size)]
        with torch.no_grad():
            encoded = []
            for k, part in enumerate(parts):
                self.seed(step, k)
                encoded.append(self.encode(batch, part))
        images, captions = (Encoded.concat([pair[side] for pair in encoded]) for side in (0, 1))
        images.vectors.requires_grad_()
        captions.vectors.requires_grad_()
        scores, losses = self.loss(images, captions, step)
        losses["total"].backward()
        if images.vectors.grad is None and captions.vectors.grad is None:  # a loss that leaves the step out
            return scores, losses
        grads = [
            _cut(sets.vectors.grad, [pair[side] for pair in encoded]) for side, sets in ((0, images), (1, captions))
        ]
        for k, part in enumerate(parts):
            self.seed(step, k)
            a, b = self.encode(batch, part)
            wanted = [(v.vectors, g[k]) for v, g in ((a, grads[0]), (b, grads[1])) if v.vectors.requires_grad]
            torch.autograd.backward([v for v, _ in wanted], [g.to(v.dtype) for v, g in wanted])
        return scores, losses

    def encode(self, batch: Batch, part: slice) -> tuple[Encoded, Encoded]:
        """Vector sets of a part of the batch; under autocast when that is on, float32 afterwards."""
        with self.accelerator.autocast():
            a = self.method.encode_images(batch.images[part])
            b = self.method.encode_captions(batch.captions[part])
        return a.float(), b.float()

    def loss(self, images: Encoded, captions: Encoded, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores and losses of the batch over all processes, in float32."""
        images, captions = gather_sets(images), gather_sets(captions)
        self.seed(step, -1)
        scores = pair_scores(self.method, images, captions)
        return scores, self.method.losses(scores, images, captions, step)

    def seed(self, step: Step, part: int) -> None:
        """Random numbers are a function of where training stands, so that resuming and re-encoding repeat them.

        Part -1 is the loss of the whole batch, which every process computes alike.
        """
        process = self.accelerator.process_index if part >= 0 else 0
        key = [self.config.seed, step.epoch, step.iteration, part, process]
        mixed = 0
        for number in key:
            mixed = (mixed * 1_000_003 + number + 1) % (1 << 61)
        torch.manual_seed(mixed)


def _cut(gradient: Tensor | None, parts: list[Encoded]) -> list[Tensor]:
    """The rows of a joined gradient that belong to each part."""
    sizes = [len(part.vectors) for part in parts]
    if gradient is None:
        return [torch.zeros_like(part.vectors) for part in parts]
    return list(gradient.split(sizes))
