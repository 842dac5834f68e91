"""What finds the candidates of a search among all items: one short vector each, behind one contract.

The table of backends maps a name to module and class, as text. Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from patchword.errors import ConfigError

if TYPE_CHECKING:
    from patchword.shortlist.base import GlobalIndex

BACKENDS = {
    "exact": "patchword.shortlist.exact:ExactIndex",
    "faiss": "patchword.shortlist.faiss:FaissIndex",
    "milvus": "patchword.shortlist.milvus:MilvusIndex",
}


def backend_class(kind: str) -> type[GlobalIndex]:
    """The class of a backend.

    Raises:
        ConfigError: there is no such backend.
    """
    if kind not in BACKENDS:
        raise ConfigError(f"the backend {kind!r} is unknown. Known: {', '.join(BACKENDS)}.")
    module, _, attribute = BACKENDS[kind].partition(":")
    found: type[GlobalIndex] = getattr(import_module(module), attribute)
    return found
