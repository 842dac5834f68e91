"""An index on disk: pictures or region features as vector sets, kept up to date and searched.

The actions are functions with the parameter names of the command line: ``build``, ``add``, ``remove``, ``sync``,
``compact``, ``verify``, ``info``, ``export``, ``add_captions``, ``change_backend``. They are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchword.index.about import info
    from patchword.index.building import build
    from patchword.index.captions import add_captions
    from patchword.index.catalog import CaptionItem, Catalog, Item, generation
    from patchword.index.changing import change_backend
    from patchword.index.compacting import compact
    from patchword.index.engine import Index
    from patchword.index.exporting import export
    from patchword.index.query import Part, Query
    from patchword.index.removing import remove
    from patchword.index.snapshot import Snapshot, open_snapshot
    from patchword.index.syncing import add, sync
    from patchword.index.verifying import verify

_HOME = {
    "build": "building",
    "add": "syncing",
    "sync": "syncing",
    "remove": "removing",
    "compact": "compacting",
    "verify": "verifying",
    "info": "about",
    "export": "exporting",
    "add_captions": "captions",
    "change_backend": "changing",
    "Catalog": "catalog",
    "Item": "catalog",
    "CaptionItem": "catalog",
    "generation": "catalog",
    "Snapshot": "snapshot",
    "open_snapshot": "snapshot",
    "Index": "engine",
    "Part": "query",
    "Query": "query",
}
__all__ = [
    "CaptionItem",
    "Catalog",
    "Index",
    "Item",
    "Part",
    "Query",
    "Snapshot",
    "add",
    "add_captions",
    "build",
    "change_backend",
    "compact",
    "export",
    "generation",
    "info",
    "open_snapshot",
    "remove",
    "sync",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"patchword.index.{_HOME[name]}"), name)
    raise AttributeError(f"module 'patchword.index' has no attribute {name!r}; it has {', '.join(__all__)}")
