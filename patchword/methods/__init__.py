"""The tables of methods: name -> module and class, as text. Nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from patchword.errors import ConfigError

if TYPE_CHECKING:
    from patchword.methods.base import Method

METHODS = {
    "vse_inf": "patchword.methods.vse_inf:VseInfinity",
    "chan": "patchword.methods.chan:Chan",
    "cefg": "patchword.methods.cefg:Cefg",
    "hrem": "patchword.methods.hrem:Hrem",
    "aahr": "patchword.methods.aahr:Aahr",
    "scta": "patchword.methods.scta:Scta",
    "laps": "patchword.methods.scta:Laps",
    "esl": "patchword.methods.esl:Esl",
}
# Methods that are loaded ready-made: they have no recipe, and no recipe may name them.
READY_MADE = {"clip": "patchword.methods.clip:Clip"}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: there is no such method, or the table names a file or class that is not there.
    """
    known = {**METHODS, **READY_MADE}
    if name not in known:
        raise ConfigError(f"unknown method {name!r}. Methods: {', '.join(known)}.")
    module, _, attribute = known[name].partition(":")
    place = f"{module.replace('.', '/')}.py"
    try:
        found: type[Method] | None = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise  # something else that the method needs
        raise ConfigError(f"the method {name!r} is in METHODS as {known[name]!r}, but there is no {place}.") from None
    if found is None:
        raise ConfigError(f"the method {name!r} is in METHODS as {known[name]!r}, but {place} defines no {attribute}.")
    return found
