"""How much memory a training step of a recipe takes, and the largest part of a batch that fits.

Real steps are taken, forward, backward and optimiser, on the longest captions of the training split with nothing
dropped, as late in a run that every part of the loss takes part, with queues full of keys: no step of the training
needs more. Nothing is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from patchword.config import TrainConfig
from patchword.console import peak_memory_gib
from patchword.data.batches import Batch
from patchword.layers.momentum import KeyQueue
from patchword.methods.base import Method
from patchword.recipe import Recipe
from patchword.train.optimizer import build_optimizer
from patchword.train.run import new_accelerator
from patchword.train.setup import prepare, training_pairs
from patchword.train.state import Position
from patchword.train.step import Stepper

GIB = 1 << 30
SMALLEST = 2  # a batch of one pair has no negatives
LATE = 1 << 30  # a step that no part of a loss still waits for (``loss.graph_from_step``, ``loss.swav_from_step``)


@dataclass(frozen=True)
class StepMemory:
    """A step, taken or foreseen.

    Attributes:
        pairs: that are encoded at a time.
        gib: peak memory of the process (CPU) or of the device (CUDA); None when the device ran out.
        seconds: of a step; None where the memory is foreseen from two smaller steps.
    """

    pairs: int
    gib: float | None
    seconds: float | None


@dataclass(frozen=True)
class MemoryReport:
    """Steps of a recipe with growing parts of a batch.

    Attributes:
        setting: what grows: ``micro_batch``, or ``batch_size`` where parts of a batch would change the result.
        batch_size: of the recipe.
        device: where the steps were taken.
        limit_gib: what they may take.
        steps: by size.
    """

    setting: Literal["micro_batch", "batch_size"]
    batch_size: int
    device: str
    limit_gib: float
    steps: tuple[StepMemory, ...]

    @property
    def largest(self) -> StepMemory | None:
        """The largest step within the limit."""
        fitting = [step for step in self.steps if step.gib is not None and step.gib <= self.limit_gib]
        return max(fitting, key=lambda step: step.pairs, default=None)

    def advice(self) -> str:
        """What to train with, in one line."""
        found, room = self.largest, f"{self.limit_gib:.1f} GiB"
        if found is None:
            return f"not even {self.steps[0].pairs} pairs at a time fit into {room}. Use a smaller model or batch."
        if found.pairs == self.batch_size:
            return f"the whole batch of {self.batch_size} fits into {room}: nothing needs to be set."
        advice = f"largest that fits into {room}: --train.{self.setting} {found.pairs}"
        if self.setting == "micro_batch":
            return f"{advice} (the loss stays that of all {self.batch_size} pairs)."
        return (
            f"{advice} (this model mixes or normalises over its batch, so --train.micro_batch would change the result)."
        )

    def lines(self) -> list[str]:
        """The report as a table."""
        rows = [f"train.{self.setting:<12} {'peak GiB':>9} {'s / step':>9}   on {self.device}"]
        for step in self.steps:
            memory = "no room" if step.gib is None else f"{step.gib:.2f}"
            taken = "foreseen" if step.seconds is None else f"{step.seconds:.1f}"
            rows.append(f"{step.pairs:>18} {memory:>9} {taken:>9}")
        return [*rows, self.advice()]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "largest": None if self.largest is None else self.largest.pairs}


def step_memory(recipe: Recipe, *, limit_gib: float | None = None) -> MemoryReport:
    """Take training steps with growing parts of a batch until the memory is used up.

    The steps are those of a late point of a run: HREM's graph, AAHR's prototypes and its queues, which begin thousands
    of steps into a training, take part.

    Args:
        recipe: with its data.
        limit_gib: memory that training may take; that of the device, or of this machine, by default.

    Raises:
        ConfigError, DataError, CheckpointError: as for a training.
    """
    accelerator = new_accelerator(recipe)
    parts = prepare(recipe)
    method: Method = parts.method.to(accelerator.device).train()
    for module in method.modules():
        if isinstance(module, KeyQueue):
            module.seen.fill_(module.size)
    pairs = training_pairs(recipe, parts)
    pairs.region_drop = pairs.word_drop = 0.0
    longest = sorted(range(len(pairs)), key=lambda k: -sum(map(len, pairs.units[k])))
    batch = pairs.read(longest[: recipe.train.batch_size], epoch=0)
    in_parts = not (method.mixes_batch or method.has_batch_statistics)
    limit = limit_gib if limit_gib is not None else _memory(accelerator.device) / GIB
    train = recipe.train.model_copy(update={"micro_batch": None})
    optimizer = build_optimizer(method, train)
    return MemoryReport(
        "micro_batch" if in_parts else "batch_size",
        len(batch),
        str(accelerator.device),
        limit,
        tuple(_steps(method, train, accelerator, optimizer, batch, in_parts=in_parts, limit=limit)),
    )


def _steps(
    method: Method,
    train: TrainConfig,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    in_parts: bool,
    limit: float,
) -> Iterator[StepMemory]:
    """Growing steps; from the first that would not fit on they are foreseen, not taken."""
    taken: list[StepMemory] = []
    for size in _sizes(len(batch)):
        if taken and taken[-1].gib is None:
            return
        foreseen = _foresee(taken, size)
        if foreseen is not None and foreseen > limit:
            yield StepMemory(size, foreseen, None)
            continue
        config = train.model_copy(update={"micro_batch": size}) if in_parts and size < len(batch) else train
        used = batch if in_parts else _first(batch, size)
        stepper = Stepper(method, config, accelerator, optimizer)
        step = _take(stepper, used, size, repeat=not taken)
        taken.append(step)
        yield step


def _sizes(whole: int) -> list[int]:
    """Powers of two up to a batch, and the batch."""
    sizes, size = [], SMALLEST
    while size < whole:
        sizes.append(size)
        size *= 2
    return [*sizes, whole]


def _foresee(taken: Sequence[StepMemory], size: int) -> float | None:
    """Peak of a larger step on the line through the two last ones; None before there are two."""
    if len(taken) < 2:
        return None
    (a, low), (b, high) = [(step.pairs, step.gib or 0.0) for step in taken[-2:]]
    return high + max(0.0, high - low) / (b - a) * (size - b)


def _take(stepper: Stepper, batch: Batch, size: int, *, repeat: bool) -> StepMemory:
    """One step, and its peak; the first of all is repeated, because the optimiser makes its state in it."""
    device = stepper.accelerator.device
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        for step in range(1 + repeat):
            began = time.monotonic()
            stepper.take(batch, Position(epoch=stepper.config.epochs, step=LATE + step), 1)
    except torch.cuda.OutOfMemoryError:
        return StepMemory(size, None, None)
    peak = torch.cuda.max_memory_reserved(device) / GIB if on_cuda else peak_memory_gib()
    return StepMemory(size, peak, time.monotonic() - began)


def _first(batch: Batch, size: int) -> Batch:
    """The first pairs of a batch."""
    part = slice(size)
    return Batch(batch.images[part], batch.captions[part], batch.image_rows[part], batch.pairs[part])


def _memory(device: torch.device) -> int:
    """Bytes of a CUDA device, or of this machine as far as its control group lets this process use it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text(encoding="ascii").strip() if group.is_file() else "max"
    return physical if text == "max" else min(physical, int(text))
