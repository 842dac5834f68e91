"""One training loop for all methods: encode, gather, score, loss, step; evaluate, keep the best, save, go on.

Every random number of a step is a function of (seed, epoch, step), so a run that is killed and resumed makes the same
steps as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from patchword.config import TrainConfig
from patchword.console import Report, peak_memory_gib
from patchword.data.batches import Batch, EpochPlan, TrainingPairs, epoch_loader
from patchword.data.table import Split
from patchword.errors import CollapseError, ConfigError
from patchword.evaluate.run import evaluate_model
from patchword.methods.base import Method, Step
from patchword.model import Model
from patchword.scoring.matrix import pair_scores
from patchword.train.collapse import ADVICE, CollapseWatch
from patchword.train.distributed import average_gradients, gather_ids, gather_sets, pad_alike, share_state
from patchword.train.log import line, summary
from patchword.train.optimizer import clip_gradients, set_rates
from patchword.train.state import Position, RunFolder
from patchword.types import Encoded

LOG_EVERY_S = 3.0


class Interrupted(Exception):  # noqa: N818 - an outcome, not an error
    """Ctrl-C or a termination signal: the state was saved."""


@dataclass
class Trainer:
    """Everything that one run needs while it runs.

    Attributes:
        model: method and tokeniser; the method is trained in place.
        pairs: training pairs.
        select: split on which the best epoch is chosen, or None.
        config: training settings.
        accelerator: device, precision and processes.
        optimizer: of the method's parameters.
        run: the run folder.
        console: where progress is shown; quiet on all processes but the first.
        workers: processes that load batches.
    """

    model: Model
    pairs: TrainingPairs
    select: Split | None
    config: TrainConfig
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    run: RunFolder
    console: Console
    workers: int = 0

    def __post_init__(self) -> None:
        self.method: Method = self.model.method
        self._frozen = -1
        self._stop = False
        self._watch = CollapseWatch()
        share_state(self.method)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.plan = EpochPlan(
            len(self.pairs), self.config.batch_size, self.config.seed, self.config.drop_last, rank, processes
        )
        parts = "train.micro_batch" if self.config.micro_batch is not None else "several processes"
        if self.method.mixes_batch and (self.config.micro_batch is not None or processes > 1):
            raise ConfigError(
                f"this {self.method.name} lets the images of a batch see each other, so {parts} would change "
                "the result. Train it in one process without train.micro_batch, or use another model.context."
            )
        if self.config.micro_batch is not None and self.method.train().has_batch_statistics:
            raise ConfigError(
                f"`train.micro_batch` is {self.config.micro_batch}, "
                f"but this {self.method.name} normalises over the batch, so smaller parts would "
                "change the result. Remove train.micro_batch, or use a configuration without batch normalisation."
            )

    # ------------------------------------------------------------------ one step

    def train_step(self, batch: Batch, position: Position) -> dict[str, float]:
        """One optimiser step on this process's share of a batch; returns what is worth logging."""
        config = self.config
        rate = set_rates(self.optimizer, config, position.epoch, position.step)
        images, captions = pad_alike(batch.images.to(self.device), batch.captions.to(self.device))
        batch = Batch(images, captions, batch.image_ids, batch.pairs)
        image_ids = gather_ids(batch.image_ids.to(self.device))
        step = Step(position.epoch, position.iteration, len(self.plan), image_ids, position.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.method.begin_step(step)
        whole = config.micro_batch is None or config.micro_batch >= len(batch)
        scores, losses = self._whole_step(batch, step) if whole else self._cached_step(batch, step)
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        average_gradients(parameters)
        norm = clip_gradients(parameters, config.clip_norm)
        total = float(losses["total"].detach())
        if not math.isfinite(total + norm):
            raise CollapseError(
                f"the loss is {total}, its gradient's norm {norm}, at step {position.step + 1} "
                f"(epoch {position.epoch + 1}); the step was not taken. "
                "Try a smaller --train.lr, or --train.precision float32."
            )
        self.optimizer.step()
        if self._watch.look(scores, self.method.hardest_margin(step, len(scores))):
            self._report_collapse(position)
        named = {name: float(value.detach()) for name, value in losses.items() if name != "total"}
        return {"loss": total, "lr": rate, "grad_norm": norm, "batch_recall": self._watch.recall, **named}

    def _whole_step(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode the whole share at once."""
        self._seed(step, 0)
        images, captions = self._encode(batch, slice(None))
        scores, losses = self._loss(images, captions, step)
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
                self._seed(step, k)
                encoded.append(self._encode(batch, part))
        images, captions = (Encoded.concat([pair[side] for pair in encoded]) for side in (0, 1))
        images.vectors.requires_grad_()
        captions.vectors.requires_grad_()
        scores, losses = self._loss(images, captions, step)
        losses["total"].backward()
        grads = [
            _cut(sets.vectors.grad, [pair[side] for pair in encoded]) for side, sets in ((0, images), (1, captions))
        ]
        for k, part in enumerate(parts):
            self._seed(step, k)
            a, b = self._encode(batch, part)
            wanted = [(v.vectors, g[k]) for v, g in ((a, grads[0]), (b, grads[1])) if v.vectors.requires_grad]
            torch.autograd.backward([v for v, _ in wanted], [g.to(v.dtype) for v, g in wanted])
        return scores, losses

    def _encode(self, batch: Batch, part: slice) -> tuple[Encoded, Encoded]:
        """Vector sets of a part of the batch; under autocast when that is on, float32 afterwards."""
        with self.accelerator.autocast():
            a = self.method.encode_images(batch.images[part])
            b = self.method.encode_captions(batch.captions[part])
        return a.float(), b.float()

    def _loss(self, images: Encoded, captions: Encoded, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores and losses of the batch over all processes, in float32."""
        images, captions = gather_sets(images), gather_sets(captions)
        self._seed(step, -1)
        scores = pair_scores(self.method, images, captions)
        return scores, self.method.losses(scores, images, captions, step)

    def _seed(self, step: Step, part: int) -> None:
        """Random numbers are a function of where training stands, so that resuming and re-encoding repeat them.

        Part -1 is the loss of the whole batch, which every process computes alike.
        """
        process = self.accelerator.process_index if part >= 0 else 0
        key = [self.config.seed, step.epoch, step.iteration, part, process]
        mixed = 0
        for number in key:
            mixed = (mixed * 1_000_003 + number + 1) % (1 << 61)
        torch.manual_seed(mixed)

    # ------------------------------------------------------------------ the run

    @property
    def device(self) -> torch.device:
        """Where training happens."""
        device: torch.device = self.accelerator.device
        return device

    def _freeze(self, epoch: int) -> None:
        """Apply the freezing schedule."""
        known = [e for e in self.config.freeze_backbone if e <= epoch]
        blocks = self.config.freeze_backbone[max(known)] if known else 0
        if blocks != self._frozen:
            if self.config.freeze_backbone:
                self.method.freeze_blocks(blocks)
            self._frozen = blocks

    def fit(self, position: Position) -> Position:
        """Train from ``position`` to the last epoch.

        Raises:
            Interrupted: after saving, on Ctrl-C or a termination signal.
            CollapseError: when training has collapsed and ``on_collapse`` is ``stop``; the state before is saved.
        """
        self._watch.recall, self._watch.best = position.recall, position.best_recall
        position = position.moved(finished=self._is_finished(position))  # epochs or patience may have grown
        with self._signals():
            while not position.finished:
                self._freeze(position.epoch)
                position = self._train_epoch(position)
                position = self._close_epoch(position)
        return position

    def _is_finished(self, position: Position) -> bool:
        """Whether all epochs are done, or patience has run out."""
        patience = self.config.patience
        out_of_patience = patience is not None and position.stale_epochs >= patience
        return position.epoch >= self.config.epochs or out_of_patience

    def _train_epoch(self, position: Position) -> Position:
        """The rest of one epoch."""
        config, total = self.config, len(self.plan)
        batches = epoch_loader(self.pairs, self.plan, position.epoch, start=position.iteration, workers=self.workers)
        title = f"epoch {position.epoch + 1}/{config.epochs}"
        size = config.batch_size
        self.method.train()
        logged, began, began_cpu = time.monotonic(), time.monotonic(), time.process_time()
        first = position.iteration
        with Report(total * size, title, "pairs", self.console, start=position.iteration * size) as shown:
            for batch in batches:
                numbers = self.train_step(batch, position)
                position = position.moved(
                    iteration=position.iteration + 1,
                    step=position.step + 1,
                    recall=self._watch.recall,
                    best_recall=self._watch.best,
                )
                shown.advance(size, f"loss {numbers['loss']:.2f}")
                now = time.monotonic()
                if now - logged >= LOG_EVERY_S or position.iteration == total or position.step == 1:
                    logged = now
                    spent = {"train_s": now - began, "train_cpu_s": time.process_time() - began_cpu}
                    done = {"pairs": (position.iteration - first) * size, **spent}
                    self._log("train", position, {**numbers, "memory_gib": round(peak_memory_gib(), 3), **done})
                if self._stopped():
                    self._save(position)
                    raise Interrupted
                if (
                    config.save_every_steps
                    and position.step % config.save_every_steps == 0
                    and position.iteration < total
                ):
                    self._save(position)
        return position

    def _close_epoch(self, position: Position) -> Position:
        """Evaluate, keep the best, save, decide whether to go on."""
        finished_epoch = position.epoch
        position = position.moved(epoch=finished_epoch + 1, iteration=0)
        rsum = self._select(position, finished_epoch)
        better = rsum is None or rsum > position.best_rsum
        position = position.moved(
            best_rsum=rsum if rsum is not None and better else position.best_rsum,
            best_epoch=finished_epoch if better else position.best_epoch,
            stale_epochs=0 if better else position.stale_epochs + 1,
        )
        position = position.moved(finished=self._is_finished(position))
        if better and self.accelerator.is_main_process:
            self.model.about |= {"selected_on": self._selected_on(), "rsum": rsum, **self._progress(position)}
            self.model.save(self.run.best)
        self._save(position)
        return position

    @torch.no_grad()
    def _select(self, position: Position, epoch: int) -> float | None:
        """Rsum on the selection split. Every process takes part: the scoring is shared among them."""
        if self.select is None:
            return None
        result, _ = evaluate_model(self.model, self.select, batch=self.config.eval_batch)
        self._log(self.config.select_on, position, {"epoch": epoch + 1, **summary(result)})
        self.console.print(f"epoch {epoch + 1}: {self.config.select_on} {line(result)}", highlight=False)
        return result.headline.rsum

    def _selected_on(self) -> str:
        """The split that the best epoch was chosen on; ``none`` when it is simply the last one."""
        return self.select.name if self.select is not None else "none"

    def _progress(self, position: Position) -> dict[str, int]:
        """Epochs begun and steps taken, as a checkpoint tells of itself."""
        return {"epoch": position.epoch + (position.iteration > 0), "step": position.step}

    def _save(self, position: Position) -> None:
        if self.accelerator.is_main_process:
            self.model.about |= {"selected_on": "none", "rsum": None, **self._progress(position)}
            self.run.save_last(self.model, self.optimizer, position)
        self.accelerator.wait_for_everyone()

    def _log(self, kind: str, position: Position, numbers: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.log(
                {
                    "kind": kind,
                    "epoch": position.epoch + 1,
                    "step": position.step,
                    "time": round(time.time(), 3),
                    **numbers,
                }
            )

    def _report_collapse(self, position: Position) -> None:
        """Stop or warn, with advice."""
        message = f"training collapsed at step {position.step + 1} (epoch {position.epoch + 1}): {ADVICE}."
        self._log("collapse", position, {"message": message})
        if self.config.on_collapse == "stop":
            raise CollapseError(message)
        self.console.print(f"warning: {message}", style="yellow", highlight=False)
        self._watch = CollapseWatch()  # warn again only if it goes on for another window

    def _stopped(self) -> bool:
        """Whether any process was told to stop."""
        if self.accelerator.num_processes == 1:
            return self._stop
        flag = torch.tensor([int(self._stop)], device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a clean stop after the current step; the second one stops at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            self.console.print(
                "stopping after this step and saving; press Ctrl-C again to stop at once", highlight=False
            )

        try:
            old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals are the caller's
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _cut(gradient: Tensor | None, parts: list[Encoded]) -> list[Tensor]:
    """The rows of a joined gradient that belong to each part."""
    sizes = [len(part.vectors) for part in parts]
    if gradient is None:
        return [torch.zeros_like(part.vectors) for part in parts]
    return list(gradient.split(sizes))
