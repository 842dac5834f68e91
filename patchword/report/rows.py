"""One row of a report: a run, an ensemble or a saved matrix with its numbers and, where there is one, its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from patchword.data.table import Split
from patchword.evaluate.matrix import as_array
from patchword.evaluate.members import Member
from patchword.evaluate.one_model import evaluate_model
from patchword.evaluate.result import Evaluation
from patchword.evaluate.setting import Setting
from patchword.explain.lit_words import light_words
from patchword.loading import load
from patchword.model import Model
from patchword.report.curves import RunLog, read_log
from patchword.types import Alignment


@dataclass(frozen=True)
class ReportRun:
    """One row of a report.

    Attributes:
        name: as the tables call it.
        model: the evaluated model; None for an ensemble or a saved matrix.
        evaluation: its numbers.
        scores: its score matrix.
        folder: the run folder, for curves and settings; None without one.
    """

    name: str
    model: Model | None
    evaluation: Evaluation
    scores: Float[Tensor, "N M"]
    folder: Path | None = None

    @property
    def log(self) -> RunLog:
        """What the run wrote while it trained."""
        return RunLog() if self.folder is None else read_log(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe and versions in the run folder's ``config.yaml``; empty without one."""
        path = None if self.folder is None else self.folder / "config.yaml"
        if path is None or not path.is_file():
            return {}
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}

    @property
    def source(self) -> str:
        """What to evaluate to get this row again."""
        path = self.folder or (None if self.model is None else self.model.path)
        return str(path) if path is not None else "RUN" if self.model is not None else f"--scores {self.name}"

    def light(self, split: Split, image: int, caption: int) -> Alignment | None:
        """The words of a caption with their parts; None without a model."""
        return None if self.model is None else light_words(self.model, split, image, caption)


def report_run(run: Path | str | Model, split: Split, *, name: str = "", console: Console | None = None) -> ReportRun:
    """Evaluate a run, checkpoint or loaded model on a split, for a report.

    Args:
        run: run folder, checkpoint folder or model.
        split: with images.
        name: in the tables; the method's name by default.
        console: where progress goes.
    """
    model = run if isinstance(run, Model) else load(run)
    evaluation, scores = evaluate_model(model, split, setting=Setting(console=console or Console(quiet=True)))
    folder = None if isinstance(run, Model) or not (Path(run) / "config.yaml").is_file() else Path(run)
    return ReportRun(name or model.method.title or model.method.name, model, evaluation, scores, folder)


def report_row(member: Member, evaluation: Evaluation, *, name: str = "") -> ReportRun:
    """A row from something that is scored and evaluated already."""
    scores = member.saved.scores
    matrix = scores if isinstance(scores, Tensor) else torch.from_numpy(as_array(scores))
    return ReportRun(name or member.name, member.model, evaluation, matrix, member.folder)
