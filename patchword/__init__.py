"""patchword: fine-grained image-text matching.

The public names; each is imported on first use:

* ``Index``: a folder of pictures that answers queries, opened by ``Index.open``.
* ``Model``: a method with its tokeniser, which encodes, scores, searches and is saved.
* ``__version__``: of this package.
* ``evaluate(run, data)``: recalls of a model, or of several together, on a split.
* ``explain(run, image, caption)``: which words and patches make the score of a pair.
* ``export(model, out)``: the two encoders as ONNX.
* ``index``: the module that builds and changes an index on disk.
* ``load(path)``: a ``Model`` from a run, a checkpoint, or a CLIP or SigLIP of transformers.
* ``open_split(root, split)``: one split of a data folder.
* ``search``: the module that searches a split by scoring all of it.
* ``train(recipe, out)``: train a recipe, or go on with its run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from patchword import index, search
    from patchword.data.open import open_split
    from patchword.evaluate.run import evaluate
    from patchword.explain.run import explain
    from patchword.export.run import export
    from patchword.loading import load
    from patchword.model import Model
    from patchword.retrieve.engine import Index
    from patchword.train.run import train

_HOME = {
    "load": "patchword.loading",
    "Index": "patchword.retrieve.engine",
    "Model": "patchword.model",
    "open_split": "patchword.data.open",
}
_MODULES = ("evaluate", "explain", "export", "train", "index", "search")  # the first four can be called
__all__ = [
    "Index",
    "Model",
    "__version__",
    "evaluate",
    "explain",
    "export",
    "index",
    "load",
    "open_split",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"patchword.{name}")
    raise AttributeError(f"module 'patchword' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
