"""Runs side by side: their numbers, whether they differ by more than chance, and on which queries they differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.benchmark import aligned
from patchword.evaluate.ensemble import check_same_rows
from patchword.evaluate.members import Member, Source, open_members
from patchword.evaluate.queries import METRICS, Queries, check_same_queries
from patchword.evaluate.result import Evaluation
from patchword.evaluate.setting import Setting
from patchword.evaluate.significance import LEVEL, ROUNDS, SWAPS, PairedTest, paired_test

WAYS = {"i2t": "image -> text", "t2i": "text -> image"}
TITLES = ("i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10", "rsum")


@dataclass(frozen=True)
class Difference:
    """A query that runs answer differently.

    Attributes:
        direction: ``i2t`` or ``t2i``.
        query: position.
        image_id: of the image, where known.
        caption: text of the query, where known.
        ranks: place of the best right answer in every run, from 1; ties count against it.
    """

    direction: str
    query: int
    image_id: str
    caption: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Two or more runs on the same queries.

    Attributes:
        names: of the runs; the first one is what the others are compared with.
        evaluations: their numbers.
        tests: every other run against the first.
        differences: the queries whose ranks differ most, the largest first.
        notes: what was not checked.
    """

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    tests: tuple[PairedTest, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    @property
    def p_holm(self) -> Float[np.ndarray, " tests"]:
        """Permutation p values of rsum, corrected for the number of runs (Holm)."""
        return holm(np.array([test.p_permutation[METRICS.index("rsum")] for test in self.tests]))

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        pairs = zip(self.names[1:], self.tests, self.p_holm.tolist(), strict=True)
        return {
            "runs": [{"run": name, **one.to_json()} for name, one in zip(self.names, self.evaluations, strict=True)],
            "tests": [{"a": self.names[0], "b": name, **test.to_json(), "p_holm_rsum": p} for name, test, p in pairs],
            "differences": [
                {
                    "direction": one.direction,
                    "query": one.query,
                    "image_id": one.image_id,
                    "caption": one.caption,
                    "ranks": dict(zip(self.names, one.ranks, strict=True)),
                }
                for one in self.differences
            ],
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Plain text for a terminal."""
        first = self.evaluations[0]
        where = first.provenance
        lines = [
            f"protocol {first.protocol}, {where.dataset or 'unnamed'}/{where.split or 'unnamed'}: "
            f"{first.n_images:,} images, {first.n_captions:,} captions",
            "",
            *aligned(*self.recall_rows()),
        ]
        for name, test, p in zip(self.names[1:], self.tests, self.p_holm.tolist(), strict=True):
            lines += ["", f"{name} minus {self.names[0]}", *aligned(*paired_rows(test))]
            if len(self.tests) > 1:
                lines.append(f"p of rsum, corrected for {len(self.tests)} comparisons (Holm): {p:.4f}")
        test = self.tests[0]
        lines += [
            "",
            f"intervals: {test.rounds:,} resamples of the images with all their captions; p: {test.swaps:,} random "
            f"swaps of the two runs' results, image by image; seed {test.seed}",
        ]
        if self.differences:
            lines += ["", "queries whose ranks differ most", *aligned(*difference_rows(self.names, self.differences))]
        for name, one in zip(self.names, self.evaluations, strict=True):
            lines += [f"warning: {name}: {text}" for text in one.warnings]
        return "\n".join([*lines, *(f"note: {text}" for text in (*self.notes, *self.run_notes))])

    @property
    def run_notes(self) -> tuple[str, ...]:
        """The notes of the evaluations, with the name of the run where not all have them."""
        each = [one.notes for one in self.evaluations]
        shared = [text for text in dict.fromkeys(each[0]) if all(text in notes for notes in each)]
        own = [
            f"{name}: {text}"
            for name, notes in zip(self.names, each, strict=True)
            for text in dict.fromkeys(notes)
            if text not in shared
        ]
        return (*shared, *own)

    def recall_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Head and rows of the table of recalls."""
        rows = []
        for name, one in zip(self.names, self.evaluations, strict=True):
            values = one.queries.metrics()
            low, high = one.intervals.of("rsum")
            rows.append((name, *(f"{value:.1f}" for value in values), f"{low:.1f} to {high:.1f}"))
        return ("run", *TITLES, f"{100 * LEVEL:.0f}% interval"), rows


def paired_rows(test: PairedTest) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a paired test."""
    rows: list[tuple[str, ...]] = [
        (
            title,
            f"{test.difference[k]:+.1f}",
            f"{test.low[k]:+.1f} to {test.high[k]:+.1f}",
            f"{test.p_bootstrap[k]:.4f}",
            f"{test.p_permutation[k]:.4f}",
        )
        for k, title in enumerate(TITLES)
    ]
    return ("", "difference", f"{100 * LEVEL:.0f}% interval", "p (bootstrap)", "p (permutation)"), rows


def difference_rows(
    names: Sequence[str], differences: Sequence[Difference], *, width: int = 60
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the queries that differ most."""
    rows = []
    for one in differences:
        said = one.caption or one.image_id or f"query {one.query}"
        shown = said if len(said) <= width else f"{said[: width - 1]}…"
        rows.append((f"{one.direction} {shown}", *(f"{rank:,}" for rank in one.ranks)))
    return ("query", *(f"rank in {name}" for name in names)), rows


def holm(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's correction: p values times the number of hypotheses left, never decreasing.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, scaled)
    return corrected


def compare_members(
    members: Sequence[Member],
    *,
    protocol: str = "auto",
    most: int = 10,
    rounds: int = ROUNDS,
    swaps: int = SWAPS,
    seed: int = 0,
) -> Comparison:
    """Compare scored members.

    Args:
        members: two or more of the same images and captions; the first is what the others are compared with.
        protocol: named protocol, or ``auto``.
        most: queries listed for each direction.
        rounds, swaps, seed: of the tests.

    Raises:
        ConfigError: fewer than two members.
        ScoreError: they score other rows.
    """
    if len(members) < 2:
        raise ConfigError(f"{len(members)} run was given. Comparing needs two or more.")
    notes = dict.fromkeys(note for other in members[1:] for note in check_same_rows(members[0].saved, other.saved))
    evaluations = [member.evaluate(protocol) for member in members]
    names = [member.name for member in members]
    queries = [one.queries for one in evaluations]
    check_same_queries(queries, names)
    tests = [paired_test(queries[0], other, rounds=rounds, swaps=swaps, seed=seed) for other in queries[1:]]
    split = next((member.split for member in members if member.split is not None), None)
    ids = next((member.saved.image_ids for member in members if member.saved.image_ids is not None), None)
    found = largest_differences(queries, ids, None if split is None else split.captions, most=most)
    return Comparison(tuple(names), tuple(evaluations), tuple(tests), found, tuple(notes))


def compare(
    runs: Sequence[Source],
    data: Path | str | Split | None = None,
    setting: Setting | None = None,
    *,
    protocol: str = "auto",
    most: int = 10,
) -> Comparison:
    """Compare runs, checkpoints, models or saved score matrices on the same split.

    Args:
        runs: two or more; the first is what the others are compared with.
        data: data folder or open split; not needed for saved matrices alone, but it brings captions.
        setting: how runs are opened and scored.
        protocol: named protocol, or ``auto``.
        most: queries listed for each direction.
    """
    return compare_members(open_members(runs, data, setting), protocol=protocol, most=most)


def largest_differences(
    queries: Sequence[Queries],
    image_ids: Sequence[str] | None,
    captions: Sequence[str] | None,
    *,
    most: int,
) -> tuple[Difference, ...]:
    """Queries with the largest ratio of ranks between two runs, ``most`` for each direction.

    A rank of 1 against 10 differs as much as 10 against 100.
    """
    found: list[tuple[float, Difference]] = []
    for way in WAYS:
        ranks: Int[np.ndarray, "runs Q"] = np.stack([getattr(one, way).pessimistic for one in queries]) + 1
        ratio = ranks.max(0) / ranks.min(0)
        for query in np.argsort(-ratio, kind="stable")[:most].tolist():
            if ratio[query] <= 1:
                break
            image = query if way == "i2t" else int(queries[0].owner[query])
            one = Difference(
                way,
                query,
                "" if image_ids is None else image_ids[image],
                "" if captions is None or way == "i2t" else captions[query],
                tuple(ranks[:, query].tolist()),
            )
            found.append((float(ratio[query]), one))
    return tuple(one for _, one in sorted(found, key=lambda pair: -pair[0]))
