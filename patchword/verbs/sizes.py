"""Amounts of memory as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from tyro.conf import arg

from patchword.errors import ConfigError

OptionalSize = Annotated[str | None, arg(metavar="SIZE", help_behavior_hint="")]

_UNITS = {unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t"))}


def bytes_of(size: str) -> int:
    """Bytes of an amount such as ``2GiB``, ``1.5G``, ``500 MB`` or a plain number; prefixes are powers of 1,024.

    Raises:
        ConfigError: it is none, or zero.

    Example:
        >>> bytes_of("2GiB"), bytes_of("512m"), bytes_of("1.5 kB"), bytes_of("7")
        (2147483648, 536870912, 1536, 7)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", size.lower())
    amount = 0 if found is None else int(float(found[1]) * _UNITS[found[2]])
    if amount < 1:
        raise ConfigError(f"'{size}' is no amount of memory. Expected a number with a unit, such as 2GiB or 500MiB.")
    return amount
