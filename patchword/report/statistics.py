"""Sections of a report about how sure its numbers are: intervals, paired tests, parts of the queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchword.data.table import Split
from patchword.evaluate.compare import TITLES, difference_rows, holm, largest_differences, paired_rows
from patchword.evaluate.queries import METRICS
from patchword.evaluate.significance import paired_test
from patchword.evaluate.slices import objects_of, slice_queries
from patchword.html.page import table, text
from patchword.report.rows import ReportRun


def certainty_section(runs: Sequence[ReportRun], split: Split) -> str:
    """Intervals of every run; where there are several, tests against the last one and the queries that differ most."""
    rows = []
    for run in runs:
        intervals = run.evaluation.intervals
        rows.append([run.name, *("{:.1f}–{:.1f}".format(*intervals.of(name)) for name in METRICS)])
    first = runs[0].evaluation.intervals
    parts = [
        table(["95% intervals", *TITLES], rows, strong=len(rows) - 1, is_narrow=True),
        text(
            "p",
            f"Percentiles over {first.rounds:,} resamples of the images, each with all its captions (seed "
            f"{first.seed}): how far the numbers would move with other queries of the same kind.",
            class_="note",
        ),
    ]
    main = runs[-1]
    tests = [paired_test(run.evaluation.queries, main.evaluation.queries) for run in runs[:-1]]
    for run, test in zip(runs[:-1], tests, strict=True):
        head, lines = paired_rows(test)
        parts += [text("h3", f"{main.name} minus {run.name}"), table(head, lines, is_narrow=True)]
    if len(tests) > 1:
        corrected = holm(np.array([test.p_permutation[METRICS.index("rsum")] for test in tests])).tolist()
        each = ", ".join(f"{run.name} {p:.4f}" for run, p in zip(runs[:-1], corrected, strict=True))
        said = f"p (permutation) of rsum against {main.name}, corrected for {len(tests)} comparisons (Holm): {each}."
        parts.append(text("p", said))
    if len(runs) > 1:
        queries = [run.evaluation.queries for run in runs]
        found = largest_differences(queries, split.image_ids, split.captions, most=8)
        head, lines = difference_rows([run.name for run in runs], found)
        lines = [(_isolated(query), *ranks) for query, *ranks in lines]
        parts.append(
            text(
                "p",
                "Paired tests on the same queries: an interval of the difference from the same resamples, and p values "
                "of the bootstrap and of random swaps of the two runs' results, image by image.",
                class_="note",
            )
        )
        if lines:
            parts += [text("h3", "Queries that the runs answer most differently"), table(head, lines, is_narrow=True)]
    return "".join(parts)


def _isolated(query: str) -> str:
    """A direction and a query, whose letters may run from right to left without moving what stands beside them."""
    direction, _, said = query.partition(" ")
    return f"{direction} \u2068{said}\u2069"


def slices_section(main: ReportRun, split: Split) -> str:
    """Recall over parts of the queries."""
    slices = slice_queries(main.evaluation.queries, split.captions, objects=objects_of(split))
    if not slices:
        return text("p", "All queries are of one kind: nothing to tell apart.", class_="note")
    rows = [
        [f"{one.group}: {one.name}", one.direction, *(f"{r:.1f}" for r in one.recalls), f"{one.queries:,}"]
        for one in slices
    ]
    said = f"Recall of {main.name} over parts of the queries; the gallery is the same for all."
    return text("p", said) + table(["", "direction", "R@1", "R@5", "R@10", "queries"], rows, is_narrow=True)
