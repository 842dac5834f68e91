"""The table of methods: name -> module and class, as text. Nothing is imported before it is used."""

from importlib import import_module

from patchword.errors import ConfigError

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


def method_class(name: str) -> type:
    """The class of a method.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}. Methods: {', '.join(METHODS)}.")
    module, _, attribute = METHODS[name].partition(":")
    found: type = getattr(import_module(module), attribute)
    return found
