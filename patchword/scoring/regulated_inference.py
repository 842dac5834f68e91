"""CEFG's scores without gradients: the same numbers from fewer operations on larger blocks.

What differs from ``Similarity`` and its heads, none of it an approximation:

* The words of captions of all lengths lie behind each other in one block, without padding: every product has many rows.
  Only the norm over the words of a caption, and the head, put each caption's rows in a grid of its own.
* Vectors of width D are attended, compared and squared in one piece of memory, which stays in the processor's cache.
* tanh x is 2 sigmoid(2 x) - 1, which is six times as fast; the factors and the -1 are part of the weights around it.
* Weights are packed once for all tiles (``PackedLinear``). Both halves of a regulator begin with one product.
* In SGR, (Q x + q) . (K y + k) over y is (K'Q x + K'q) . y plus what is the same for all y, which softmax cancels: one
  product instead of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from patchword.layers.reasoning import GatedPooling, GraphReasoning, Regulator, Similarity
from patchword.layers.region_context import SLOPE
from patchword.scoring.packed_linear import PackedLinear
from patchword.scoring.tiles import cuts_by_rows
from patchword.types import Encoded

_TYPICAL_ROWS = 1024  # of a product; weights are laid out for it
_LANES = 16  # a register's floats: softmax and products over fewer nodes than that are several times slower


@dataclass(frozen=True)
class FoldedRegulator:
    """A regulator whose two first layers are one, and whose tanh are sigmoids.

    Attributes:
        first: what leads to the sharpness, then the modulation.
        half: outputs of ``first`` that lead to the sharpness.
        sharpness: weight and bias of its second layer.
        modulation: second layer of the modulation; None where nothing reads that.
    """

    first: PackedLinear
    half: int
    sharpness: tuple[Float[Tensor, "1 H"], Float[Tensor, " 1"]]
    modulation: PackedLinear | None

    @classmethod
    def of(cls, regulator: Regulator) -> FoldedRegulator:
        """From the layers of a regulator."""
        first, modulation = [_linear(regulator.sharpness[0])], None
        if regulator.modulation is not None:
            first.append(_linear(regulator.modulation[0]))
            second, constant = _after_sigmoid(_linear(regulator.modulation[2]))
            modulation = PackedLinear.of(2 * second, 2 * constant, _TYPICAL_ROWS)
        weight, bias = torch.cat([layer.weight for layer in first]), torch.cat([layer.bias for layer in first])
        both = PackedLinear.of(2 * weight, 2 * bias, _TYPICAL_ROWS)
        return cls(both, len(first[0].weight), _after_sigmoid(_linear(regulator.sharpness[2])), modulation)

    def __call__(
        self, x: Float[Tensor, "B N S"], modulation: Float[Tensor, "B N D"] | None, sharpness: Float[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N D"] | None, Float[Tensor, "B N"]]:
        """As ``Regulator.forward``; what it is given of the modulation is overwritten."""
        hidden = self.first(x).sigmoid_()
        sharper = linear(hidden[..., : self.half], *self.sharpness)[..., 0].add_(sharpness).relu_()
        if self.modulation is None:
            return None, sharper
        found = self.modulation(hidden[..., self.half :]).sigmoid_()  # (1 + tanh) / 2
        if modulation is None:
            return found.mul_(2.0).clamp_(max=1.0), sharper
        return modulation.sub_(1.0).add_(found, alpha=2.0).clamp_(-1.0, 1.0), sharper


def _linear(layer: Tensor | nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer


def _after_sigmoid(layer: nn.Linear) -> tuple[Float[Tensor, "H S"], Float[Tensor, " H"]]:
    """Weight and bias of a layer that reads sigmoid(2 x) where it read tanh x."""
    return 2 * layer.weight.detach(), (layer.bias - layer.weight.sum(1)).detach()


@dataclass(frozen=True)
class Words:
    """Some captions, without padding.

    Attributes:
        words: their words, behind each other.
        pooled: the pooled vector of each (row 0 of its set).
        owner: caption of each word.
        places: row of each word in a grid with W rows for each caption, of which the first belongs to the pooled one.
        missing: rows of that grid that belong to nothing.
    """

    words: Float[Tensor, "N D"]
    pooled: Float[Tensor, "C D"]
    owner: Int[Tensor, " N"]
    places: Int[Tensor, " N"]
    missing: Bool[Tensor, "C W"]

    @classmethod
    def of(cls, captions: Encoded, chosen: Int[Tensor, " C"]) -> Words:
        """The chosen ones of some captions."""
        lengths, device = captions.lengths[chosen], captions.lengths.device
        first = (captions.lengths.cumsum(0) - captions.lengths)[chosen]
        width = max(int(lengths.max()), _LANES)
        grid = torch.arange(width, device=device)
        owner, inner = torch.nonzero((grid >= 1) & (grid < lengths[:, None]), as_tuple=True)
        missing = grid >= lengths[:, None]
        return cls(
            captions.vectors[first[owner] + inner], captions.vectors[first], owner, owner * width + inner, missing
        )


class FoldedSimilarity:
    """What ``Similarity`` makes of pairs, with its weights folded and packed. They must not change while this is used.

    One serves several threads at once.
    """

    def __init__(self, similarity: Similarity) -> None:
        def packed(layer: nn.Linear) -> PackedLinear:
            return PackedLinear.of(layer.weight, layer.bias, _TYPICAL_ROWS)

        self._own = similarity
        self._local, self._overall = packed(similarity.local), packed(similarity.overall)
        self._regulators = [FoldedRegulator.of(one) for one in similarity.regulators if isinstance(one, Regulator)]
        self._steps: list[tuple[PackedLinear, PackedLinear]] = []
        if isinstance(similarity.head, GraphReasoning):
            for step in similarity.head.steps:
                assert isinstance(step, nn.ModuleDict)
                query, key, out = (_linear(step[name]) for name in ("query", "key", "out"))
                edge = PackedLinear.of(key.weight.T @ query.weight, query.bias @ key.weight, _TYPICAL_ROWS)
                self._steps.append((edge, packed(out)))

    @torch.no_grad()
    def scores(self, images: Encoded, captions: Encoded, rows: int) -> Float[Tensor, "B C"]:
        """Scores of all pairs, in blocks of about ``rows`` words of pairs."""
        block, real = images.padded()
        order = torch.argsort(captions.lengths, stable=True)
        lengths = captions.lengths[order]
        total = int(lengths.sum())
        parts = -(-total // rows)
        found = block.new_empty(len(block), len(captions))
        scratch = block.new_empty(0)
        for first, last in pairwise(cuts_by_rows(lengths, -(-total // parts) + int(lengths[-1]))):
            chosen = order[first:last]
            some = Words.of(captions, chosen)
            for part in torch.arange(len(block), device=block.device).split(max(1, rows // max(1, len(some.owner)))):
                places = slice(int(part[0]), int(part[-1]) + 1)
                if len(scratch) < len(part) * some.words.numel():
                    scratch = block.new_empty(len(part) * some.words.numel())
                nodes = self._nodes(block[places], real[places], some, scratch)
                found[places, chosen] = self._logits(nodes, some.missing)
        return torch.sigmoid(found)

    def _nodes(
        self, block: Float[Tensor, "B K1 D"], real: Bool[Tensor, "B K1"], some: Words, scratch: Float[Tensor, " X"]
    ) -> Float[Tensor, "B C W S"]:
        """Similarity vectors of every pair, as ``Similarity.join`` gives them; zeros where a caption has no word."""
        context, words, (count, width) = block[:, 1:], some.words, some.missing.shape
        hidden = None if bool(real.all()) else ~real[:, None, 1:]  # (B, 1, K)
        wide = scratch[: len(block) * words.numel()].view(len(block), *words.shape)

        def in_grid(values: Float[Tensor, "B N X"]) -> Float[Tensor, "B C W X"]:
            grid = values.new_zeros(len(block), count * width, values.shape[2])
            return grid.index_copy_(1, some.places, values).view(len(block), count, width, -1)

        def products(queries: Float[Tensor, "*B N D"]) -> Float[Tensor, "B N K"]:
            s = leaky_relu(queries @ context.mT, SLOPE, inplace=True)
            length: Tensor = in_grid(s.square()).sum(2).sqrt_().add_(1e-8)  # (B, C, K)
            return s.div_(length.index_select(1, some.owner))

        def compare(s: Float[Tensor, "B N K"], sharpness: Float[Tensor, "B N"]) -> Float[Tensor, "B N S"]:
            logits = s * sharpness[..., None]
            attention = torch.softmax(logits if hidden is None else logits.masked_fill_(hidden, -torch.inf), dim=2)
            attended = torch.bmm(attention, context, out=wide)
            length = torch.linalg.vector_norm(attended, dim=2, keepdim=True).add_(1e-8)
            torch.addcdiv(words, attended, length, value=-1.0, out=attended)  # word - unit context
            found: Tensor = shortened(self._local(attended.square_()))
            return found

        plain = products(words)
        modulation: Tensor | None = None
        sharpness = words.new_full((len(block), len(words)), self._own.sharpness)
        for regulator in self._regulators:
            s = plain if modulation is None else products(torch.mul(words, modulation, out=wide))
            modulation, sharpness = regulator(compare(s, sharpness), modulation, sharpness)
        nodes = in_grid(compare(plain, sharpness))
        nodes[:, :, 0] = shortened(self._overall((block[:, None, 0] - some.pooled).square_()))
        return nodes

    def _logits(self, nodes: Float[Tensor, "B C W S"], missing: Bool[Tensor, "C W"]) -> Float[Tensor, "B C"]:
        """As ``Similarity.logits`` outside training."""
        head = self._own.head
        if isinstance(head, GatedPooling):
            gates = torch.sigmoid(head.norm(head.gate(nodes).view(-1, 1))).view(nodes.shape[:3])
            gates = gates.masked_fill_(missing, 0.0)
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-8)
            pooled = shortened((gates[..., None, :] @ nodes)[..., 0, :])
        else:
            for k, (edge, out) in enumerate(self._steps):
                asking = nodes[..., :1, :] if k + 1 == len(self._steps) else nodes  # only node 0 of the last is read
                edges = (edge(asking) @ nodes.mT).masked_fill_(missing[:, None], -torch.inf)
                nodes = torch.relu_(out(torch.softmax(edges, dim=-1) @ nodes))
            pooled = nodes[..., 0, :]
        found: Tensor = self._own.logit(pooled)[..., 0]
        return found


def shortened(values: Float[Tensor, "*N S"]) -> Float[Tensor, "*N S"]:
    """``unit``, in place."""
    return values.div_(torch.linalg.vector_norm(values, dim=-1, keepdim=True).add_(1e-8))
