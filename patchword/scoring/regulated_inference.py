"""CEFG's blocks without gradients: the same numbers in fewer passes over memory.

What differs from ``regulated.block_nodes`` and ``GraphReasoning``, none of it an approximation:

* Vectors of width D are scaled, compared and squared where they lie.
* Both halves of a regulator begin with one product.
* In SGR, (Q x + q) . (K y + k) over y is (K'Q x + K'q) . y plus what is the same for all y, which softmax cancels: one
  product instead of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from patchword.layers.reasoning import GraphReasoning, Regulator, Similarity
from patchword.layers.region_context import SLOPE


@dataclass(frozen=True)
class FoldedRegulator:
    """A regulator whose two first layers are one.

    Attributes:
        first, bias: ``(H, S)`` and ``(H,)`` of that layer: what leads to the sharpness, then the modulation.
        sharpness, modulation: the second layers.
        half: outputs of the first layer that lead to the sharpness.
    """

    first: Float[Tensor, "H S"]
    bias: Float[Tensor, " H"]
    sharpness: nn.Module
    modulation: nn.Module | None
    half: int

    @classmethod
    def of(cls, regulator: Regulator) -> FoldedRegulator:
        """From the layers of a regulator."""
        both = [regulator.sharpness] if regulator.modulation is None else [regulator.sharpness, regulator.modulation]
        weights, biases = zip(*((layers[0].weight, layers[0].bias) for layers in both), strict=True)
        second = None if regulator.modulation is None else regulator.modulation[2]
        return cls(torch.cat(weights), torch.cat(biases), regulator.sharpness[2], second, len(weights[0]))

    def __call__(
        self, x: Float[Tensor, "*N S"], modulation: Float[Tensor, "*N D"] | None, sharpness: Float[Tensor, "*N"]
    ) -> tuple[Float[Tensor, "*N D"] | None, Float[Tensor, "*N"]]:
        """As ``Regulator.forward``."""
        hidden = linear(x.flatten(0, -2), self.first, self.bias).tanh_()  # (N, H)
        sharper = self.sharpness(hidden[:, : self.half]).view(sharpness.shape).add_(sharpness).relu_()
        if self.modulation is None:
            return None, sharper
        found: Tensor = self.modulation(hidden[:, self.half :]).view(*sharpness.shape, -1)
        return found.tanh_().add_(1.0 if modulation is None else modulation).clamp_(-1.0, 1.0), sharper


class FoldedSimilarity:
    """What ``Similarity`` makes of a block, with its weights folded. They must not change while this is used."""

    def __init__(self, similarity: Similarity) -> None:
        self._own = similarity
        self._regulators = [FoldedRegulator.of(one) for one in similarity.regulators if isinstance(one, Regulator)]
        self._steps: list[tuple[Tensor, Tensor, nn.Module]] = []
        if isinstance(similarity.head, GraphReasoning):
            for step in similarity.head.steps:
                assert isinstance(step, nn.ModuleDict)
                query, key = step["query"], step["key"]
                assert isinstance(query, nn.Linear)
                assert isinstance(key, nn.Linear)
                self._steps.append((key.weight.T @ query.weight, query.bias @ key.weight, step["out"]))

    def nodes(
        self, block: Float[Tensor, "B K1 D"], real: Bool[Tensor, "B K1"], captions: Float[Tensor, "C L1 D"]
    ) -> Float[Tensor, "B C L1 S"]:
        """Similarity vectors of every pair, as ``regulated.block_nodes``."""
        own, context, words = self._own, block[:, 1:], captions[:, 1:]
        shape = (len(block), *words.shape[:2])  # B, C, L
        hidden = None if bool(real.all()) else ~real[:, None, 1:]  # (B, 1, K)

        def products(queries: Float[Tensor, "*N L D"]) -> Float[Tensor, "B C L K"]:
            s = leaky_relu(queries.flatten(-3, -2) @ context.mT, SLOPE, inplace=True).unflatten(1, shape[1:])
            return shortened(s, 2)

        def compare(s: Float[Tensor, "B C L K"], sharpness: Float[Tensor, "B C L"]) -> Float[Tensor, "B C L S"]:
            logits = (s * sharpness[..., None]).flatten(1, 2)  # (B, C * L, K)
            attention = torch.softmax(logits if hidden is None else logits.masked_fill_(hidden, -torch.inf), dim=2)
            attended = (attention @ context).unflatten(1, shape[1:])
            scale = torch.linalg.vector_norm(attended, dim=3, keepdim=True).add_(1e-8).reciprocal_()
            torch.addcmul(words, attended, scale, value=-1.0, out=attended)  # word - unit context
            return shortened(own.local(attended.square_()), 3)

        plain = products(words)
        modulation: Tensor | None = None
        sharpness = words.new_full(shape, own.sharpness)
        for regulator in self._regulators:
            s = plain if modulation is None else products(words * modulation)
            modulation, sharpness = regulator(compare(s, sharpness), modulation, sharpness)
        final = compare(plain, sharpness)
        overall = own.compare_overall(block[:, None, 0], captions[None, :, 0])  # (B, C, S)
        return torch.cat([overall[:, :, None], final], 2)

    def logits(self, nodes: Float[Tensor, "B C M S"]) -> Float[Tensor, "B C"]:
        """As ``Similarity.logits``, without what a training SAF must be moved by."""
        if not self._steps:
            return self._own.logits(nodes)[0]
        for k, (edge, bias, out) in enumerate(self._steps):
            asking = nodes[..., :1, :] if k + 1 == len(self._steps) else nodes  # only node 0 of the last step is read
            edges = torch.softmax(linear(asking, edge, bias) @ nodes.mT, dim=-1)
            nodes = torch.relu_(out(edges @ nodes))
        found: Tensor = self._own.logit(nodes[..., 0, :])[..., 0]
        return found


def shortened(values: Float[Tensor, "*N D"], axis: int) -> Float[Tensor, "*N D"]:
    """``unit`` along one axis, in place."""
    return values.mul_(torch.linalg.vector_norm(values, dim=axis, keepdim=True).add_(1e-8).reciprocal_())
