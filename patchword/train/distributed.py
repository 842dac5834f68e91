"""Several processes, one loss: vector sets of all processes joined with their gradients, and batches padded alike.

Every process computes the loss of the global batch. The backward pass of the gather sums over processes and the
gradients are averaged over them, so they are those of one process with the whole batch. The gradients are averaged
here and not by a data-parallel wrapper, which demands that every parameter takes part in every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from patchword.types import Captions, Encoded, Images

BUCKET_BYTES = 64 << 20  # gradients that are averaged in one message


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


def pad_alike(images: Images, captions: Captions) -> tuple[Images, Captions]:
    """Pad a batch to the longest image and the longest caption of all processes.

    The authors' models let padded slots into batch statistics, attention and pooling: the padding is part of the
    result.
    """
    if world()[1] == 1:
        return images, captions
    regions = images.values.shape[1] if images.lengths is not None else 0
    longest = torch.tensor([regions, captions.tokens.shape[1]], device=captions.tokens.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    tokens = torch.nn.functional.pad(captions.tokens, (0, int(longest[1]) - captions.tokens.shape[1]))
    captions = replace(captions, tokens=tokens)
    if images.lengths is None:
        return images, captions
    values = torch.nn.functional.pad(images.values, (0, 0, 0, int(longest[0]) - regions))
    return replace(images, values=values), captions


def share_state(method: nn.Module) -> None:
    """Give all processes the weights and buffers of the first one."""
    if world()[1] > 1:
        for value in method.state_dict().values():
            dist.broadcast(value, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over processes, many small ones in one message.

    A parameter without a gradient has none on any process, because all compute the same loss.
    """
    processes = world()[1]
    if processes == 1:
        return
    bucket: list[Tensor] = []
    grads = [p.grad for p in parameters if p.grad is not None]
    for k, grad in enumerate(grads):
        bucket.append(grad)
        full = sum(g.numel() * g.element_size() for g in bucket) >= BUCKET_BYTES
        if full or k + 1 == len(grads) or grads[k + 1].dtype != grad.dtype:
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            flat /= processes
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
            bucket = []
