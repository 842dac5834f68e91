"""What can be evaluated together: runs, checkpoints, loaded models and saved score matrices, each with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from patchword.data.open import first_captions, open_split
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.encoding import batch_of
from patchword.evaluate.ensemble import ensemble
from patchword.evaluate.model_notes import model_notes
from patchword.evaluate.one_model import provenance_of, score_split
from patchword.evaluate.opening import COCO_CAPTIONS
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.scores_file import (
    SavedScores,
    caption_digests,
    captions_of,
    load_scores,
    load_together,
    with_owner_of,
)
from patchword.evaluate.setting import Setting, open_with
from patchword.loading import load
from patchword.model import Model

Source: TypeAlias = Path | str | Model | SavedScores
FILES = (".safetensors", ".npy")


@dataclass(frozen=True)
class Member:
    """One of several things that are evaluated together.

    Attributes:
        name: in tables.
        saved: its scores, with the ids of rows and columns.
        split: what was scored; None for a saved matrix without data.
        model: None for a saved matrix.
        folder: run folder; None without one.
    """

    name: str
    saved: SavedScores
    split: Split | None = None
    model: Model | None = None
    folder: Path | None = None

    @property
    def owner(self) -> Int[np.ndarray, " captions"]:
        """Image of each caption."""
        return self.saved.owner

    def evaluate(self, protocol: str = "auto") -> Evaluation:
        """Under a named protocol; ids of a saved matrix are compared with the split."""
        if self.model is not None:
            saved = self.saved
            return evaluate_scores(
                saved.scores, self.split, protocol=protocol, provenance=saved.provenance, notes=saved.notes
            )
        return evaluate_scores(self.saved, self.split, protocol=protocol)


def is_score_file(source: object) -> bool:
    """Whether a source names a saved matrix rather than a run."""
    return isinstance(source, Path | str) and Path(source).suffix in FILES


def is_saved(source: object) -> bool:
    """Whether a source is scores, read or in a file, which no model is needed for."""
    return isinstance(source, SavedScores) or is_score_file(source)


def open_member(
    source: Source, data: Path | str | Split | None = None, setting: Setting | None = None, *, label: str = ""
) -> Member:
    """Score a run or model on a split, or read a saved matrix.

    Args:
        source: run folder, checkpoint folder, loaded model, score file, or scores that were read.
        data: data folder or open split. A saved matrix does not need it, but one without ids takes the image of each
            caption from it.
        setting: how a data folder and a run are opened, and how the run is scored.
        label: in tables; by default the path.

    Raises:
        ConfigError: a run without data.
        ScoreError: a matrix without ids that does not fit the split.
    """
    setting = setting if setting is not None else Setting()
    if isinstance(source, SavedScores) or is_score_file(source):
        if isinstance(data, Path | str):
            data = _open_scored(data, source, setting)  # type: ignore[arg-type]
        read = with_owner_of if isinstance(source, SavedScores) else load_scores
        saved = read(source, data)  # type: ignore[arg-type]
        return Member(label or saved.path, saved, data)
    if data is None:
        raise ConfigError(f"'{getattr(source, 'label', source)}' is a run and needs its data. Add --data DIR.")
    model = source if isinstance(source, Model) else load(source, device=setting.device)
    opened = open_with(model, data, setting)
    scores, encode_s, score_s = score_split(model, opened, setting)
    provenance = provenance_of(model, opened, encode_s, score_s)
    shown = label or (model.label if isinstance(source, Model) else str(source))
    saved = SavedScores(
        scores,
        opened.owner,
        tuple(opened.image_ids),
        caption_digests(opened.captions),
        provenance,
        model_notes(model, opened, batch_of(model, setting.eval_batch)),
        path=shown,
    )
    folder = None if isinstance(source, Model) or not (Path(source) / "config.yaml").is_file() else Path(source)
    return Member(shown, saved, opened, model, folder)


def _open_scored(data: Path | str, source: Path | str | SavedScores, setting: Setting) -> Split:
    """The split that a saved matrix scored; of COCO with the five captions of an image that runs are scored on, unless
    the matrix has all of them."""
    opened = open_split(data, setting.split, name=setting.name, limit=setting.limit, skip_broken=setting.skip_broken)
    if opened.dataset != "coco":
        return opened
    five = first_captions(opened, COCO_CAPTIONS)
    return opened if five is opened or captions_of(source) == opened.n_captions else five


def open_members(
    sources: Sequence[Source], data: Path | str | Split | None = None, setting: Setting | None = None
) -> list[Member]:
    """Several of them, one after the other, under short names.

    Finished parts of several runs are kept apart, in ``1``, ``2`` ... of the folder of the setting. Without data, score
    files that know the image of each caption tell those that do not.

    Raises:
        ConfigError: there is none.
    """
    if not sources:
        raise ConfigError("nothing to evaluate. Give at least one run or score file.")
    if data is None and all(is_saved(one) for one in sources):
        sources = load_together(sources)  # type: ignore[arg-type]
    setting = setting if setting is not None else Setting()
    settings = [setting.part(str(k)) if len(sources) > 1 else setting for k in range(1, len(sources) + 1)]
    opened = [open_member(source, data, each) for source, each in zip(sources, settings, strict=True)]
    names = short_names([member.name for member in opened])
    return [Member(shown, *_rest(member)) for shown, member in zip(names, opened, strict=True)]


def short_names(paths: Sequence[str]) -> list[str]:
    """Last parts of paths where these tell them apart, else the paths; equal ones are numbered.

    Example:
        >>> short_names(["runs/a", "runs/b.safetensors"]), short_names(["x/best", "y/best"]), short_names(["a", "a"])
        (['a', 'b'], ['x/best', 'y/best'], ['a #1', 'a #2'])
    """
    last = [Path(path).stem if is_score_file(path) else Path(path).name for path in paths]
    shown = last if len(set(last)) == len(paths) and all(last) else list(paths)
    return [name if shown.count(name) == 1 else f"{name} #{k}" for k, name in enumerate(shown, start=1)]


def _rest(member: Member) -> tuple[SavedScores, Split | None, Model | None, Path | None]:
    return member.saved, member.split, member.model, member.folder


def join_members(members: Sequence[Member], fusion: str = "mean", weights: Sequence[float] | None = None) -> Member:
    """The ensemble of two or more members, as a member.

    Raises:
        ScoreError: they score other rows, or can not be fused.
    """
    fused = ensemble([member.saved for member in members], fusion, weights)
    split = next((member.split for member in members if member.split is not None), None)
    return Member(f"{fusion} of {len(members)}", fused, split)
