"""All images, or all captions, of one generation: scored exactly, whole or after a shortlist."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.retrieve.encoded_queries import Asked
from patchword.retrieve.parallel import Cores
from patchword.retrieve.rescore import blocks_of
from patchword.retrieve.stored_sets import Block, StoredSets
from patchword.shortlist.base import Ids
from patchword.shortlist.pooled import PoolSpec
from patchword.shortlist.view import Shortlist
from patchword.store.snapshot import Snapshot

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
_PROBE = 256  # items that are scored to learn how fast that is
_WORDS = 16  # vectors of a query that cost as much as reading an item


class Pace:
    """How long exact scoring takes here, learnt from what was scored."""

    def __init__(self) -> None:
        self._ms: float | None = None
        self._lock = Lock()

    def expected_ms(self, items: int, asked: Asked) -> float | None:
        """The time that scoring so many items takes; None before anything was learnt."""
        return None if self._ms is None else self._ms * _work(items, asked)

    def learn(self, items: int, asked: Asked, ms: float) -> None:
        """Note how long scoring so many items took. It makes up a fifth of what is expected from now on."""
        found = ms / max(1.0, _work(items, asked))
        with self._lock:
            self._ms = found if self._ms is None else 0.8 * self._ms + 0.2 * found


def _work(items: int, asked: Asked) -> float:
    """How much there is to do; reading one item counts as 1."""
    return items * (1 + asked.vectors / _WORDS)


@dataclass(frozen=True)
class Hits:
    """What one query found.

    Attributes:
        rows: positions in the snapshot, best first.
        scores: of each.
        rescored: items whose score was computed.
    """

    rows: Rows
    scores: Scores
    rescored: int


class Collection:
    """A snapshot with its shortlist.

    Args:
        snapshot: the items.
        shortlist: of the same generation.
        spec: what its vectors are.
        cores: threads that score.
        before: of an older generation, whose open files and pace are used again.
    """

    def __init__(
        self, snapshot: Snapshot, shortlist: Shortlist, spec: PoolSpec, cores: Cores, before: Collection | None = None
    ) -> None:
        self.snapshot, self.shortlist, self.spec, self.cores = snapshot, shortlist, spec, cores
        self.sets: StoredSets = StoredSets(snapshot, None if before is None else before.sets)
        self.pace: Pace = Pace() if before is None else before.pace

    def __len__(self) -> int:
        return len(self.snapshot)

    def advanced(self, snapshot: Snapshot, shortlist: Shortlist) -> Collection:
        """This collection for another generation, with the same open files and pace."""
        return Collection(snapshot, shortlist, self.spec, self.cores, self)

    def score(self, asked: Asked, rows: Rows | None = None) -> Scores:
        """Exact scores ``(n, Q)`` of all items, or of those at ascending positions."""
        out = np.empty((len(self) if rows is None else len(rows), len(asked)), dtype=np.float32)

        def work(block: Block) -> None:
            out[np.concatenate([piece.rows for piece in block])] = asked.scores(self.sets.take(block)).numpy()

        started = time.perf_counter()
        self.cores.run(work, self.sets.blocks(rows))
        if len(out):
            self.pace.learn(len(out), asked, (time.perf_counter() - started) * 1e3)
        return out

    def expected_ms(self, items: int, asked: Asked) -> float:
        """The time that scoring so many items exactly takes; a few are scored to know it when nothing was before."""
        found = self.pace.expected_ms(items, asked)
        if found is None:
            some = np.arange(min(_PROBE, len(self)))
            self.score(asked, some)  # once to open the files
            self.pace._ms = None
            self.score(asked, some)
            found = self.pace.expected_ms(items, asked) or 0.0
        return found

    def exact(self, asked: Asked, k: int, rows: Rows | None, threshold: float | None) -> list[Hits]:
        """The best of all items, or of those at ``rows``."""
        scores = self.score(asked, rows)
        among = np.arange(len(self)) if rows is None else rows
        return [best_of(among, scores[:, q], k, threshold) for q in range(len(asked))]

    def fast(self, asked: Asked, k: int, rows: Rows | None, threshold: float | None, candidates: int) -> list[Hits]:
        """The best of the shortlist's candidates."""
        allowed: Ids | None = None if rows is None else self.snapshot.ids[rows]
        found = []
        for q, ids in enumerate(self.shortlist.find(self.query_vectors(asked), candidates, allowed)):
            chosen = np.sort(self.snapshot.positions(ids))
            scores = self.score(asked.only(q), chosen)[:, 0]
            found.append(best_of(chosen, scores, k, threshold))
        return found

    def query_vectors(self, asked: Asked) -> Any:
        """The vectors ``(Q, d)`` that the shortlist is searched with."""
        fit = self.shortlist.fit
        if fit.sample is None:
            return fit.of_vectors(asked.pooled(self.spec))
        scores = torch.empty(len(fit.sample), len(asked))
        sample = fit.sample

        def work(block: tuple[slice, Any]) -> None:
            scores[block[0]] = asked.scores(block[1])

        self.cores.run(work, list(blocks_of(sample)))
        return fit.of_scores(scores)


def best_of(rows: Rows, scores: Scores, k: int, threshold: float | None = None) -> Hits:
    """The k largest scores that reach the threshold; of equal ones the smaller position. NaN is never found.

    Example:
        >>> found = best_of(np.array([3, 5, 9]), np.array([0.1, 0.7, 0.7], dtype=np.float32), 2)
        >>> found.rows.tolist(), found.rescored
        ([5, 9], 3)
    """
    usable = ~np.isnan(scores) if threshold is None else scores >= threshold
    count = int(usable.sum())
    if count > k:
        least = np.partition(scores[usable], count - k)[count - k]
        usable &= scores >= least
    chosen = np.flatnonzero(usable)
    chosen = chosen[np.lexsort((rows[chosen], -scores[chosen]))][:k]
    return Hits(rows[chosen], scores[chosen], len(rows))
