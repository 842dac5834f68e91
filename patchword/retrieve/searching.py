"""One search over one generation: queries are encoded, ranked exactly or after a shortlist, and the hits joined with
what the catalog knows and with their probabilities.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from patchword.data.clip_features import ClipEncoder
from patchword.model import Model
from patchword.retrieve.candidates import candidates_for
from patchword.retrieve.collection import Collection, Hits, Rows, Scores
from patchword.retrieve.encoded_queries import Asked, CaptionQueries
from patchword.retrieve.generations import State
from patchword.retrieve.inputs import encode_image, encode_queries, reads_regions
from patchword.retrieve.probability import Chances
from patchword.retrieve.query import Answer, Found, FoundCaption, Picture, Query
from patchword.retrieve.query_regions import QueryRegions
from patchword.retrieve.wanted import Wanted
from patchword.store.catalog import Catalog, Item
from patchword.store.layout import IndexFolder
from patchword.threads import one_core
from patchword.types import Encoded

T = TypeVar("T")
EXACT_MS = 100.0  # `auto` scores everything as long as that is expected to take less


@dataclass(frozen=True)
class Searching:
    """What a search needs beside the generation that it looks through.

    Attributes:
        place: the index.
        model: encodes and scores.
        clip: of models that read CLIP's vector of a sentence.
        catalog: what is known about the items.
        chances: probabilities of scores.
        regions: finds those of a picture that is asked with, for models that read such.
    """

    place: IndexFolder
    model: Model
    clip: ClipEncoder | None
    catalog: Catalog
    chances: Chances
    regions: QueryRegions | None = None

    def images(self, images: Collection, queries: Sequence[Query], wanted: Wanted) -> list[Answer]:
        """The best images for each of one or more queries, encoded and scored together. Indexed images that a query is
        to be like are no answers to it.

        Raises:
            DataError: a query is empty or unknown to the model, or an image can not be encoded.
            ConfigError: the filter can not be read.
        """
        started = time.perf_counter()
        queries = [self._with_ids(query) for query in queries]
        most = max(len(query.like) for query in queries)
        with one_core(), torch.no_grad():
            asked = encode_queries(self.model, queries, images, self.clip, self.regions)
            rows = None if wanted.where is None else images.snapshot.known(self.catalog.where(wanted.where))
            mode, hits = self._ranked(images, asked, replace(wanted, k=wanted.k + most), rows)
            hits = [_without(images, one, query.like, wanted.k) for one, query in zip(hits, queries, strict=True)]
        items = self.catalog.find({int(images.snapshot.ids[row]) for found in hits for row in found.rows})
        took_ms = (time.perf_counter() - started) * 1e3 / len(queries)
        searched = len(images) if rows is None else len(rows)
        return [
            Answer(self._found(images, query, one, items), mode, searched, one.rescored, took_ms)
            for query, one in zip(queries, hits, strict=True)
        ]

    def captions(self, state: State, image: Picture, wanted: Wanted) -> list[FoundCaption]:
        """The best captions for an image; the filter of ``wanted`` is for images and does not count.

        Raises:
            DataError: the image can not be encoded.
        """
        with one_core(), torch.no_grad():
            asked = CaptionQueries(self.model.method, self._encoded(image, state.images))
            _, (hits,) = self._ranked(state.captions, asked, wanted, None)
        ids = state.captions.snapshot.ids[hits.rows].tolist()
        items = self.catalog.find_captions(ids)
        return [FoundCaption(*one) for one in known(ids, hits.scores, self.chances.of(hits.scores), items)]

    def _encoded(self, image: Picture, images: Collection) -> Encoded:
        return encode_image(self.model, self._known(image), images, self.regions)

    def _with_ids(self, query: Query) -> Query:
        """A query with the ids of those of its pictures that are indexed and are not encoded here."""
        parts = (part if part.image is None else replace(part, image=self._known(part.image)) for part in query.parts)
        return Query(tuple(parts))

    def _known(self, image: Picture) -> Picture:
        """The id of an indexed image that is named by its path or its features; a file that can be encoded stays."""
        if not isinstance(image, Path | str):
            return image
        is_encoded = not reads_regions(self.model) and not self.model.method.image_extras and os.path.isfile(image)
        found = None if is_encoded else self.catalog.named(image)
        return image if found is None else found

    def _ranked(
        self, collection: Collection, asked: Asked, wanted: Wanted, rows: Rows | None
    ) -> tuple[Literal["exact", "fast"], list[Hits]]:
        """Rank in the mode that was asked for; gives the mode that was used, and what was found."""
        items = len(collection) if rows is None else len(rows)
        candidates = max(wanted.k, wanted.candidates or candidates_for(self.place, len(collection), wanted.k))
        if wanted.mode == "exact" or items <= candidates or (
            wanted.mode == "auto" and collection.expected_ms(items, asked) / len(asked) <= EXACT_MS
        ):  # fmt: skip
            return "exact", collection.exact(asked, wanted.k, rows, wanted.threshold)
        return "fast", collection.fast(asked, wanted.k, rows, wanted.threshold, candidates)

    def _found(self, images: Collection, query: Query, hits: Hits, items: Mapping[int, Item]) -> list[Found]:
        """Hits with what the catalog knows, and with probabilities when the query is one sentence."""
        ids = images.snapshot.ids[hits.rows].tolist()
        chances = None if query.sentence is None else self.chances.of(hits.scores)
        return [Found(*one) for one in known(ids, hits.scores, chances, items)]


def _without(images: Collection, hits: Hits, ids: frozenset[int], k: int) -> Hits:
    """The first k hits that are none of some images."""
    kept = [place for place, row in enumerate(hits.rows) if int(images.snapshot.ids[row]) not in ids][:k]
    return replace(hits, rows=hits.rows[kept], scores=hits.scores[kept])


def known(
    ids: Sequence[int], scores: Scores, chances: Sequence[float] | None, items: Mapping[int, T]
) -> Iterator[tuple[int, float, float | None, T, int]]:
    """Id, score, probability, item and rank of what was found; what a writer has just removed is left out.

    Example:
        >>> import numpy as np
        >>> list(known([7, 3, 5], np.array([0.75, 0.5, 0.25], dtype=np.float32), None, {7: "a", 5: "c"}))
        [(7, 0.75, None, 'a', 1), (5, 0.25, None, 'c', 2)]
    """
    each: Sequence[float | None] = [None] * len(ids) if chances is None else chances
    scored = zip(ids, scores.tolist(), each, strict=True)
    here = (one for one in scored if one[0] in items)
    for rank, (id, score, chance) in enumerate(here, start=1):
        yield id, score, chance, items[id], rank
