"""Ranking where every query has its own list of right answers, and some may have none.

The protocols of the field's second generation (CxC, ECCV-Caption, PMRP) judge many more pairs than a data set lists.
Scores come in blocks of rows, one row a query, so that a gallery against itself (25,000 captions) needs no matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from patchword.errors import ScoreError
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, as_array, row_blocks
from patchword.evaluate.recall import recall_at_k
from patchword.evaluate.relevance import Ties, average_precision, places_of_positives
from patchword.evaluate.significance import MeanIntervals, mean_intervals
from patchword.scoring.query_ranks import QueryRanks

CUTS = (1, 5, 10)
Blocks = Iterable[tuple[slice, np.ndarray]]  # rows of queries, and their scores for all candidates


@dataclass(frozen=True)
class Answers:
    """The right answers of Q queries among n candidates.

    Attributes:
        n_queries: Q.
        n_candidates: n.
        queries: query of each pair, ascending.
        candidates: right answer of each pair, ascending within a query, all pairs different.
        unreachable: right answers of each query that are not among the candidates.
    """

    n_queries: int
    n_candidates: int
    queries: Int[np.ndarray, " P"]
    candidates: Int[np.ndarray, " P"]
    unreachable: Int[np.ndarray, " Q"]

    @classmethod
    def from_pairs(
        cls,
        queries: Int[np.ndarray, " pairs"],
        candidates: Int[np.ndarray, " pairs"],
        n_queries: int,
        n_candidates: int,
        unreachable: Int[np.ndarray, " Q"] | None = None,
    ) -> Answers:
        """Pairs of positions in any order; a pair may be listed twice and counts once."""
        cells = np.unique(queries.astype(np.int64) * n_candidates + candidates)
        beyond = np.zeros(n_queries, dtype=np.int64) if unreachable is None else unreachable
        return cls(n_queries, n_candidates, cells // n_candidates, cells % n_candidates, beyond)

    @classmethod
    def from_ids(
        cls, lists: Mapping[str, Sequence[str]], query_ids: Sequence[str], candidate_ids: Sequence[str]
    ) -> Answers:
        """Lists of ids; ids outside the queries are left out, answers outside the candidates are counted.

        Example:
            >>> found = Answers.from_ids({"a": ["x", "z"], "q": ["x"]}, ["b", "a"], ["x", "y"])
            >>> found.queries.tolist(), found.candidates.tolist(), found.unreachable.tolist()
            ([1], [0], [0, 1])
        """
        place = {name: k for k, name in enumerate(candidate_ids)}
        queries, candidates = [], []
        unreachable = np.zeros(len(query_ids), dtype=np.int64)
        for query, name in enumerate(query_ids):
            wanted = dict.fromkeys(lists.get(name, ()))
            found = [place[answer] for answer in wanted if answer in place]
            queries += [query] * len(found)
            candidates += found
            unreachable[query] = len(wanted) - len(found)
        rows, columns = np.array(queries, dtype=np.int64), np.array(candidates, dtype=np.int64)
        return cls.from_pairs(rows, columns, len(query_ids), len(candidate_ids), unreachable)

    def reversed(self) -> Answers:
        """The same pairs with the candidates as queries."""
        return Answers.from_pairs(self.candidates, self.queries, self.n_candidates, self.n_queries)

    def joined(self, other: Answers) -> Answers:
        """The pairs of both."""
        queries = np.concatenate([self.queries, other.queries])
        candidates = np.concatenate([self.candidates, other.candidates])
        beyond = self.unreachable + other.unreachable
        return Answers.from_pairs(queries, candidates, self.n_queries, self.n_candidates, beyond)

    @property
    def counts(self) -> Int[np.ndarray, " Q"]:
        """Right answers of each query among the candidates."""
        found: np.ndarray = np.bincount(self.queries, minlength=self.n_queries)
        return found

    @property
    def listed(self) -> Int[np.ndarray, " Q"]:
        """R: right answers of each query, those outside the gallery included."""
        total: np.ndarray = self.counts + self.unreachable
        return total


@dataclass(frozen=True)
class ListRanks:
    """What the queries with at least one right answer in the gallery got.

    Attributes:
        asked: positions of these queries.
        ranks: of their best right answers.
        map_at_r: mAP@R of each, as a fraction; None where it was not asked for.
        r_precision: R-precision of each, as a fraction; None where it was not asked for.
    """

    asked: Int[np.ndarray, " A"]
    ranks: QueryRanks
    map_at_r: Float[np.ndarray, " A"] | None = None
    r_precision: Float[np.ndarray, " A"] | None = None

    def recall(self, k: int, *, misses: int = 0, ties: Ties = "pessimistic") -> float:
        """recall@k in percent.

        Args:
            k: cut-off.
            misses: queries without a right answer that count as missed.
            ties: how ties are broken.
        """
        ranks = self.ranks.pessimistic if ties == "pessimistic" else self.ranks.optimistic
        return recall_at_k(ranks, k) * len(ranks) / (len(ranks) + misses)

    def intervals(self, images: Int[np.ndarray, " Q"], *, misses: bool = False) -> MeanIntervals:
        """95% bootstrap intervals of ``r1``, ``r5``, ``r10`` and, where known, ``map_at_r`` and ``r_precision``.

        Args:
            images: image of every query, also of those without a right answer.
            misses: queries without a right answer count as missed; recalls only.
        """
        found = {f"r{k}": 100.0 * (self.ranks.pessimistic < k) for k in CUTS}
        if misses:
            whole = {name: np.zeros(len(images)) for name in found}
            for name, part in found.items():
                whole[name][self.asked] = part
            return mean_intervals(whole, images)
        if self.map_at_r is not None and self.r_precision is not None:
            found |= {"map_at_r": self.map_at_r, "r_precision": self.r_precision}
        return mean_intervals(found, images[self.asked])

    def to_json(self, *, misses: int = 0) -> dict[str, Any]:
        """recall@1, 5, 10 in percent with their denominator; fractions for mAP@R and R-precision."""
        found: dict[str, Any] = {f"r{k}": self.recall(k, misses=misses) for k in CUTS}
        found |= {"queries": len(self.asked) + misses, "tied": self.ranks.tied}
        if self.map_at_r is not None and self.r_precision is not None:
            found |= {"map_at_r": float(self.map_at_r.mean()), "r_precision": float(self.r_precision.mean())}
        return found


def rank_answers(
    blocks: Blocks,
    answers: Answers,
    *,
    is_same_set: bool = False,
    precision: bool = False,
    ties: Ties = "pessimistic",
    what: str = "scores",
) -> ListRanks:
    """Rank every query that has a right answer in the gallery.

    Args:
        blocks: consecutive blocks of rows, all queries in order, one column a candidate.
        answers: what is right.
        is_same_set: queries and candidates are the same items: an item is no candidate for itself.
        precision: also mAP@R and R-precision, which sort every row.
        ties: side on which wrong answers that tie come, for mAP@R and R-precision.
        what: name of the scores, for messages.

    Raises:
        ScoreError: no query has a right answer, a score is not finite, or the blocks have another size.
    """
    if is_same_set:
        other = answers.queries != answers.candidates
        pairs = answers.queries[other], answers.candidates[other]
        answers = Answers.from_pairs(*pairs, answers.n_queries, answers.n_candidates, answers.unreachable)
    counts = answers.counts
    asked = np.flatnonzero(counts > 0)
    if not len(asked):
        raise ScoreError(
            f"{what}: none of the {answers.n_queries:,} queries has a right answer among the {answers.n_candidates:,} "
            "candidates. The ids belong to other data."
        )
    starts = np.concatenate([[0], np.cumsum(counts)])
    triples, precisions, done = [], [], 0
    for rows, block in blocks:
        _check_block(rows, block, done, answers, what)
        done = rows.stop
        chosen = asked[(asked >= rows.start) & (asked < rows.stop)]
        if not len(chosen):
            continue
        first, last = starts[chosen[0]], starts[chosen[-1] + 1]
        columns = answers.candidates[first:last]
        group = np.repeat(np.arange(len(chosen)), counts[chosen])
        part = block[chosen - rows.start]
        triples.append(_count(part, group, columns, chosen if is_same_set else None))
        if precision:
            ends = np.cumsum(counts[chosen])
            for row, start, stop, query in zip(part, ends - counts[chosen], ends, chosen, strict=True):
                is_candidate = np.ones(len(row), dtype=bool)
                if is_same_set:
                    is_candidate[query] = False
                places = places_of_positives(row, columns[start:stop], ties=ties, is_candidate=is_candidate)
                precisions.append(average_precision(places, int(answers.listed[query])))
    if done != answers.n_queries:
        raise ScoreError(f"{what}: {done:,} rows of scores for {answers.n_queries:,} queries. Expected one each.")
    greater, equal, positives = np.concatenate(triples, axis=1)
    found = np.array(precisions).reshape(-1, 2)
    return ListRanks(
        asked,
        QueryRanks(greater, equal, positives),
        found[:, 0] if precision else None,
        found[:, 1] if precision else None,
    )


def _count(
    part: Shaped[np.ndarray, "q n"],
    group: Int[np.ndarray, " p"],
    columns: Int[np.ndarray, " p"],
    own: Int[np.ndarray, " q"] | None,
) -> Int[np.ndarray, "3 q"]:
    """g, e and m of some queries; ``own`` is the column of each query itself, which does not count."""
    values = part[group, columns]
    starts = np.searchsorted(group, np.arange(len(part)))
    best = np.maximum.reduceat(values, starts)
    positives = np.add.reduceat((values == best[group]).astype(np.int64), starts)
    greater = np.count_nonzero(part > best[:, None], axis=1)
    equal = np.count_nonzero(part == best[:, None], axis=1) - positives
    if own is not None:
        itself = part[np.arange(len(part)), own]
        greater, equal = greater - (itself > best), equal - (itself == best)
    return np.stack([greater, equal, positives])


def _check_block(rows: slice, block: np.ndarray, done: int, answers: Answers, what: str) -> None:
    """Refuse a block that is out of order, of another width, or not finite."""
    if rows.start != done or block.shape != (rows.stop - rows.start, answers.n_candidates):
        raise ScoreError(
            f"{what}: a block of {block.shape} at row {rows.start}. Expected {rows.stop - rows.start} rows of "
            f"{answers.n_candidates:,} scores from row {done} on."
        )
    finite = np.isfinite(block)
    if not finite.all():
        row, column = (int(k) for k in np.unravel_index(int(np.argmin(finite)), finite.shape))
        raise ScoreError(
            f"{what}: {int((~finite).sum()):,} of {block.size:,} scores of a block are not finite, the first at row "
            f"{rows.start + row}, column {column}: {block[row, column]}. Expected finite numbers: look for a diverged "
            "model or an all-zero embedding, and score again."
        )


def rows_of(scores: ScoreMatrix, *, chunk_cells: int = CHUNK_CELLS) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of a score matrix with the images as queries."""
    return row_blocks(scores, chunk_cells)


def columns_of(scores: ScoreMatrix, *, chunk_cells: int = CHUNK_CELLS) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of a score matrix with the captions as queries: ``(captions, N)`` each."""
    n_images, n_captions = (int(k) for k in scores.shape)
    step = max(1, chunk_cells // n_images)
    for start in range(0, n_captions, step):
        rows = slice(start, min(start + step, n_captions))
        yield rows, np.ascontiguousarray(as_array(scores[:, rows]).T)
