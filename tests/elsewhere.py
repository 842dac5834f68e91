"""A device that is not the CPU, made of the CPU's memory: it refuses what a graphics card would refuse.

Its tensors say that they are on ``ELSEWHERE``; what computes with them and with tensors of the CPU at once fails, as it
does on a card, and so does asking them for NumPy. Every operation runs on the CPU, so results are equal to those of the
CPU. The name is one of torch's that nothing here uses: the backward pass of a name such as ``cuda`` needs a card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("lazy", 0)
_aten = torch.ops.aten
_CROSSING = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {
    _aten.index.Tensor,
    _aten._unsafe_index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_PACK, _UNPACK_GRADIENT = _aten._pack_padded_sequence.default, _aten._pack_padded_sequence_backward.default


class Held(Tensor):
    """A tensor on ``ELSEWHERE``; ``held`` is its memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        """Nothing is copied."""
        made: Held = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=ELSEWHERE,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    def tolist(self) -> Any:
        """Values, as a card gives them."""
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as by a card."""
        raise TypeError(f"can't convert a tensor on {ELSEWHERE} to numpy. Use Tensor.cpu() first.")

    def __repr__(self, **_: Any) -> str:
        return f"Held({self.held})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sees every operation, so that tensors can also be made on ``ELSEWHERE``."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Autocast(torch.autocast):
    """Knows ``ELSEWHERE``, too."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == ELSEWHERE.type else device_type, *args, **kwargs)


@contextmanager
def a_device() -> Iterator[torch.device]:
    """``ELSEWHERE`` is a device in here."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # ``torch.tensor(..., device=...)`` is a copy from the CPU, hence seen
    try:
        with mock.patch.object(torch, "autocast", _Autocast), _Everywhere():
            yield ELSEWHERE
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _run(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    _check(operation, args, kwargs)
    wanted, leaves = kwargs.get("device"), tree_leaves((args, kwargs))
    if wanted is not None:
        stays_there = torch.device(wanted).type == ELSEWHERE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif operation is _aten.copy_.default:
        stays_there = isinstance(args[0], Held)
    else:
        stays_there = any(isinstance(leaf, Held) for leaf in leaves)
    found = operation(*tree_map(_memory, args), **tree_map(_memory, dict(kwargs)))
    if not stays_there:
        return args[0] if operation is _aten.copy_.default else found
    if operation is _PACK:
        return Held(found[0]), found[1]  # the numbers of sequences are on the CPU, always
    there = tree_map(lambda leaf: Held(leaf) if isinstance(leaf, Tensor) else leaf, found)
    return return_and_correct_aliasing(operation, args, kwargs, there)


def _check(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what mixes devices: numbers without dimensions, indices and lengths of packed sequences may be here."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if operation is _PACK:
        assert not isinstance(args[1], Held), "lengths of packed sequences must be on the CPU"
        return
    if operation in _CROSSING or operation is _UNPACK_GRADIENT:
        return
    if operation in _INDEXING:
        tensors = [leaf for leaf in (args[0], *args[2:3]) if isinstance(leaf, Tensor)]
    if any(isinstance(tensor, Held) for tensor in tensors):
        here = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Held) and tensor.dim() > 0]
        assert not here, f"{operation} on {ELSEWHERE} got tensors of the CPU with shapes {here}"


def _memory(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Held) else leaf
