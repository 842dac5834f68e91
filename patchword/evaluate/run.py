"""Evaluate a model on a split: encode, score, rank, with both times measured apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import Tensor

from patchword.data.adjacency import compat_fold_adjacency
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.encoding import batch_of, encode_split
from patchword.evaluate.model_notes import model_notes
from patchword.evaluate.opening import open_for
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.scores_file import Provenance, save_scores, write_scores
from patchword.evaluate.setting import Setting
from patchword.methods import METHODS
from patchword.model import Model
from patchword.scoring.jobs import process
from patchword.scoring.matrix import MEMORY


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


def evaluate(
    run: Path | str | Model | Sequence[Path | str | Model],
    data: Path | str | Split,
    *,
    split: str = "test",
    name: str | None = None,
    protocol: str = "auto",
    save_to: Path | None = None,
    limit: int | None = None,
    how: str = "mean",
    weights: Sequence[float] | None = None,
    ranks: Literal["matrix", "streamed", "certified"] = "matrix",
    device: str = "cpu",
    memory: int = MEMORY,
    resume: Path | None = None,
    console: Console | None = None,
    skip_broken: bool = False,
    eval_batch: int | None = None,
) -> Evaluation:
    """Evaluate a run or checkpoint, or the ensemble of several, on a split of a data folder.

    Args:
        run: run folder, checkpoint folder or loaded model; several of them are fused (CEFG's SGR and SAF, for example).
        data: data folder in any known layout, or an open split.
        split: name of the split, when ``data`` is a folder.
        name: name of the data set, when the folder's name does not say it.
        protocol: named protocol, or ``auto``.
        save_to: also save the score matrix there.
        limit: only the first images.
        how: ``mean``, ``zscore`` or ``rank``, for several runs alone.
        weights: one for each of several runs.
        ranks: from the whole score ``matrix``; ``streamed`` or ``certified``: the same ranks without holding one, see
            ``evaluate_streamed``.
        device: where the weights of a run that is loaded here go, and its scores are computed.
        memory: bytes that scoring may take besides the vector sets and the scores.
        resume: keep finished parts of the scoring in this folder, and go on with those that are there.
        console: where progress goes.
        skip_broken: leave out pictures that do not decode, and list them in the notes; a run that was trained so is
            evaluated so.
        eval_batch: images or captions encoded at a time; by default as many as when the checkpoint was selected.

    Raises:
        CheckpointError, DataError, ScoreError: one line each.
        ConfigError: ``how`` or ``weights`` for one run, or something needs the scores that ``ranks`` does without.

    Under torchrun, called alike on every process of a process group, all share the work and get the result.
    """
    from patchword.evaluate.outcome import evaluate_sources

    setting = Setting(
        split=split,
        name=name,
        limit=limit,
        device=device,
        memory=memory,
        resume=resume,
        console=console or Console(quiet=True),
        skip_broken=skip_broken,
        eval_batch=eval_batch,
    )
    if ranks != "matrix" and save_to is not None:
        raise ConfigError(f"ranks {ranks!r} keep no score matrix, which `save_to` needs. Leave one of them out.")
    sources = [run] if isinstance(run, Path | str | Model) else list(run)
    found = evaluate_sources(sources, data, setting, protocol=protocol, how=how, weights=weights, ranks=ranks)
    if save_to is not None and found.one is not None and process()[0] == 0:
        write_scores(save_to, found.one.saved)
    return found.result


def open_with(model: Model, data: Path | str | Split, setting: Setting) -> Split:
    """The split that a setting names, opened for a model; of an open split only the adjacency may change.

    Raises:
        ConfigError: the setting changes the adjacency, and the method reads none.
    """
    how, names = setting, model.method.image_extras
    if how.compat_fold_adjacency and not any(name.startswith("adjacency") for name in names):
        raise ConfigError(
            f"compat_fold_adjacency changes the adjacency of regions, and this {model.method.name} reads none. "
            "Leave it out: it is for cefg."
        )
    opened = (
        data
        if isinstance(data, Split)
        else open_for(model, data, how.split, name=how.name, limit=how.limit, skip_broken=how.skip_broken)
    )
    return compat_fold_adjacency(opened) if how.compat_fold_adjacency else opened
