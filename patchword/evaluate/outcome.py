"""Evaluate whatever can be evaluated: one source or an ensemble of several, from scores or from ranks alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.ensemble import check_fusion
from patchword.evaluate.matrix import ScoreMatrix
from patchword.evaluate.members import Member, Source, is_saved, join_members, open_members
from patchword.evaluate.result import Evaluation
from patchword.evaluate.setting import Setting, open_with
from patchword.evaluate.streamed import evaluate_streamed
from patchword.loading import load
from patchword.model import Model

HowRanked: TypeAlias = Literal["matrix", "streamed", "certified"]


@dataclass(frozen=True)
class Outcome:
    """An evaluation, and what it is made of.

    Attributes:
        result: the evaluation.
        split: what was scored; None for saved scores without data.
        one: what was evaluated: a source, or the ensemble; None where no scores were kept.
        members: those of an ensemble; empty for one source.
    """

    result: Evaluation
    split: Split | None
    one: Member | None = None
    members: tuple[Member, ...] = ()

    @property
    def scores(self) -> ScoreMatrix | None:
        """The scores that were ranked, where they were kept."""
        return None if self.one is None else self.one.saved.scores

    @property
    def image_ids(self) -> Sequence[str] | None:
        """Of the rows, where they are known."""
        if self.one is not None:
            return self.one.saved.image_ids
        return None if self.split is None else self.split.image_ids


def evaluate_sources(
    sources: Sequence[Source],
    data: Path | str | Split | None,
    setting: Setting,
    *,
    protocol: str = "auto",
    fusion: str = "mean",
    weights: Sequence[float] | None = None,
    ranks: HowRanked = "matrix",
) -> Outcome:
    """Evaluate runs, models or saved scores, several of them as an ensemble.

    Args:
        sources: one or several.
        data: data folder or open split; saved scores do not need it.
        setting: how runs are opened and scored.
        protocol: named protocol, or ``auto``.
        fusion, weights: of an ensemble.
        ranks: as for ``patchword.evaluate``.

    Raises:
        ConfigError: ``fusion`` or ``weights`` for one source, no source, a run without data, or ranks without scores of
            anything but one run.
    """
    check_fusion(len(sources), fusion, weights)
    if ranks != "matrix":
        return _ranked(sources, data, setting, protocol, ranks)
    members = open_members(sources, data, setting)
    if len(members) == 1:
        return Outcome(members[0].evaluate(protocol), members[0].split, members[0])
    one = join_members(members, fusion, weights)
    return Outcome(one.evaluate(protocol), one.split, one, tuple(members))


def _ranked(
    sources: Sequence[Source],
    data: Path | str | Split | None,
    setting: Setting,
    protocol: str,
    ranks: Literal["streamed", "certified"],
) -> Outcome:
    """Ranks of one run, without its scores."""
    if len(sources) != 1 or is_saved(sources[0]) or data is None:
        raise ConfigError(
            f"ranks {ranks!r} keep no score matrix, which files and ensembles of scores need. Expected one run and its "
            "data."
        )
    run = sources[0]
    model = run if isinstance(run, Model) else load(run, device=setting.device)  # type: ignore[arg-type]
    split = open_with(model, data, setting)
    return Outcome(evaluate_streamed(model, split, mode=ranks, protocol=protocol, setting=setting), split)
