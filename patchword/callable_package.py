"""Packages that can be called: ``patchword.train(...)`` although ``patchword.train`` is also the folder it lives in.

Importing anything below a package puts the package under its name in the parent, over a function of the same name. So
the package itself is made callable, and both readings of the name work, in any order of imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """A package whose call is the call of a function in one of its modules."""

    _target: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, name = self._target.partition(":")
        return getattr(import_module(module), name)(*args, **kwargs)


def make_callable(package: str, target: str) -> None:
    """Let a call of ``package`` call ``target`` ("module:function"), imported when first called."""
    module = sys.modules[package]
    module.__class__ = _CallablePackage
    module._target = target  # type: ignore[attr-defined]
