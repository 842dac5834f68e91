"""Queries made ready: their texts and images encoded once, and the exact score of any stored sets with all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.methods.base import Method
from patchword.retrieve.query import Query
from patchword.retrieve.rescore import Scorer
from patchword.shortlist.pooled import PoolSpec, mean_vectors
from patchword.types import Encoded


class Asked(ABC):
    """Q queries that can be scored with stored sets."""

    @property
    @abstractmethod
    def vectors(self) -> int:
        """Vectors of all queries together, by which the time of scoring grows."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of queries, Q."""

    @abstractmethod
    def scores(self, sets: Encoded) -> Float[Tensor, "n Q"]:
        """Exact scores of some stored sets, float32."""

    @abstractmethod
    def only(self, query: int) -> Asked:
        """One of the queries."""

    @abstractmethod
    def pooled(self, spec: PoolSpec) -> Float[Tensor, "Q G"]:
        """Query vectors of a method of one vector."""


@dataclass(frozen=True)
class ImageQueries(Asked):
    """Queries for images.

    Attributes:
        method: what scores.
        texts: T texts, each once.
        images: I images; their score is the method's own between two images, or the cosine of mean vectors.
        text_weights: ``(T, Q)``: weight of each text in each query over the query's total weight.
        image_weights: ``(I, Q)``.
    """

    method: Method
    texts: Encoded | None
    images: Encoded | None
    text_weights: Float[Tensor, "T Q"]
    image_weights: Float[Tensor, "I Q"]

    @classmethod
    def of(
        cls, method: Method, queries: Sequence[Query], texts: dict[str, int], encoded: Encoded | None,
        images: Encoded | None,
    ) -> ImageQueries:  # fmt: skip
        """Put the encodings and the weights together.

        Args:
            method: what scores.
            queries: Q of them.
            texts: place of each text in ``encoded``.
            encoded: the texts.
            images: the image parts of all queries, in their order.
        """
        text_weights = torch.zeros(len(texts), len(queries))
        image_weights = torch.zeros(0 if images is None else len(images), len(queries))
        image = 0
        for q, query in enumerate(queries):
            for part in query.parts:
                share = part.weight / query.total_weight
                if part.text is not None:
                    text_weights[texts[part.text], q] += share
                else:
                    image_weights[image, q] = share
                    image += 1
        return cls(method, encoded, images, text_weights, image_weights)

    @property
    def vectors(self) -> int:
        """Vectors of all queries together."""
        return sum(len(part.vectors) for part in (self.texts, self.images) if part is not None)

    def __len__(self) -> int:
        return self.text_weights.shape[1]

    def only(self, query: int) -> ImageQueries:
        """One of the queries, with the parts that it has."""
        texts, images = self.text_weights[:, query].nonzero()[:, 0], self.image_weights[:, query].nonzero()[:, 0]
        return ImageQueries(
            self.method,
            None if self.texts is None or not len(texts) else self.texts.select(texts),
            None if self.images is None or not len(images) else self.images.select(images),
            self.text_weights[texts, query : query + 1],
            self.image_weights[images, query : query + 1],
        )

    def scores(self, sets: Encoded) -> Float[Tensor, "n Q"]:
        """Weighted sums of the scores of the parts."""
        sets = sets.float()
        found = torch.zeros(len(sets), len(self))
        if self.texts is not None and len(self.texts):
            found = weighted(self._by_text(sets), self.text_weights)
        if self.images is not None and len(self.images):
            found = found + weighted(self._by_image(sets), self.image_weights)
        return found

    @cached_property
    def _by_text(self) -> Callable[[Encoded], Float[Tensor, "n T"]]:
        assert self.texts is not None
        return Scorer(self.method, self.texts)

    @cached_property
    def _by_image(self) -> Callable[[Encoded], Float[Tensor, "n I"]]:
        assert self.images is not None
        if self.method.intra_modal == "score":
            return Scorer(self.method, self.images)
        means = mean_vectors(self.images)
        return lambda sets: mean_vectors(sets) @ means.T

    def pooled(self, spec: PoolSpec) -> Float[Tensor, "Q G"]:
        """Weighted sums of the vectors of the parts."""
        found = torch.zeros(len(self), spec.pooling.width)
        if self.texts is not None and len(self.texts):
            found = self.text_weights.T @ spec.pool_captions(self.texts)
        if self.images is not None and len(self.images):
            found = found + self.image_weights.T @ mean_vectors(self.images)
        return found


def weighted(scores: Float[Tensor, "n P"], weights: Float[Tensor, "P Q"]) -> Float[Tensor, "n Q"]:
    """Compute ``scores @ weights``. Where each query is one part, these are exactly its scores."""
    if weights.shape[0] == weights.shape[1] and torch.equal(weights, torch.eye(len(weights))):
        return scores
    return scores @ weights


@dataclass(frozen=True)
class CaptionQueries(Asked):
    """Queries for captions: one image each.

    Attributes:
        method: what scores.
        images: Q vector sets.
    """

    method: Method
    images: Encoded

    @property
    def vectors(self) -> int:
        """Vectors of all queries together."""
        return len(self.images.vectors)

    def __len__(self) -> int:
        return len(self.images)

    def only(self, query: int) -> CaptionQueries:
        """One of the queries."""
        return CaptionQueries(self.method, self.images.slice(query, query + 1))

    def scores(self, sets: Encoded) -> Float[Tensor, "n Q"]:
        """The scores of all images with some captions."""
        return Scorer(self.method, sets.float())(self.images).T

    def pooled(self, spec: PoolSpec) -> Float[Tensor, "Q G"]:
        """The vectors of the images."""
        return spec.pool_images(self.images)
