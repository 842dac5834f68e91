"""Evaluation: honest ranks, named protocols. ``patchword.evaluate(...)`` is ``patchword.evaluate.run.evaluate``."""

from patchword.callable_package import make_callable

make_callable(__name__, "patchword.evaluate.run:evaluate")
