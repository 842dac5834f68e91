"""Crisscrossed Captions: retrieval in four directions, and agreement with human ratings.

Retrieval: text -> image and image -> text from the score matrix, text -> text and image -> image from scores among
captions and among images, where the query itself is no candidate. Correlation: Spearman's rho of scores and ratings of
caption pairs (STS), image pairs (SIS) and image-caption pairs (SITS), by a bootstrap in which every item counts once.

Source: Parekh et al., "Crisscrossed Captions" (EACL 2021). Where its text leaves a choice, the choice is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from patchword.errors import ScoreError
from patchword.evaluate.answers import CUTS, Answers, ListRanks, columns_of, rank_answers, rows_of
from patchword.evaluate.benchmark import INTERVALS, Benchmark, named, percent
from patchword.evaluate.cxc_files import CxcAnnotations, RatedPairs
from patchword.evaluate.gallery import Gallery
from patchword.evaluate.intra import IntraScores
from patchword.evaluate.matrix import ScoreMatrix, cells_of
from patchword.evaluate.protocols import COCO_TEST
from patchword.evaluate.significance import MeanIntervals
from patchword.evaluate.spearman import Correlation, bootstrap_picks, correlate

DIRECTIONS = {
    "t2i": "text -> image",
    "i2t": "image -> text",
    "t2t": "text -> text",
    "i2i": "image -> image",
}


@dataclass(frozen=True)
class CxcResult:
    """What a model gets on CxC.

    Attributes:
        gallery: what was ranked.
        retrieval: ranks by direction.
        without: queries without a right answer, by direction.
        correlation: by task.
        left_out: rated pairs with an item outside the gallery, by task.
        intra: how images and captions were compared among themselves; empty when they were not.
        missing: ids of rated images and captions that are not in the gallery.
        notes: choices made.
    """

    gallery: Gallery
    retrieval: dict[str, ListRanks]
    without: dict[str, int]
    correlation: dict[str, Correlation] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    intra: str = ""
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_official(self) -> bool:
        """Whether the gallery has CxC's size."""
        return self.gallery.size == COCO_TEST

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know."""
        n, m = self.gallery.size
        found = []
        if not self.is_official:
            found.append(
                f"{n:,} images and {m:,} captions instead of {COCO_TEST[0]:,} and {COCO_TEST[1]:,}: not comparable "
                "with published CxC numbers"
            )
        for what, ids in self.missing.items():
            if ids:
                found.append(f"{len(ids):,} rated {what} are not in the gallery: {named(ids)}")
        for task, rho in self.correlation.items():
            if not rho.is_defined:
                found.append(f"{task.upper()}: scores are constant within a round, so rho is not defined")
        return tuple(found)

    @cached_property
    def intervals(self) -> dict[str, MeanIntervals]:
        """95% bootstrap intervals of every direction; ``t2i missed`` where queries without an answer are missed."""
        found = {}
        for name, ranks in self.retrieval.items():
            images = self.gallery.owner if name in ("t2i", "t2t") else np.arange(self.gallery.size[0])
            found[name] = ranks.intervals(images)
            if name in ("t2i", "i2t") and self.without[name]:
                found[f"{name} missed"] = ranks.intervals(images, misses=True)
        return found

    def report(self) -> Benchmark:
        """As a table."""
        rows, spread = [], []
        for name, ranks in self.retrieval.items():
            rows.append([DIRECTIONS[name], *_recalls(ranks), f"{len(ranks.asked):,}", f"{ranks.ranks.tied:,}"])
            spread.append((DIRECTIONS[name], *(self.intervals[name].shown(f"r{k}") for k in CUTS)))
            if f"{name} missed" in self.intervals:
                total = len(ranks.asked) + self.without[name]
                label = f"  the same, {self.without[name]:,} without an answer missed"
                rows.append([label, *_recalls(ranks, self.without[name]), f"{total:,}", ""])
                spread.append((label, *(self.intervals[f"{name} missed"].shown(f"r{k}") for k in CUTS)))
        head = ("retrieval", "R@1", "R@5", "R@10", "queries", "tied")
        tables = [(head, tuple(map(tuple, rows))), (("95% interval", *head[1:4]), tuple(spread))]
        if self.correlation:
            lines = [
                (
                    f"{task.upper()}",
                    percent(rho.mean),
                    percent(rho.std),
                    percent(rho.all_rows),
                    f"{rho.pairs:,}",
                    f"{self.left_out[task]:,}",
                )
                for task, rho in self.correlation.items()
            ]
            tables.append((("Spearman x 100", "mean", "sd", "all rows", "pairs", "left out"), tuple(lines)))
        return Benchmark(
            name="cxc" if self.is_official else "cxc (partial)",
            title="Crisscrossed Captions",
            tables=tuple(tables),
            numbers=self.to_json(),
            warnings=self.warnings,
            notes=(*self.notes, INTERVALS),
        )

    def to_json(self) -> dict[str, Any]:
        """Percentages for recalls, fractions for rho."""
        retrieval = {}
        for name, ranks in self.retrieval.items():
            spread = self.intervals[name]
            retrieval[name] = {
                **ranks.to_json(),
                "intervals": spread.to_json(),
                "without_answer": self.without[name],
            }
            if name in ("t2i", "i2t"):
                spread = self.intervals.get(f"{name} missed", spread)
                missed = {**ranks.to_json(misses=self.without[name]), "intervals": spread.to_json()}
                retrieval[name]["unanswered_as_misses"] = missed
        tasks = {task: {**rho.to_json(), "left_out": self.left_out[task]} for task, rho in self.correlation.items()}
        n, m = self.gallery.size
        sizes = {"n_images": n, "n_captions": m}
        missing = {what: list(ids) for what, ids in self.missing.items()}
        return {**sizes, "retrieval": retrieval, "correlation": tasks, "intra": self.intra, "missing": missing}


def _recalls(ranks: ListRanks, misses: int = 0) -> list[str]:
    return [f"{ranks.recall(k, misses=misses):.1f}" for k in CUTS]


def evaluate_cxc(
    scores: ScoreMatrix,
    gallery: Gallery,
    annotations: CxcAnnotations,
    *,
    among_images: IntraScores | None = None,
    among_captions: IntraScores | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> CxcResult:
    """Evaluate a model on CxC.

    Args:
        scores: ``(N, M)`` image-caption scores.
        gallery: ids of rows and columns.
        annotations: right answers, and rated pairs where there are any.
        among_images: for image -> image and SIS; left out without it.
        among_captions: for text -> text and STS; left out without it.
        rounds: bootstrap rounds of the correlations.
        seed: of their draws.

    Raises:
        ScoreError: nothing in the annotations is in the gallery, or scores are not finite.
    """
    images, captions = gallery.image_ids, gallery.caption_ids
    retrieval, without = {}, {}
    for name, lists, queries, candidates, blocks in (
        ("t2i", annotations.t2i, captions, images, columns_of(scores)),
        ("i2t", annotations.i2t, images, captions, rows_of(scores)),
    ):
        answers = Answers.from_ids(lists, queries, candidates)
        retrieval[name] = rank_answers(blocks, answers, what=f"{DIRECTIONS[name]} scores")
        without[name] = int((answers.counts == 0).sum())
    for name, intra, answers in (
        ("t2t", among_captions, co_captions(gallery.owner).joined(_among(annotations.t2t, captions))),
        ("i2i", among_images, _among(annotations.i2i, images)),
    ):
        if intra is not None and len(answers.queries):
            found = rank_answers(intra.blocks(), answers, is_same_set=True, what=f"{DIRECTIONS[name]} scores")
            retrieval[name], without[name] = found, answers.n_queries - len(found.asked)
    correlation, left_out = _correlations(scores, gallery, annotations, among_images, among_captions, rounds, seed)
    notes = [*gallery.notes, *annotations.notes]
    if among_images is None or among_captions is None:
        notes.append("no scores among images and among captions: text -> text, image -> image, STS and SIS left out")
    if correlation:
        notes.append(
            f"rho: mean of {rounds:,} rounds (seed {seed}), each with half of the items in the first column of the "
            "file, one rated partner of each at random"
        )
    said = "" if among_images is None else among_images.how
    if said:
        notes.append(f"scores among images and among captions: {said}")
    missing = {
        what: tuple(sorted(set(rated) - set(here), key=lambda name: (len(name), name)))
        for what, rated, here in (("images", annotations.i2t, images), ("captions", annotations.t2i, captions))
    }
    return CxcResult(gallery, retrieval, without, correlation, left_out, said, missing, tuple(notes))


def co_captions(owner: Int[np.ndarray, " M"]) -> Answers:
    """For every caption, the other captions of its image.

    Example:
        >>> found = co_captions(np.array([0, 0, 1]))
        >>> found.queries.tolist(), found.candidates.tolist()
        ([0, 1], [1, 0])
    """
    queries, candidates = [], []
    order = np.argsort(owner, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        a, b = (part.reshape(-1) for part in np.meshgrid(group, group, indexing="ij"))
        queries.append(a[a != b])
        candidates.append(b[a != b])
    return Answers.from_pairs(np.concatenate(queries), np.concatenate(candidates), len(owner), len(owner))


def _among(lists: dict[str, list[str]], ids: Sequence[str]) -> Answers:
    """Right answers among items of one kind."""
    return Answers.from_ids(lists, ids, ids)


def _correlations(
    scores: ScoreMatrix,
    gallery: Gallery,
    annotations: CxcAnnotations,
    among_images: IntraScores | None,
    among_captions: IntraScores | None,
    rounds: int,
    seed: int,
) -> tuple[dict[str, Correlation], dict[str, int]]:
    """Spearman's rho of every task that can be scored, and the rated pairs that could not."""
    images = {name: k for k, name in enumerate(gallery.image_ids)}
    captions = {name: k for k, name in enumerate(gallery.caption_ids)}
    found, left_out = {}, {}
    for task, pairs in annotations.ratings.items():
        first, second = (images, images) if task == "sis" else (captions, images if task == "sits" else captions)
        rows, a, b = _inside(pairs, first, second)
        scorer = {"sis": among_images, "sts": among_captions}.get(task)
        if task != "sits" and scorer is None:
            continue
        left_out[task] = len(pairs) - len(rows)
        if len({pairs.first[k] for k in rows}) < 4:
            raise ScoreError(
                f"{task.upper()}: {len(rows):,} of {len(pairs):,} rated pairs are in the gallery. Expected more: the "
                "ids belong to other data."
            )
        model = cells_of(scores, b, a) if scorer is None else scorer.pairs(a, b)
        kept = [pairs.first[k] for k in rows]
        picks = bootstrap_picks(kept, rounds, seed)
        found[task] = correlate(model, pairs.rating[rows], picks, queries=len(set(kept)))
    return found, left_out


def _inside(
    pairs: RatedPairs, first: dict[str, int], second: dict[str, int]
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Rows whose two items are in the gallery, and the positions of both."""
    kept = [
        (row, first[a], second[b])
        for row, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True))
        if a in first and b in second
    ]
    rows, a, b = np.array(kept, dtype=np.int64).reshape(-1, 3).T
    return rows, a, b
