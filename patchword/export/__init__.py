"""The encoders of a model as ONNX files. ``patchword.export(...)`` is ``patchword.export.run.export``."""

from patchword.callable_package import make_callable

make_callable(__name__, "patchword.export.run:export")
