"""patchword: fine-grained image-text matching. The public names, imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from patchword.data.open import open_split
    from patchword.evaluate.run import evaluate
    from patchword.explain.run import explain
    from patchword.export.run import export
    from patchword.index.engine import Index
    from patchword.loading import load
    from patchword.model import Model
    from patchword.train.run import train

_HOME = {
    "load": "patchword.loading",
    "Index": "patchword.index.engine",
    "Model": "patchword.model",
    "open_split": "patchword.data.open",
}
_PACKAGES = ("evaluate", "explain", "export", "train")  # folders that can be called
__all__ = ["Index", "Model", "__version__", "evaluate", "explain", "export", "load", "open_split", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return import_module(f"patchword.{name}")
    raise AttributeError(f"module 'patchword' has no attribute {name!r}; it has {', '.join(__all__)}")
