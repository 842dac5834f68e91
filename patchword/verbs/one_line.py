"""Text that others have written, such as file names, on a terminal: a line stays a line, and nothing commands it."""

from __future__ import annotations

import unicodedata

from patchword.verbs.output import note, say

_CONTROLS = ("Cc", "Cf", "Zl", "Zp", "Cs")  # Cf reverses the direction of writing, Zl and Zp end a line
_HARMLESS = "\u200c\u200d\u00ad"  # joiners, which some scripts and emoji need, and the soft hyphen


def shown(text: str) -> str:
    """A text in which all that would steer a terminal, or break the line, is written as an escape.

    Example:
        >>> print(shown("z\\x1b[31mred\\n.jpg"), shown("köln.jpg"))
        z\\x1b[31mred\\n.jpg köln.jpg
    """
    if text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in _CONTROLS else one for one in text)


def _escaped(one: str) -> str:
    return one if one in _HARMLESS else ascii(one)[1:-1]


def say_line(text: str) -> None:
    """Print one line of the result."""
    say(shown(text))


def note_line(text: str) -> None:
    """Print one line beside the result."""
    note(shown(text))
