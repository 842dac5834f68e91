"""How much of the exhaustive ranking the shortlist finds, measured on the user's own index.

Queries are the indexed captions where there are some, the lines of a file, or else made-up captions over the model's
vocabulary, which are harder than what people ask. The truth is the exact score of every image.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchword.data.tokenizers import require_tokenizer
from patchword.errors import DataError
from patchword.model import Model
from patchword.retrieve.candidates import rule, write_candidates
from patchword.retrieve.engine import Index
from patchword.retrieve.inputs import encode_queries
from patchword.retrieve.query import Query
from patchword.shortlist.pooled import made_captions
from patchword.store.snapshot import open_snapshot

COUNTS = (50, 100, 200, 500, 1000, 2000)
GOAL = 0.99  # recall that is recommended, or the most that is reached
_TOGETHER = 20  # queries that are scored together
_TIMED = 20  # queries whose time is measured


@dataclass(frozen=True)
class RecallAt:
    """Recall with one number of candidates.

    Attributes:
        candidates: that are scored exactly.
        recall: mean share of the truth's best k that is among them.
        least: of the worst query.
        p50_ms: of a whole fast search.
    """

    candidates: int
    recall: float
    least: float
    p50_ms: float


@dataclass(frozen=True)
class ShortlistRecall:
    """Recall of the shortlist.

    Attributes:
        images: in the index.
        queries: asked.
        source: where they came from.
        k: best images that are looked for.
        shortlist, backend: what found them.
        exact_p50_ms: of an exhaustive search.
        rows: by number of candidates.
        recommended: the fewest candidates that reach 0.99, else the most recall; searches use it from now on.
    """

    images: int
    queries: int
    source: str
    k: int
    shortlist: str
    backend: str
    exact_p50_ms: float
    rows: list[RecallAt]
    recommended: int


def measure_recall(
    index: Path | str | Index,
    *,
    model: Model | Path | str | None = None,
    queries: Path | str | Sequence[str] | None = None,
    count: int = 100,
    k: int = 10,
    seed: int = 0,
) -> ShortlistRecall:
    """Measure recall@k of the shortlist against the exhaustive ranking, and remember the number of candidates.

    Args:
        index: folder, or an open index.
        model: of the index, where that is now.
        queries: sentences, or a file with one on each line.
        count: queries at most.
        k: best images that are looked for.
        seed: of the choice of queries.

    Raises:
        DataError: the index is empty, or there are no usable queries.
    """
    if not isinstance(index, Index):
        with Index.open(index, model=model) as opened:
            return measure_recall(opened, queries=queries, count=count, k=k, seed=seed)
    if not len(index):
        raise DataError(f"'{index.folder}' holds no images, so there is nothing to find.")
    texts, source = query_texts(index, queries, count, seed)
    k = min(k, len(index))
    counts = sorted({min(max(c, k), len(index)) for c in COUNTS})
    shares = np.concatenate(
        [_shares(index, texts[start : start + _TOGETHER], k, counts) for start in range(0, len(texts), _TOGETHER)]
    )  # (queries, counts)
    timed = texts[:_TIMED]
    rows = [
        RecallAt(c, round(float(shares[:, place].mean()), 4), round(float(shares[:, place].min()), 4),
                 _p50(index, timed, k, c))
        for place, c in enumerate(counts)
    ]  # fmt: skip
    goal = min(GOAL, max(row.recall for row in rows))
    recommended = next(row.candidates for row in rows if row.recall >= goal)
    report = ShortlistRecall(
        len(index), len(texts), source, k, index.manifest.pooled.kind, index.manifest.backend.kind,
        _p50(index, timed[:5], k, None), rows, recommended,
    )  # fmt: skip
    if len(index) > rule(len(index)):  # of so few images all are scored
        write_candidates(index.place, recommended, len(index))
    return report


def _shares(index: Index, texts: Sequence[str], k: int, counts: Sequence[int]) -> NDArray[np.float64]:
    """For each query the share of its best k images that each number of candidates holds."""
    images = index.images
    asked = encode_queries(index.model, [Query.of(text) for text in texts], images, index.clip)
    truth = images.exact(asked, k, None, None)
    found = images.shortlist.find(images.query_vectors(asked), counts[-1])
    shares = np.empty((len(texts), len(counts)))
    for q, (best, ids) in enumerate(zip(truth, found, strict=True)):
        wanted = images.snapshot.ids[best.rows]
        shares[q] = [np.isin(wanted, ids[:c]).mean() for c in counts]
    return shares


def _p50(index: Index, texts: Sequence[str], k: int, candidates: int | None) -> float:
    """Median time of a search in ms: with so many candidates, or exact."""
    times = []
    for text in texts:
        started = time.perf_counter()
        if candidates is None:
            index.search(text, k, mode="exact")
        else:
            index.search(text, k, mode="fast", candidates=candidates)
        times.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(times), 2)


def query_texts(
    index: Index, queries: Path | str | Sequence[str] | None, count: int, seed: int
) -> tuple[list[str], str]:
    """Sentences to ask, and what they are.

    Raises:
        DataError: none can be used.
    """
    knows = require_tokenizer(index.model.tokenizer, index.model.label).knows
    draw = random.Random(seed)
    if isinstance(queries, Path | str):
        try:
            texts = Path(queries).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"'{queries}' can not be read as a text file: {error}.") from None
        source = f"lines of {Path(queries).name}"
    elif queries is not None:
        texts, source = list(queries), "given sentences"
    else:
        captions = open_snapshot(index.place, "caption").ids
        chosen = draw.sample(range(len(captions)), min(len(captions), 2 * count))
        texts = [item.text for item in index.catalog.find_captions(captions[chosen].tolist()).values()]
        source = "indexed captions"
        if not texts:
            texts = made_captions(index.model, seed + 1, count) or []
            source = "made-up captions over the model's vocabulary"
    usable = [text for text in dict.fromkeys(texts) if text.strip() and knows(text)]
    if not usable:
        raise DataError(f"none of the {len(texts)} queries ({source}) can be asked. Give a file of sentences.")
    draw.shuffle(usable)
    return usable[:count], source
