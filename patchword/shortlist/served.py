"""A server's backend as a reader uses it: where the server fails, the same vectors are compared in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

import numpy as np
from jaxtyping import Float
from torch import Tensor

from patchword.errors import DataError
from patchword.shortlist.base import GlobalIndex, Ids
from patchword.shortlist.exact import ExactIndex

_log = logging.getLogger(__name__)
RETRY_S = 60.0  # after which a server that has failed is asked again


def warn_of(error: DataError) -> None:
    """Say why the shortlist of a server is not used."""
    _log.warning("warning: the shortlist is searched in memory instead: %s", error)


class ServedIndex:
    """The search of a backend on a server, with one in memory beside it that is made when it is needed.

    Args:
        backend: on a server.
        make: gives the same vectors in memory.
    """

    def __init__(self, backend: GlobalIndex, make: Callable[[], ExactIndex]) -> None:
        self.backend, self._make = backend, make
        self._own: ExactIndex | None = None
        self._again = -np.inf  # when the server is asked again, on the monotonic clock
        self._making = Lock()

    def search(
        self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None
    ) -> tuple[Ids, Float[Tensor, "Q k"]]:
        """The k largest inner products of each query."""
        if time.monotonic() >= self._again:
            try:
                return self.backend.search(queries, k, allowed)
            except DataError as error:
                self._again = time.monotonic() + RETRY_S
                warn_of(error)
        with self._making:
            if self._own is None:
                self._own = self._make()
        return self._own.search(queries, k, allowed)
