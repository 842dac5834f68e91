"""One training loop for all methods: step after step, then save, evaluate, keep the best, save, go on.

An epoch is saved before it is evaluated, so an evaluation that fails or is stopped costs no training: the next call
only evaluates.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from patchword.config import TrainConfig
from patchword.console import ProgressBar, peak_memory_gib
from patchword.data.batches import Batch, EpochPlan, TrainingPairs, epoch_loader
from patchword.data.table import Split
from patchword.errors import CollapseError
from patchword.evaluate.one_model import evaluate_model
from patchword.methods.base import Method
from patchword.model import Model
from patchword.train.collapse import ADVICE, CollapseWatch
from patchword.train.distributed import share_state
from patchword.train.log import line, summary
from patchword.train.state import Position, RunFolder
from patchword.train.step import Stepper

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
        self._is_asked_to_stop = self._may_leave = False
        self._watch = CollapseWatch()
        share_state(self.method)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.plan = EpochPlan(
            len(self.pairs), self.config.batch_size, self.config.seed, self.config.drop_last, rank, processes
        )
        self.stepper = Stepper(self.method, self.config, self.accelerator, self.optimizer)

    def train_step(self, batch: Batch, position: Position) -> dict[str, float]:
        """One optimiser step on this process's share of a batch; returns what is worth logging."""
        taken = self.stepper.take(batch, position, len(self.plan))
        watch = self._watch
        if watch.look(taken.scores, taken.hardest_margin):
            self._report_collapse(position)
        return {**taken.numbers, "batch_recall": watch.recall, **watch.seen}

    @property
    def device(self) -> torch.device:
        """Where training happens."""
        device: torch.device = self.accelerator.device
        return device

    def freeze(self, epoch: int) -> None:
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
        watch = self._watch
        watch.recall, watch.best = position.recall, position.best_recall
        watch.violation, watch.steps = position.violation, position.hardest_steps
        position = position.moved(finished=self._is_finished(position))  # epochs or patience may have grown
        with self._signals():
            while not position.finished:
                self.freeze(position.epoch)
                if position.iteration < len(self.plan):  # else only its evaluation is missing
                    position = self._train_epoch(position)
                    if self.select is not None:
                        self._save(position)
                        self._leave_if_stopped()
                position = self._close_epoch(position)
                if not position.finished:
                    self._leave_if_stopped()
        return position

    def _is_finished(self, position: Position) -> bool:
        """Whether all epochs are done, or patience has run out."""
        return bool(position.end(self.config))

    def _train_epoch(self, position: Position) -> Position:
        """The rest of one epoch."""
        config, total = self.config, len(self.plan)
        batches = epoch_loader(self.pairs, self.plan, position.epoch, start=position.iteration, workers=self.workers)
        title = f"epoch {position.epoch + 1}/{config.epochs}"
        size = config.batch_size
        self.method.train()
        logged, began, began_cpu = time.monotonic(), time.monotonic(), time.process_time()
        first = position.iteration
        shown = ProgressBar(total * size, title, "pairs", self.console, start=position.iteration * size)
        with closing(batches), shown:
            while (batch := self._next(batches, position)) is not None:
                numbers = self.train_step(batch, position)
                position = position.moved(
                    iteration=position.iteration + 1,
                    step=position.step + 1,
                    recall=self._watch.recall,
                    best_recall=self._watch.best,
                    violation=self._watch.violation,
                    hardest_steps=self._watch.steps,
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

    def _next(self, batches: Iterator[Batch], position: Position) -> Batch | None:
        """The next batch; None after the last.

        Raises:
            Interrupted: after saving, where the workers were ended by what told this process to stop.
        """
        try:
            return next(batches, None)
        except RuntimeError:  # of torch, about a worker that is gone
            if not self._is_asked_to_stop or self.accelerator.num_processes > 1:  # others wait for this one's step
                raise
            self._save(position)
            raise Interrupted from None

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
        """Rsum on the selection split. Every process takes part: the scoring is shared among them.

        Raises:
            Interrupted: on Ctrl-C or a termination signal, at once: the epoch is saved. Several processes, which
                wait for each other's shares, evaluate to the end first.
        """
        if self.select is None:
            return None
        self._may_leave = self.accelerator.num_processes == 1
        try:
            result, _ = evaluate_model(self.model, self.select, batch=self.config.eval_batch)
        finally:
            self._may_leave = False
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

    def request_stop(self) -> None:
        """Save and stop after the step that is being taken."""
        self._is_asked_to_stop = True

    def _leave_if_stopped(self) -> None:
        """End here when any process was told to stop; everything is saved.

        Raises:
            Interrupted: it was.
        """
        if self._stopped():
            raise Interrupted

    def _stopped(self) -> bool:
        """Whether any process was told to stop."""
        if self.accelerator.num_processes == 1:
            return self._is_asked_to_stop
        flag = torch.tensor([int(self._is_asked_to_stop)], device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a clean stop, after the current step or out of an evaluation; the second one
        stops at once.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if self._is_asked_to_stop:
                raise KeyboardInterrupt
            self.request_stop()
            if self._may_leave:
                raise Interrupted
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
