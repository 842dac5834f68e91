"""Several processes, one loss: vector sets of all processes joined with their gradients, and batches padded alike.

Every process computes the loss of the global batch. The backward pass of the gather sums over processes and the
data-parallel wrapper averages over them, so the gradients are those of one process with the whole batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from patchword.types import Encoded, Images


def world() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_sets(sets: Encoded) -> Encoded:
    """Vector sets of all processes, in order of rank; gradients flow back to where a set was made."""
    if world()[1] == 1:
        return sets
    sizes = _gather_plain(torch.tensor([len(sets.vectors), len(sets.lengths)], device=sets.vectors.device))  # (P, 2)
    rows, items = sizes.max(0).values.tolist()
    padded = torch.nn.functional.pad(sets.vectors, (0, 0, 0, rows - len(sets.vectors)))
    vectors: Tensor = _GatherBlocks.apply(padded)  # type: ignore[no-untyped-call]
    lengths = _gather_plain(torch.nn.functional.pad(sets.lengths, (0, items - len(sets.lengths))))
    return Encoded(
        torch.cat([v[:n] for v, n in zip(vectors, sizes[:, 0].tolist(), strict=True)]),
        torch.cat([m[:n] for m, n in zip(lengths, sizes[:, 1].tolist(), strict=True)]),
    )


def gather_ids(ids: Tensor) -> Tensor:
    """One integer per pair of all processes, in order of rank."""
    if world()[1] == 1:
        return ids
    counts = _gather_plain(torch.tensor([len(ids)], device=ids.device))[:, 0]
    padded = torch.nn.functional.pad(ids, (0, int(counts.max()) - len(ids)))
    return torch.cat([row[:n] for row, n in zip(_gather_plain(padded), counts.tolist(), strict=True)])


def _gather_plain(values: Tensor) -> Tensor:
    """Tensors of equal shape from all processes, stacked; nothing flows back."""
    parts = [torch.empty_like(values) for _ in range(world()[1])]
    dist.all_gather(parts, values.contiguous())
    return torch.stack(parts)


class _GatherBlocks(torch.autograd.Function):
    """Blocks of equal shape from all processes, stacked; gradients are summed where a block was made."""

    @staticmethod
    def forward(ctx: Any, block: Tensor) -> Tensor:
        return _gather_plain(block)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def pad_alike(images: Images) -> Images:
    """Pad a region batch to the longest image of all processes.

    The authors' models let padded slots into batch statistics and attention keys, so the padding is part of the result.
    """
    if world()[1] == 1 or images.lengths is None:
        return images
    longest = torch.tensor([images.values.shape[1]], device=images.values.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return replace(
        images, values=torch.nn.functional.pad(images.values, (0, 0, 0, int(longest) - images.values.shape[1]))
    )
