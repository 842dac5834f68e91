"""Evaluate a model on a split: encode, score, rank, with both times measured apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import Tensor

from patchword.console import Report
from patchword.data.extras import require_extras
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.scores_file import Provenance, save_scores, write_scores
from patchword.model import Model, load
from patchword.types import Encoded


def score_split(
    model: Model, split: Split, *, batch: int = 256, max_words: int | None = None, console: Console | None = None
) -> tuple[Tensor, float, float]:
    """Scores ``(N, M)`` of a split, the seconds of encoding and the seconds of scoring."""
    console = console if console is not None else Console(quiet=True)
    started = time.monotonic()
    images, captions = encode_split(model, split, batch=batch, max_words=max_words, console=console)
    encoded = time.monotonic()
    with Report(split.n_images * split.n_captions, "scoring", "pairs", console) as shown:
        scores = model.score(images, captions, progress=shown.advance)
    return scores, encoded - started, time.monotonic() - encoded


def encode_split(
    model: Model, split: Split, *, batch: int = 256, max_words: int | None = None, console: Console | None = None
) -> tuple[Encoded, Encoded]:
    """Vector sets of the images and of the captions of a split."""
    console = console if console is not None else Console(quiet=True)
    split.require_images()
    require_extras(split, model.method.image_extras, model.method.caption_extras)
    with Report(split.n_images + split.n_captions, "encoding", "items", console) as shown:
        images = model.encode_images(
            split.require_images(), batch=batch, extras=split.image_extras, progress=shown.advance
        )
        captions = model.encode_captions(
            split.captions, batch=batch, max_words=max_words, extras=split.caption_extras, progress=shown.advance
        )
    return images, captions


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
    )


def evaluate_model(
    model: Model,
    split: Split,
    *,
    protocol: str = "auto",
    batch: int = 256,
    max_words: int | None = None,
    save_to: Path | None = None,
    console: Console | None = None,
) -> tuple[Evaluation, Tensor]:
    """Evaluate a loaded model on an open split; returns the evaluation and the score matrix.

    Raises:
        ScoreError: scores are not finite, or the protocol does not fit the split.
    """
    scores, encode_s, score_s = score_split(model, split, batch=batch, max_words=max_words, console=console)
    provenance = provenance_of(model, split, encode_s, score_s)
    result = evaluate_scores(scores, split, protocol=protocol, provenance=provenance)
    if save_to is not None:
        save_scores(
            save_to,
            scores,
            image_ids=split.image_ids,
            captions=split.captions,
            owner=split.owner,
            provenance=provenance,
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
    console: Console | None = None,
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
        how: ``mean``, ``zscore`` or ``rank``, for several runs.
        weights: one for each of several runs.
        ranks: from the whole score ``matrix``; ``streamed`` or ``certified``: the same ranks without holding one, see
            ``evaluate_streamed``.
        device: where the weights of a run that is loaded here go, and its scores are computed.
        console: where progress goes.

    Raises:
        CheckpointError, DataError, ScoreError: one line each.
        ConfigError: something needs the score matrix that ``ranks`` does without.
    """
    if ranks != "matrix" and (save_to is not None or not isinstance(run, Path | str | Model)):
        raise ConfigError(f"ranks {ranks!r} keep no score matrix, which files and ensembles of scores need.")
    if not isinstance(run, Path | str | Model):
        from patchword.evaluate.members import join_members, open_members

        members = open_members(list(run), data, split=split, name=name, limit=limit, device=device, console=console)
        one = join_members(members, how, weights) if len(members) > 1 else members[0]
        if save_to is not None:
            write_scores(save_to, one.saved)
        return one.evaluate(protocol)
    model = run if isinstance(run, Model) else load(run, device=device)
    opened = data if isinstance(data, Split) else open_for(model, data, split, name=name, limit=limit)
    if ranks != "matrix":
        from patchword.evaluate.streamed import evaluate_streamed

        return evaluate_streamed(model, opened, how=ranks, protocol=protocol, console=console)
    return evaluate_model(model, opened, protocol=protocol, save_to=save_to, console=console)[0]


def open_for(
    model: Model,
    data: Path | str,
    split: str,
    *,
    name: str | None = None,
    limit: int | None = None,
    skip_broken: bool = False,
) -> Split:
    """Open a split with the kind of images that a model reads, and the column names that it was trained with."""
    images = "features" if model.method.reads == "regions" else "pictures"
    columns = model.about.get("columns")
    if columns:
        try:
            return open_split(
                data, split, name=name, images=images, columns=columns, limit=limit, skip_broken=skip_broken
            )
        except ConfigError:
            pass  # data of another form, which has no such columns
    return open_split(data, split, name=name, images=images, limit=limit, skip_broken=skip_broken)
