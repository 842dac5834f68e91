"""Training: one loop for all methods. ``patchword.train(...)`` is ``patchword.train.run.train``."""

from patchword.callable_package import make_callable

make_callable(__name__, "patchword.train.run:train")
