"""What every single query got: the ranks behind a table, kept for intervals, tests, slices and output by query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from patchword.errors import ScoreError
from patchword.evaluate.folds import fold_parts
from patchword.evaluate.matrix import CHUNK_CELLS, ScoreMatrix, as_array
from patchword.evaluate.ranks import Ranks
from patchword.files import replacing
from patchword.scoring.query_ranks import QueryRanks

CUTS = (1, 5, 10)
METRICS = (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in CUTS), "rsum")


@dataclass(frozen=True)
class Queries:
    """Ranks of N images and M captions, each within its fold.

    Attributes:
        i2t: one query an image.
        t2i: one query a caption.
        owner: image of each caption.
        fold: fold of each image; all 0 where there are no folds.
    """

    i2t: QueryRanks
    t2i: QueryRanks
    owner: Int[np.ndarray, " M"]
    fold: Int[np.ndarray, " N"]

    @property
    def n_images(self) -> int:
        """N."""
        return len(self.i2t)

    @property
    def captions_per_image(self) -> Int[np.ndarray, " N"]:
        """Number of captions of each image."""
        counts: np.ndarray = np.bincount(self.owner, minlength=self.n_images)
        return counts

    def hits(self) -> Float[np.ndarray, "N 6"]:
        """Hits at 1, 5 and 10 of every image as a query, and of its captions, added up.

        Ties count against the right answer.
        """
        images = np.stack([self.i2t.pessimistic < k for k in CUTS], axis=1)
        captions = np.stack([self.t2i.pessimistic < k for k in CUTS], axis=1).astype(np.float64)
        sums = np.zeros((self.n_images, len(CUTS)))
        np.add.at(sums, self.owner, captions)
        both: np.ndarray = np.concatenate([images, sums], axis=1)
        return both

    def metrics(self) -> Float[np.ndarray, " 7"]:
        """The numbers named by ``METRICS``, in percent; the mean over folds where there are some."""
        hits, counts = self.hits(), self.captions_per_image
        parts = []
        for fold in np.unique(self.fold):
            inside = self.fold == fold
            i2t, t2i = hits[inside, :3].mean(0), hits[inside, 3:].sum(0) / counts[inside].sum()
            parts.append(np.concatenate([i2t, t2i]))
        six = 100 * np.mean(parts, axis=0)
        seven: np.ndarray = np.append(six, six.sum())
        return seven


def queries_of(ranks: Sequence[Ranks], owner: Int[np.ndarray, " M"], n_images: int) -> Queries:
    """Join the ranks of consecutive folds.

    Args:
        ranks: one for the whole, or one for each fold.
        owner: image of each caption.
        n_images: N.
    """
    i2t = {name: np.empty(n_images, dtype=np.int64) for name in ("greater", "equal", "positives")}
    t2i = {name: np.empty(len(owner), dtype=np.int64) for name in ("greater", "equal", "positives")}
    fold = np.empty(n_images, dtype=np.int64)
    for number, (one, (images, captions)) in enumerate(
        zip(ranks, fold_parts(owner, n_images, len(ranks)), strict=True)
    ):
        fold[images] = number
        for name in i2t:
            i2t[name][images] = getattr(one.i2t, name)
            t2i[name][captions] = getattr(one.t2i, name)
    return Queries(QueryRanks(**i2t), QueryRanks(**t2i), owner, fold)


def check_same_queries(queries: Sequence[Queries], names: Sequence[str]) -> None:
    """Refuse to compare runs over other images, captions or folds.

    Raises:
        ScoreError: names the first run that differs from the first.
    """
    first = queries[0]
    for other, name in zip(queries[1:], names[1:], strict=True):
        if not (np.array_equal(first.owner, other.owner) and np.array_equal(first.fold, other.fold)):
            raise ScoreError(
                f"'{name}' has {other.n_images:,} images and {len(other.owner):,} captions in other places than "
                f"'{names[0]}' ({first.n_images:,} and {len(first.owner):,}). Expected the same split and folds."
            )


@dataclass(frozen=True)
class Contrast:
    """The best right and the best wrong answer of Q queries.

    Attributes:
        right, wrong: positions; wrong is -1 where every candidate is right.
        right_score, wrong_score: their scores; NaN where there is none.
    """

    right: Int[np.ndarray, " Q"]
    wrong: Int[np.ndarray, " Q"]
    right_score: Float[np.ndarray, " Q"]
    wrong_score: Float[np.ndarray, " Q"]

    def of(self, query: int) -> tuple[tuple[str, int, float], ...]:
        """Name, position and score of both answers of one query."""
        return (
            ("right", int(self.right[query]), float(self.right_score[query])),
            ("wrong", int(self.wrong[query]), float(self.wrong_score[query])),
        )


def contrasts(scores: ScoreMatrix, queries: Queries, *, chunk_cells: int = CHUNK_CELLS) -> tuple[Contrast, Contrast]:
    """The best right and wrong answers of images and of captions, within their folds."""
    n_images, n_captions = int(scores.shape[0]), int(scores.shape[1])
    found = [_empty(n_images), _empty(n_captions)]
    for images, captions in fold_parts(queries.owner, n_images, int(queries.fold.max()) + 1):
        columns = np.arange(n_captions)[captions]
        owner = queries.owner[columns]
        step = max(1, chunk_cells // len(columns))
        for start in range(images.start, images.stop, step):
            rows = np.arange(start, min(start + step, images.stop))
            block = as_array(scores[rows[0] : rows[-1] + 1][:, captions])
            _fill(found[0], rows, columns, block, owner[None, :] == rows[:, None])
        step = max(1, chunk_cells // (images.stop - images.start))
        for part in (columns[k : k + step] for k in range(0, len(columns), step)):
            block = as_array(scores[images][:, part]).T
            rows = np.arange(images.start, images.stop)
            _fill(found[1], part, rows, block, queries.owner[part][:, None] == rows[None, :])
    return found[0], found[1]


def _empty(size: int) -> Contrast:
    places = (np.full(size, -1, dtype=np.int64) for _ in range(2))
    return Contrast(*places, *(np.full(size, np.nan) for _ in range(2)))


def _fill(
    found: Contrast,
    queries: Int[np.ndarray, " q"],
    candidates: Int[np.ndarray, " n"],
    block: Shaped[np.ndarray, "q n"],
    is_right: Shaped[np.ndarray, "q n"],
) -> None:
    """Write the best right and wrong answers of some queries."""
    lines = np.arange(len(queries))
    for mask, places, values in (
        (is_right, found.right, found.right_score),
        (~is_right, found.wrong, found.wrong_score),
    ):
        has = mask.any(1)
        best = np.where(mask, block.astype(np.float64), -np.inf).argmax(1)
        places[queries[has]] = candidates[best[has]]
        values[queries[has]] = block[lines[has], best[has]]


def query_lines(
    scores: ScoreMatrix | None,
    queries: Queries,
    *,
    image_ids: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """One object a query, images first: its ranks, its best right answer and the best wrong one.

    Args:
        scores: ``(N, M)``, as ranked; None where they were not kept, which leaves the two answers out.
        queries: ranks of them.
        image_ids: N ids; left out when unknown.
        captions: M texts; left out when unknown.
    """
    found = (None, None) if scores is None else contrasts(scores, queries)
    for way, ranks, contrast in zip(("i2t", "t2i"), (queries.i2t, queries.t2i), found, strict=True):
        for query in range(len(ranks)):
            image = query if way == "i2t" else int(queries.owner[query])
            line: dict[str, Any] = {"direction": way, "query": query, "image": image}
            if image_ids is not None:
                line["image_id"] = image_ids[image]
            if way == "t2i" and captions is not None:
                line["caption"] = captions[query]
            line |= {
                "fold": int(queries.fold[image]),
                "rank": int(ranks.pessimistic[query]) + 1,
                "rank_optimistic": int(ranks.optimistic[query]) + 1,
                "tied": int(ranks.equal[query]),
            }
            for name, place, score in () if contrast is None else contrast.of(query):
                if place < 0:
                    continue
                answer: dict[str, Any] = {"index": place, "score": score}
                if way == "t2i" and image_ids is not None:
                    answer["image_id"] = image_ids[place]
                if way == "i2t" and captions is not None:
                    answer["caption"] = captions[place]
                line[f"best_{name}"] = answer
            yield line


def write_queries(
    path: Path | str,
    scores: ScoreMatrix | None,
    queries: Queries,
    *,
    image_ids: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> Path:
    """Write ``query_lines`` to a ``.jsonl`` file, complete or not at all.

    Raises:
        ScoreError: the name ends otherwise.
    """
    target = Path(path)
    if target.suffix != ".jsonl":
        raise ScoreError(f"'{target}': expected a name that ends in .jsonl.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft, draft.open("w", encoding="utf-8") as file:
        for line in query_lines(scores, queries, image_ids=image_ids, captions=captions):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return target
