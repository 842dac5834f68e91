"""What an authors' file may hold beside tensors. Nothing of it is made: plain values of ours take its place.

torch's restricted reader calls what the allow-list gives for a name. Here these are functions of this file, so that a
file can not reach NumPy's own, which unpickle what a scalar of the object type holds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import numpy as np
import torch

_PLAIN = re.compile(r"b1|[iu][1248]|f[248]")  # NumPy's codes of booleans and numbers
_FACTORIES = ("bool", "dict", "float", "int", "list", "str", "tuple")  # ``set`` is on torch's own list


class NotAllowedError(Exception):
    """An object in a file has an allowed name and contents that are not; the text names them."""


class Dtype:
    """A NumPy type as it is pickled: a code, then a state with the order of the bytes."""

    code: object = None
    state: object = None

    def __init__(self, *args: object) -> None:
        self.code = args[0] if args else None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def read(self, raw: object) -> bool | int | float:
        """The number in the bytes of a scalar.

        Raises:
            NotAllowedError: it is no boolean, integer or float, or the bytes are not one.
        """
        code, state = self.code, self.state
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise NotAllowedError(f"a NumPy scalar of type {_shown(code)}")
        # (version, order of the bytes, and what only types of several fields have)
        order, *fields = state[1:5] if isinstance(state, tuple) and len(state) >= 5 else ("",)
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
            raise NotAllowedError(f"a NumPy scalar of type {_shown(code)} with the state {_shown(state)}")
        if not isinstance(raw, bytes) or len(raw) != int(code[1:]):
            raise NotAllowedError(f"a NumPy scalar of type {_shown(code)} made of {type(raw).__name__}")
        number: bool | int | float = np.frombuffer(raw, np.dtype(code).newbyteorder(order))[0].item()
        return number


def scalar(*args: object) -> bool | int | float:
    """In place of NumPy's function of this name.

    Raises:
        NotAllowedError: it is no boolean, integer or float.
    """
    if len(args) != 2 or not isinstance(args[0], Dtype):
        raise NotAllowedError("a NumPy scalar without a type")
    return args[0].read(args[1])


def _path(kind: type[PurePath]) -> Callable[..., str]:
    """In place of a class of paths: the text of one."""

    def path(*parts: object) -> str:
        if not all(type(part) is str for part in parts):
            raise NotAllowedError("a path that is not made of text")
        return str(kind(*map(str, parts)))

    return path


def default_dict(*_: object) -> dict[Any, Any]:
    """In place of ``collections.defaultdict``: a dictionary, which has no use for a factory."""
    return {}


def _factory(name: str) -> Callable[..., NoReturn]:
    """In place of the factory of a ``defaultdict``: nothing that can be called."""

    def refuse(*_: object) -> NoReturn:
        raise NotAllowedError(f"a call of `{name}`")

    return refuse


def _names() -> dict[str, Callable[..., Any]]:
    names: dict[str, Callable[..., Any]] = {
        "argparse.Namespace": argparse.Namespace,
        "numpy.dtype": Dtype,
        "numpy.core.multiarray.scalar": scalar,  # before NumPy 2
        "numpy._core.multiarray.scalar": scalar,
        "collections.defaultdict": default_dict,
    }
    for module in ("pathlib", "pathlib._local"):  # the latter in Python 3.13
        names |= {f"{module}.{kind}": _path(PurePosixPath) for kind in ("PosixPath", "PurePosixPath")}
        names |= {f"{module}.{kind}": _path(PureWindowsPath) for kind in ("WindowsPath", "PureWindowsPath")}
    return names | {f"builtins.{name}": _factory(name) for name in _FACTORIES}


@contextmanager
def allow_list() -> Iterator[None]:
    """Let torch's restricted reader accept these names, and no others that the process has allowed elsewhere."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals([(made, name) for name, made in _names().items()])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | tuple) and len(repr(value)) <= 60 else type(value).__name__
