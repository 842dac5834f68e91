"""``patchword.evaluate``: a run, a checkpoint, a model, or several of them together, on a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.outcome import evaluate_sources
from patchword.evaluate.result import Evaluation
from patchword.evaluate.scores_file import write_scores
from patchword.evaluate.setting import Setting
from patchword.model import Model
from patchword.scoring.jobs import process
from patchword.scoring.matrix import MEMORY


def evaluate(
    run: Path | str | Model | Sequence[Path | str | Model],
    data: Path | str | Split,
    *,
    split: str = "test",
    name: str | None = None,
    protocol: str = "auto",
    save_to: Path | None = None,
    limit: int | None = None,
    fusion: str = "mean",
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
        fusion: ``mean``, ``zscore`` or ``rank``, for several runs alone.
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
        ConfigError: ``fusion`` or ``weights`` for one run, or something needs the scores that ``ranks`` does without.

    Under torchrun, called alike on every process of a process group, all share the work and get the result.
    """
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
    found = evaluate_sources(sources, data, setting, protocol=protocol, fusion=fusion, weights=weights, ranks=ranks)
    if save_to is not None and found.one is not None and process()[0] == 0:
        write_scores(save_to, found.one.saved)
    return found.result
