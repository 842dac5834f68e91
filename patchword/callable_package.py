"""Packages that can be called: ``patchword.train(...)`` although ``patchword.train`` is also the folder it lives in.

Importing anything below a package puts the package under its name in the parent, over a function of the same name. So
the package itself is made callable, and both readings of the name work, in any order of imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature


class _CallablePackage(ModuleType):
    # A package whose call, signature and documentation are those of a function in one of its modules. The function is
    # imported when one of them is first asked for. (A docstring here would be hidden by the property.)
    _target: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self._target)(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(_function(self._target))

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        found: str | None = _function(self._target).__doc__
        return found


def _function(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def make_callable(package: str, target: str) -> None:
    """Let a call of ``package`` call ``target`` ("module:function"), imported when first needed."""
    module = sys.modules[package]
    module.__class__ = _CallablePackage
    module._target = target  # type: ignore[attr-defined]
