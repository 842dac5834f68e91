"""Unit vectors, and batch normalisation over the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def unit(vectors: Float[Tensor, "*N D"], eps: float = 1e-8) -> Float[Tensor, "*N D"]:
    """Divide by the length: x / (||x|| + eps). The eps is added to the norm, as in the authors' code.

    A zero vector stays zero, and its gradient is finite (that of a written-out root of squares is NaN there, which
    would reach the weights from zero-padded slots).

    Example:
        >>> unit(torch.tensor([[3.0, 4.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    result: Tensor = vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + eps)
    return result


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum over all processes, with gradients."""
    total: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]
    return total


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose training statistics cover the batches of all processes.

    In one process it is ``nn.BatchNorm1d``. In several it gives the numbers that one process would give on the joined
    batch (``nn.SyncBatchNorm`` does so on GPUs only).
    """

    def forward(self, rows: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
        """Normalise rows; every row counts towards the statistics, which over several processes are never of lower
        precision than float32.
        """
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            normalised: Tensor = super().forward(rows)
            return normalised
        given = rows.dtype
        rows = rows.to(torch.promote_types(given, torch.float32))  # bf16 can not even count the rows
        count = sum_over_processes(rows.new_tensor(float(len(rows))))
        mean = sum_over_processes(rows.sum(0)) / count
        variance = sum_over_processes((rows - mean).pow(2).sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
            self.num_batches_tracked += 1
        result: Tensor = (rows - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias
        return result.to(given)
