"""An evaluation as it is reported: the numbers together with everything needed to judge them.

A table says which protocol and split it is, on what the checkpoint was selected, what R@K counts, and how ties were
treated, so that it can be read without its author.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from patchword.data.split_names import splits_meant
from patchword.data.table import Split
from patchword.errors import ScoreError
from patchword.evaluate.ensemble import check_same_rows
from patchword.evaluate.folds import FoldReport, fold_report, recall_by_fold
from patchword.evaluate.matrix import ScoreMatrix, check_matrix, count_constant, dtype_name
from patchword.evaluate.protocols import (
    PROTOCOLS,
    Protocol,
    check_protocol,
    compare_ids,
    guess_protocol,
    protocol_named,
)
from patchword.evaluate.queries import Queries, queries_of
from patchword.evaluate.ranks import Ranks, rank_scores
from patchword.evaluate.recall import (
    DEFINITION,
    TIE_GAP,
    DirectionRecall,
    RecallReport,
    RecallTable,
    chance,
    recall_report,
)
from patchword.evaluate.scores_file import Provenance, SavedScores, caption_digests, with_owner_of
from patchword.evaluate.significance import Intervals, bootstrap_intervals
from patchword.scoring.truth import RightPairs


@dataclass(frozen=True)
class Evaluation:
    """One evaluated score matrix.

    Attributes:
        protocol: name of the protocol that the rows have earned.
        provenance: data set, split, method, checkpoint, selection, times.
        n_images: N, the queries of image -> text.
        n_captions: M, the queries of text -> image.
        captions_per_image: number of captions -> number of images with that many.
        id_check: what is known about the identity of rows and columns.
        dtype: dtype in which scores were compared.
        pruned: cells with -inf that were accepted as "not scored"; every other cell is finite.
        recall: the numbers; the mean over the folds where the protocol has folds.
        folds: every fold, where the protocol has more than one.
        chance: what random scores get under the same protocol.
        queries: ranks of every single query.
        constant: image rows and caption columns whose scores are all alike.
        notes: decisions taken on the way.
        warned: warnings about the scores themselves, such as members of an ensemble with different scales.
    """

    protocol: str
    provenance: Provenance
    n_images: int
    n_captions: int
    captions_per_image: dict[int, int]
    id_check: str
    dtype: str
    pruned: int
    recall: RecallReport
    folds: FoldReport | None
    chance: RecallTable
    queries: Queries
    constant: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()

    @cached_property
    def intervals(self) -> Intervals:
        """95% bootstrap intervals over the queries, images drawn with all their captions."""
        return bootstrap_intervals(self.queries)

    @property
    def headline(self) -> RecallTable:
        """The numbers to quote: ties counted against the method."""
        return self.recall.pessimistic

    @property
    def used_for_selection(self) -> bool | None:
        """Whether the checkpoint was chosen on these rows (or rows among them); None when unknown."""
        if not self.provenance.selected_on:
            return None
        chosen, here = self.provenance.selected_on.split(" + "), self.provenance.split
        if "?" in chosen and here not in chosen:
            return None
        # COCO's `test` is the first fifth of `testall`.
        return any(name == here or (name.startswith("test") and here.startswith("test")) for name in chosen)

    @property
    def used_for_training(self) -> bool:
        """Whether the model, or one of an ensemble, was trained on a split of this name or role."""
        names = self.provenance.trained_on.split(" + ")
        return any(name and splits_meant(name, [self.provenance.split]) for name in names)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before comparing the numbers."""
        found = list(self.warned)
        if self.recall.ties_matter:
            found.append(
                f"ties move R@1 by {self.recall.tie_gap:.1f} points (more than {TIE_GAP}): look for constant, rounded "
                "or saturated scores"
            )
        rows, columns = self.constant
        if rows or columns:
            found.append(
                f"{rows:,} images score all captions alike and {columns:,} captions score all images alike: look for "
                "constant or all-zero embeddings"
            )
        if self.used_for_selection:
            found.append("the checkpoint was chosen on this split, so the numbers are too high to be compared")
        if self.used_for_training:
            found.append(
                "the model was trained on this split, so the numbers say how well it learnt it by heart and can not be "
                "compared"
            )
        if self.pruned:
            found.append(f"{self.pruned:,} pairs were not scored (-inf) and rank last")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision, for ``json.dumps``."""
        count = 1 if self.folds is None else len(self.folds.folds)
        return {
            "protocol": self.protocol,
            **asdict(self.provenance),
            "used_for_selection": self.used_for_selection,
            "used_for_training": self.used_for_training,
            "n_images": self.n_images,
            "n_captions": self.n_captions,
            "captions_per_image": {str(k): v for k, v in self.captions_per_image.items()},
            "id_check": self.id_check,
            "dtype": self.dtype,
            "non_finite": {"nan": 0, "plus_inf": 0, "minus_inf": self.pruned},
            "constant": {"images": self.constant[0], "captions": self.constant[1]},
            "gallery_additions": {"images": 0, "captions": 0},
            "denominators": {"i2t": self.n_images // count, "t2i": self.n_captions // count, "folds": count},
            "definition": DEFINITION,
            **self.headline.to_json(),
            "intervals": self.intervals.to_json(),
            "ties": self.recall.to_json(),
            "folds": None if self.folds is None else self.folds.to_json(),
            "chance": self.chance.to_json(),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The result as plain text for a terminal, one decimal."""
        where, head = self.provenance, self.headline
        each = ", ".join(f"{n:,} with {k}" for k, n in self.captions_per_image.items())
        if len(self.captions_per_image) == 1:
            each = f"{next(iter(self.captions_per_image))} per image"
        model = " ".join(part for part in (where.method, where.checkpoint) if part)
        lines = [
            f"protocol {self.protocol}: {PROTOCOLS[self.protocol].title}",
            f"split {where.dataset or 'unnamed'}/{where.split or 'unnamed'}: {self.n_images:,} images, "
            f"{self.n_captions:,} captions ({each}); checkpoint selected on: {where.selected_on or 'unknown'}",
            *([f"model {model}"] if model else []),
            "",
            f"{'':<15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'medR':>8}{'meanR':>8}{'mean R@K':>10}",
            f"{'image -> text':<15}{_cells(head.i2t)}",
            f"{'text -> image':<15}{_cells(head.t2i)}",
            f"rsum {head.rsum:.1f}   (random scores: {self.chance.rsum:.1f})",
            f"95% intervals over queries: {_interval(self.intervals)}",
            "",
            DEFINITION,
            f"ties: {self.recall.tied_i2t:,} of {self.n_images:,} image queries, {self.recall.tied_t2i:,} of "
            f"{self.n_captions:,} caption queries; rsum {head.rsum:.1f} with ties lost, "
            f"{self.recall.expected.rsum:.1f} at random, {self.recall.optimistic.rsum:.1f} won",
            f"ids: {self.id_check}; scores: {self.dtype}, {self.pruned:,} not scored",
            f"time: encoding {_seconds(where.encode_s)}, scoring {_seconds(where.score_s)}",
        ]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def evaluate_scores(
    scores: ScoreMatrix | SavedScores,
    source: Split | Int[np.ndarray, " captions"] | None = None,
    *,
    protocol: str = "auto",
    provenance: Provenance | None = None,
    allow_pruned: bool = False,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a score matrix under a named protocol.

    Args:
        scores: ``(N, M)``, larger is better, or what ``load_scores`` read.
        source: the split that was scored, or the image of each caption. Not needed for scores read from a file; a
            split given with them is compared with the ids in the file.
        protocol: a name of ``protocols.PROTOCOLS``, or ``auto``: the named protocol that data set, split, counts
            and ids fit, else ``generic``.
        provenance: method, checkpoint, selection and times; by default what the file says. A split's names win.
        allow_pruned: accept -inf, except at right pairs, as "not scored".
        notes: on how the scores were made, to be shown.

    Raises:
        ScoreError: sizes or ids differ, a value is not finite, or the protocol does not fit the rows.

    Example:
        >>> result = evaluate_scores(np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0, 1]))
        >>> result.protocol, result.headline.rsum
        ('generic', 600.0)
    """
    scores = with_owner_of(scores, source) if isinstance(scores, SavedScores) else scores
    saved = scores if isinstance(scores, SavedScores) else None
    matrix = scores.scores if isinstance(scores, SavedScores) else scores
    n_images, n_captions = check_matrix(matrix)
    owner, id_check = _owner_and_ids(saved, source)
    RightPairs.of(owner, n_images, n_captions)
    where = provenance or (saved.provenance if saved else Provenance())
    if isinstance(source, Split):
        where = replace(where, dataset=source.dataset, split=source.name)
    ids = source.image_ids if isinstance(source, Split) else saved.image_ids if saved else None
    chosen = choose_protocol(protocol, where, n_images, n_captions, ids)
    whole = rank_scores(matrix, owner, allow_pruned=allow_pruned)
    folds = recall_by_fold(matrix, owner, chosen.folds, allow_pruned=allow_pruned) if chosen.folds > 1 else None
    return evaluation_of(
        [whole] if folds is None else list(folds.ranks),
        owner,
        n_images,
        chosen,
        provenance=where,
        id_check=id_check,
        dtype=dtype_name(matrix),
        pruned=whole.pruned,
        constant=count_constant(matrix),
        notes=(*notes, *(saved.notes if saved else ()), *(notes_of(source) if isinstance(source, Split) else ())),
        warned=saved.warnings if saved else (),
        image_ids=ids,
    )


def choose_protocol(
    name: str, where: Provenance, n_images: int, n_captions: int, image_ids: Sequence[str] | None = None
) -> Protocol:
    """A protocol by its name, or the one that data set, split, counts and (where they are known) image ids fit.

    Raises:
        ScoreError: it does not fit them.
    """
    guessed = guess_protocol(where.dataset, where.split, n_images, n_captions, image_ids)
    chosen = guessed if name == "auto" else protocol_named(name)
    check_protocol(chosen, n_images, n_captions, dataset=where.dataset, split=where.split, image_ids=image_ids)
    return chosen


def evaluation_of(
    ranks: Sequence[Ranks],
    owner: Int[np.ndarray, " captions"],
    n_images: int,
    protocol: Protocol,
    *,
    provenance: Provenance,
    id_check: str,
    dtype: str,
    pruned: int = 0,
    constant: tuple[int, int] = (0, 0),
    notes: tuple[str, ...] = (),
    warned: tuple[str, ...] = (),
    image_ids: Sequence[str] | None = None,
) -> Evaluation:
    """An evaluation from the ranks of all rows, or of every fold of the protocol; see `Evaluation`.

    Where ``image_ids`` are known, ``id_check`` and the warnings also say how they compare with the official ones.
    """
    ids = compare_ids(protocol, image_ids, len(owner), dataset=provenance.dataset, split=provenance.split)
    if ids.says and not id_check.startswith("not checked"):
        id_check = f"{id_check} ({ids.says})"
    folds = fold_report(ranks) if protocol.folds > 1 else None
    counts = np.unique(np.bincount(owner, minlength=n_images), return_counts=True)
    return Evaluation(
        protocol=protocol.name,
        provenance=provenance,
        n_images=n_images,
        n_captions=len(owner),
        captions_per_image={int(k): int(n) for k, n in zip(*counts, strict=True)},
        id_check=id_check,
        dtype=dtype,
        pruned=pruned,
        recall=recall_report(ranks[0]) if folds is None else folds.mean,
        folds=folds,
        chance=chance(owner, n_images, folds=protocol.folds),
        queries=queries_of(ranks, owner, n_images),
        constant=constant,
        notes=notes,
        warned=(*warned, *([ids.warning] if ids.warning else [])),
    )


def _owner_and_ids(
    saved: SavedScores | None, source: Split | Int[np.ndarray, " captions"] | None
) -> tuple[Int[np.ndarray, " captions"], str]:
    """The image of each caption, and what was checked about ids."""
    if isinstance(source, Split):
        ids = f"{source.n_images:,} unique image ids of {source.dataset}/{source.name}"
        if saved is None:
            return source.owner, ids
        names = f"{source.dataset}/{source.name}"
        digests = caption_digests(source.captions)
        if tuple(saved.scores.shape) != (source.n_images, source.n_captions):
            raise ScoreError(
                f"'{saved.path}' is {tuple(saved.scores.shape)}, but {names} has {source.n_images} images and "
                f"{source.n_captions} captions. The scores belong to another split."
            )
        ids_here = tuple(source.image_ids)
        here = replace(saved, owner=source.owner, image_ids=ids_here, caption_digests=digests, path=names)
        unchecked = check_same_rows(saved, here)
        return source.owner, f"not checked: {unchecked[0]}" if unchecked else f"{ids} and all captions equal the file's"
    if saved is not None:
        if source is not None and not np.array_equal(source, saved.owner):
            raise ScoreError(f"'{saved.path}' keeps another image of each caption than the one given. Leave it out.")
        if saved.image_ids is None:
            return saved.owner, "not checked: the scores have none"
        return saved.owner, f"{len(saved.image_ids):,} unique image ids in the file"
    if source is None:
        raise ScoreError("No ground truth: give the split, or the image of each caption, with a plain matrix.")
    return source, "not checked: the scores have none"


def notes_of(source: Split) -> tuple[str, ...]:
    """What the reader of the split decided, and how many captions are the same text."""
    repeated = source.n_captions - len(set(source.captions))
    same = f"{repeated:,} captions repeat the text of another one; such captions tie by construction"
    return (*source.notes, *((same,) if repeated else ()))


def _cells(part: DirectionRecall) -> str:
    medr = "-" if part.medr is None else f"{part.medr:.1f}"
    recalls = "".join(f"{recall:>7.1f}" for recall in part.recalls)
    return f"{recalls}{medr:>8}{part.meanr:>8.1f}{part.mean_recall:>10.1f}"


def _interval(intervals: Intervals) -> str:
    """The three numbers that are quoted most."""
    shown = (("rsum", "rsum"), ("i2t R@1", "i2t_r1"), ("t2i R@1", "t2i_r1"))
    return ", ".join("{} {:.1f} to {:.1f}".format(name, *intervals.of(key)) for name, key in shown)


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} s"
