"""Which items of a shard are not removed: one bit each in the catalog."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def live_places(bits: bytes, count: int) -> NDArray[np.int64]:
    """Positions of the items of a shard that are not removed."""
    flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count, bitorder="little")
    return np.flatnonzero(flags).astype(np.int64)


def live_bits(count: int, removed: NDArray[np.int64] | None = None) -> bytes:
    """One bit per item, set but for the removed places."""
    flags = np.ones(count, dtype=np.uint8)
    if removed is not None:
        flags[removed] = 0
    return np.packbits(flags, bitorder="little").tobytes()
