"""From the one vector per item to a query's vector over a few coordinates.

All items lie along the strongest directions of their shortlist vectors: z = basis^T (f - mean), d numbers. For a method
of one vector the query's vector is basis^T q. For every other method it is fitted: the query is scored exactly against
a fixed sample of items, and v is the ridge regression of these scores on the z of the sample, so that <v, z> + constant
follows the score wherever it came from: any method, several parts, negative weights, images as queries. (The idea of
scoring by a sample of anchors: Yadav et al., "Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix
Factorization", EMNLP 2022.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from patchword.errors import DataError
from patchword.files import save_tensors
from patchword.types import Encoded

FILE = "fit.safetensors"
WIDTH, OWN_WIDTH = 128, 256  # coordinates of a fitted and of a computed query
_RIDGE = 1e-4  # relative to the mean square of the coordinates


@dataclass(frozen=True)
class Fit:
    """Coordinates of items, and how a query's vector over them is found.

    Attributes:
        mean: ``(G,)`` of the shortlist vectors.
        basis: ``(G, d)`` orthonormal columns, the strongest direction last.
        sample: vector sets of S items, half-precision; None for a method of one vector.
        places: ``(S, d)`` coordinates of the sample.
        learnt_from: number of items in the index when this was learnt.
    """

    mean: Float[Tensor, " G"]
    basis: Float[Tensor, "G d"]
    sample: Encoded | None
    places: Float[Tensor, "S d"] | None
    learnt_from: int

    @property
    def width(self) -> int:
        """The number of coordinates, d."""
        return self.basis.shape[1]

    def coordinates(self, pooled: Float[Tensor, "n G"]) -> Float[Tensor, "n d"]:
        """The coordinates z of items, from their shortlist vectors of any precision."""
        found: Tensor = (pooled.float() - self.mean) @ self.basis
        return found

    def of_vectors(self, queries: Float[Tensor, "Q G"]) -> Float[Tensor, "Q d"]:
        """Query vectors of a method of one vector."""
        return queries @ self.basis

    def of_scores(self, scores: Float[Tensor, "S Q"]) -> Float[Tensor, "Q d"]:
        """Query vectors from the exact scores of the sample."""
        return (self._solver @ scores)[:-1].T.contiguous()

    @cached_property
    def _solver(self) -> Float[Tensor, "d1 S"]:
        """(F^T F + ridge)^-1 F^T with F = [z, 1]."""
        assert self.places is not None
        rows = torch.cat([self.places, torch.ones(len(self.places), 1)], dim=1).double()
        ridge = torch.eye(rows.shape[1], dtype=torch.float64) * _RIDGE * self.places.double().square().sum(0).mean()
        solved: Tensor = torch.linalg.solve(rows.T @ rows + ridge, rows.T)
        return solved.float()

    def save(self, folder: Path) -> None:
        """Write the coordinates and the sample into an existing folder."""
        state = {"mean": self.mean, "basis": self.basis.contiguous(), "learnt_from": torch.tensor(self.learnt_from)}
        if self.sample is not None and self.places is not None:
            state |= {"vectors": self.sample.vectors, "lengths": self.sample.lengths}
            state |= {"places": self.places.contiguous()}
        save_tensors(state, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Fit:
        """Read what ``save`` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            state = load_file(folder / FILE)
            sample = Encoded(state["vectors"], state["lengths"]) if "vectors" in state else None
            return cls(state["mean"], state["basis"], sample, state.get("places"), int(state["learnt_from"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"'{folder / FILE}' can not be read: {error}.") from None


def learn(
    pooled: Float[Tensor, "n G"], sample: Encoded | None, sample_pooled: Tensor | None, items: int, width: int
) -> Fit:
    """Find the strongest directions of some shortlist vectors.

    Args:
        pooled: of some items, at random.
        sample: vector sets of the sample; None for a method of one vector.
        sample_pooled: ``(S, G)`` shortlist vectors of the sample.
        items: in the index.
        width: d, at most.
    """
    rows = pooled.double()
    mean = rows.mean(0) if len(rows) else torch.zeros(rows.shape[1], dtype=torch.float64)
    width = min(width, rows.shape[1])
    if sample is None and width == rows.shape[1]:
        return Fit(torch.zeros(width), torch.eye(width), None, None, items)
    if sample is not None:
        width = max(1, min(width, len(sample) // 4))
    _, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
    basis = directions[:, -width:].float()
    if sample is None or sample_pooled is None:
        return Fit(mean.float(), basis, None, None, items)
    half = Encoded(sample.vectors.half(), sample.lengths)
    return Fit(mean.float(), basis, half, (sample_pooled.float() - mean.float()) @ basis, items)
