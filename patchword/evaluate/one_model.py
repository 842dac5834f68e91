"""One loaded model on one open split: encode, score, rank, with both times measured apart."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from patchword.data.table import Split
from patchword.evaluate.encoding import batch_of, encode_split
from patchword.evaluate.model_notes import model_notes
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.scores_file import Provenance, save_scores
from patchword.evaluate.setting import Setting
from patchword.methods import METHODS
from patchword.model import Model
from patchword.scoring.jobs import process


def score_split(
    model: Model,
    split: Split,
    setting: Setting | None = None,
    *,
    batch: int | None = None,
    max_words: int | None = None,
) -> tuple[Tensor, float, float]:
    """Scores ``(N, M)`` of a split, the seconds of encoding and the seconds of scoring; ``batch`` as of a setting."""
    setting = setting if setting is not None else Setting()
    batch = setting.eval_batch if batch is None else batch
    started = time.monotonic()
    images, captions = encode_split(model, split, batch=batch, max_words=max_words, console=setting.console)
    encoded = time.monotonic()
    scores = setting.score(model, images, captions)
    return scores, encoded - started, time.monotonic() - encoded


def provenance_of(
    model: Model, split: Split, encode_s: float | None = None, score_s: float | None = None
) -> Provenance:
    """Where the scores of a model on a split come from."""
    return Provenance(
        dataset=split.dataset,
        split=split.name,
        method=model.method.label,
        checkpoint="" if model.path is None else str(model.path),
        selected_on=str(model.about.get("selected_on", "")),
        encode_s=encode_s,
        score_s=score_s,
        trained_on=str(model.about.get("trained_on", "train" if model.method.name in METHODS else "")),
    )


def evaluate_model(
    model: Model,
    split: Split,
    *,
    protocol: str = "auto",
    batch: int | None = None,
    max_words: int | None = None,
    save_to: Path | None = None,
    setting: Setting | None = None,
) -> tuple[Evaluation, Tensor]:
    """Evaluate a loaded model on an open split; returns the evaluation and the score matrix.

    Under torchrun all processes share the work and get the result; the first one writes ``save_to``.

    Raises:
        ScoreError: scores are not finite, or the protocol does not fit the split.
    """
    setting = setting if setting is not None else Setting()
    batch = batch_of(model, setting.eval_batch if batch is None else batch)
    scores, encode_s, score_s = score_split(model, split, setting, batch=batch, max_words=max_words)
    provenance, notes = provenance_of(model, split, encode_s, score_s), model_notes(model, split, batch)
    result = evaluate_scores(scores, split, protocol=protocol, provenance=provenance, notes=notes)
    if save_to is not None and process()[0] == 0:
        save_scores(
            save_to,
            scores,
            image_ids=split.image_ids,
            captions=split.captions,
            owner=split.owner,
            provenance=provenance,
            notes=notes,
        )
    return result, scores
