"""Computing on one core, where sharing the work among threads costs more than it gains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_core() -> Iterator[None]:
    """The calling thread computes without helpers: small products are done sooner, nobody waits where cores are
    shared, and the numbers are the same whatever the machine has.

    Example:
        >>> with one_core():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # holds for the calling thread
    try:
        yield
    finally:
        torch.set_num_threads(before)
