"""Layers in a form that a tracer can follow: the same weights and numbers, without packing, without Python decisions
about the lengths of a batch, and with everything computed that depends on weights alone.

``traceable`` makes a copy of a method that is built of them. The copy is for tracing only: its recurrent layers compute
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from patchword.encoders.bigru import Bigru
from patchword.encoders.projected import PatchMlp
from patchword.layers.fragment_graph import mean_of_largest, mean_of_real
from patchword.layers.gpo import Gpo, positional_encoding
from patchword.layers.pyramid import AdaptivePyramid, LevelForms, Pyramid
from patchword.layers.region_context import RegionContext, RegionNorm
from patchword.methods.aahr import GuidedHead
from patchword.methods.base import Method
from patchword.methods.hrem import FragmentPool
from patchword.types import real_slots

TORCH_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class OnnxGru(nn.Module):
    """The ONNX operator ``GRU`` with the weights of torch's, over padded sequences.

    The backward direction is a forward one over sequences that are turned round within their lengths, so that padding
    always comes last and never reaches what is real; no runtime needs to know of lengths.
    """

    def __init__(self, rnn: nn.GRU) -> None:
        super().__init__()
        self.hidden_size, self.layers = rnn.hidden_size, rnn.num_layers
        self.directions = ("", "_reverse") if rnn.bidirectional else ("",)
        for end in [f"l{layer}{direction}" for layer in range(rnn.num_layers) for direction in self.directions]:
            w, r, b, s = (gates(getattr(rnn, f"{kind}_{end}").detach()) for kind in TORCH_NAMES)
            self.register_buffer(f"w_{end}", w[None])
            self.register_buffer(f"r_{end}", r[None])
            self.register_buffer(f"b_{end}", torch.cat([b, s])[None])

    def forward(self, values: Float[Tensor, "N K F"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N K H"]:
        """States of the last layer, both directions one after the other; zeros at padding."""
        real = real_slots(lengths, values.shape[1])
        steps = torch.arange(values.shape[1], device=values.device)
        turned = torch.where(real, lengths[:, None] - 1 - steps, steps)  # (N, K): where each step comes from
        for layer in range(self.layers):
            states = []
            for direction in self.directions:
                if direction:
                    states.append(rows(self.run(rows(values, turned), f"l{layer}{direction}"), turned))
                else:
                    states.append(self.run(values, f"l{layer}"))
            values = torch.cat(states, dim=2)
        return values.masked_fill(~real[..., None], 0.0)

    def run(self, values: Float[Tensor, "N K F"], end: str) -> Float[Tensor, "N K H"]:
        """One direction of one layer, forwards."""
        n, size, _ = values.shape
        weights = [getattr(self, f"{kind}_{end}") for kind in "wrb"]
        states = torch.onnx.ops.symbolic(
            "GRU",
            (values.transpose(0, 1), *weights),
            {"hidden_size": self.hidden_size, "linear_before_reset": 1},
            dtype=values.dtype,
            shape=(size, 1, n, self.hidden_size),
        )
        return states[:, 0].transpose(0, 1)  # (N, K, H)


def gates(weights: Float[Tensor, "H3 ..."]) -> Float[Tensor, "H3 ..."]:
    """Rows of torch's gates (reset, update, new) in ONNX's order (update, reset, new)."""
    reset, update, new = weights.chunk(3)
    return torch.cat([update, reset, new])


def rows(block: Float[Tensor, "N K F"], places: Int[Tensor, "N S"]) -> Float[Tensor, "N S F"]:
    """Row ``places[n, s]`` of every set."""
    return block.gather(1, places[..., None].expand(-1, -1, block.shape[2]))


class TracedBigru(Bigru):
    """Without packing."""

    def forward(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C L D"]:
        """Word vectors; zeros at padding."""
        states: Tensor = self.rnn(self.embed(tokens), lengths)
        return states if states.shape[2] == self.width else (states[..., : self.width] + states[..., self.width :]) / 2


class TracedGpo(Gpo):
    """With weights computed for every set, not once for every distinct size."""

    def weights(self, lengths: Int[Tensor, " N"], size: int | None = None) -> Float[Tensor, "N K"]:
        """Position weights, zero beyond each size."""
        assert size is not None
        real = real_slots(lengths, size)
        positions = positional_encoding(size, self.width, self.linear.weight).expand(lengths.shape[0], -1, -1)
        states: Tensor = self.gru(positions, lengths)
        hidden = (states[..., : self.width] + states[..., self.width :]) / 2
        logits: Tensor = self.linear(hidden)[..., 0]
        return torch.softmax(logits.masked_fill(~real, -torch.inf) / self.temperature, dim=1)


class TracedPatchMlp(PatchMlp):
    """Over all slots: in evaluation, batch normalisation treats every slot alike."""

    def forward(self, patches: Float[Tensor, "B R F"], counted: Bool[Tensor, "B R"]) -> Float[Tensor, "B R D"]:
        """Zeros where a slot is not counted."""
        norm, hidden = self.norm, self.first(patches).transpose(1, 2)  # (B, F, R), as batch normalisation wants it
        hidden = functional.batch_norm(
            hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        result: Tensor = self.second(torch.relu(hidden.transpose(1, 2)))
        return result.masked_fill(~counted[..., None], 0.0)


class TracedRegionNorm(RegionNorm):
    """For any number of regions up to that of the weights."""

    def forward(
        self, values: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"] | None = None
    ) -> Float[Tensor, "B R D"]:
        """Normalise every region with the running statistics of its index."""
        assert self.running_mean is not None
        assert self.running_var is not None
        regions = values.shape[1]
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return values * scale[:regions, None] + shift[:regions, None]


class TracedRegionContext(RegionContext):
    """Without packing: the regions of an image and then their neighbourhoods are moved together by index."""

    def _recurrent(
        self, regions: Float[Tensor, "B R D"], mixed: Float[Tensor, "B R D"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B S D"]:
        """GRU over the regions and then their neighbourhoods, plus the regions twice; zeros at padding."""
        size = regions.shape[1]
        steps, count = torch.arange(2 * size, device=regions.device), lengths[:, None]
        places = torch.where(steps < count, steps, (steps - count + size).clamp(max=2 * size - 1))  # (B, 2R)
        states: Tensor = self.rnn(rows(torch.cat([regions, mixed], 1), places), 2 * lengths)
        twice = rows(torch.cat([regions, regions], 1), places)
        return states + twice.masked_fill(~real_slots(2 * lengths, 2 * size)[..., None], 0.0)


class FoldedForms(nn.Module):
    """The bilinear forms as the matrices that they come to."""

    def __init__(self, forms: LevelForms) -> None:
        super().__init__()
        weights = forms.level_weights().detach()
        self.matrices = nn.ParameterList((w * forms.matrix(k)).detach().T for k, w in enumerate(weights))

    def forward(self, levels: Sequence[Float[Tensor, "*N _"]]) -> Float[Tensor, "*N E"]:
        """The forms folded into the levels of the patches."""
        return torch.cat([h @ matrix for h, matrix in zip(levels, self.matrices, strict=True)], dim=-1)


class FoldedPyramid(Pyramid):
    """The adaptive pyramid with the inputs that its outputs have picked."""

    def __init__(self, pyramid: AdaptivePyramid) -> None:
        super().__init__(pyramid.widths)
        levels = range(1, len(pyramid.widths))
        self.matrices = nn.ParameterList(pyramid.sparse(level).detach().T for level in levels)

    def reduce(self, level: int, below: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """One value for every column of the sparse matrix."""
        reduced: Tensor = below @ self.matrices[level - 1]
        return reduced


def mean_of_two_largest(fragments: Float[Tensor, "N K D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """``mean_of_largest`` for every set on its own; a spare slot lets a block of one slot hold two largest."""
    return mean_of_largest(functional.pad(fragments, (0, 0, 0, 1)), lengths, short_sets="own")


class TracedFragmentPool(FragmentPool):
    """With ``short_sets: own``."""

    def forward(self, fragments: Float[Tensor, "N K D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Pool every set to one vector, not normalised."""
        largest, enhanced = mean_of_two_largest(fragments, lengths), self.graph(fragments, lengths)
        return self.share * largest + (1 - self.share) * mean_of_real(enhanced, lengths)


class TracedGuidedHead(GuidedHead):
    """With ``short_sets: own``."""

    def largest(self, fragments: Float[Tensor, "N K D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """The mean of the two largest values of every set."""
        return mean_of_two_largest(fragments, lengths)


# Another module in the place of a layer, and another class over its weights.
REPLACED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.GRU: OnnxGru,
    LevelForms: FoldedForms,
    AdaptivePyramid: FoldedPyramid,
}
TRACED: dict[type[nn.Module], type[nn.Module]] = {
    kind.__bases__[0]: kind
    for kind in (
        TracedBigru,
        TracedFragmentPool,
        TracedGpo,
        TracedGuidedHead,
        TracedPatchMlp,
        TracedRegionContext,
        TracedRegionNorm,
    )
}


def traceable(method: Method) -> Method:
    """A copy of a method on the CPU, in evaluation mode, whose encoders can be traced."""
    made: Any = copy.deepcopy(method).to("cpu").eval().requires_grad_(False)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if type(child) in REPLACED:
                setattr(module, name, REPLACED[type(child)](child))
        module.__class__ = TRACED.get(type(module), type(module))
    found: Method = made
    return found
