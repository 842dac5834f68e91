"""Asking many things together, where some of them can not be answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from patchword.errors import DataError

Q = TypeVar("Q")
A = TypeVar("A")


def answer_each(ask: Callable[[Sequence[Q]], list[A]], queries: Sequence[Q]) -> list[A | DataError]:
    """Answers in the order of the queries; the place of one that is refused holds the reason.

    A batch that is refused is halved until the refused queries are alone, so that few of them cost little.

    Args:
        ask: answers a batch, or raises `DataError` for all of it.
        queries: any number.

    Example:
        >>> def invert(numbers):
        ...     if 0 in numbers:
        ...         raise DataError("0 has no inverse.")
        ...     return [1 / number for number in numbers]
        >>> answer_each(invert, [2, 0, 4])
        [0.5, DataError('0 has no inverse.'), 0.25]
    """
    try:
        return list(ask(queries))
    except DataError as error:
        if len(queries) < 2:
            return [error for _ in queries]
    middle = len(queries) // 2
    return [*answer_each(ask, queries[:middle]), *answer_each(ask, queries[middle:])]
