"""Why a picture and a sentence match. ``patchword.explain(...)`` is ``patchword.explain.run.explain``."""

from patchword.callable_package import make_callable

make_callable(__name__, "patchword.explain.run:explain")
