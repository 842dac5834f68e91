"""An index on disk: pictures or region features as vector sets, kept up to date and searched.

The actions are functions with the parameter names of the command line: ``build``, ``add``, ``remove``, ``sync``,
``compact``, ``verify``, ``info``, ``export``, ``add_captions``, ``change_backend``. They are imported on first use.
The action ``calibrate`` is ``patchword.retrieve.calibrate.calibrate``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchword.index.about import info
    from patchword.index.building import build
    from patchword.index.captions import add_captions
    from patchword.index.changing_backend import change_backend
    from patchword.index.compacting import compact
    from patchword.index.exporting import export
    from patchword.index.removing import remove
    from patchword.index.syncing import add, sync
    from patchword.index.verifying import verify
    from patchword.retrieve.engine import Index
    from patchword.retrieve.query import Part, Query
    from patchword.store.catalog import CaptionItem, Catalog, Item, generation
    from patchword.store.snapshot import Snapshot, open_snapshot

_HOME = {
    "build": "index.building",
    "add": "index.syncing",
    "sync": "index.syncing",
    "remove": "index.removing",
    "compact": "index.compacting",
    "verify": "index.verifying",
    "info": "index.about",
    "export": "index.exporting",
    "add_captions": "index.captions",
    "change_backend": "index.changing_backend",
    "Catalog": "store.catalog",
    "Item": "store.catalog",
    "CaptionItem": "store.catalog",
    "generation": "store.catalog",
    "Snapshot": "store.snapshot",
    "open_snapshot": "store.snapshot",
    "Index": "retrieve.engine",
    "Part": "retrieve.query",
    "Query": "retrieve.query",
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
        return getattr(import_module(f"patchword.{_HOME[name]}"), name)
    raise AttributeError(f"module 'patchword.index' has no attribute {name!r}; it has {', '.join(__all__)}")
