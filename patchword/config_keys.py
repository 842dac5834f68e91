"""Which keys a configuration knows, and which of them a misspelt one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


def is_tag(part: str | int, model: type[BaseModel]) -> bool:
    """Whether a part of an error's path is the tag of a union (``regions``, ``bigru``), not a key."""
    return isinstance(part, str) and part in _tags(model)


def _tags(model: type[BaseModel]) -> set[str]:
    found: set[str] = set()
    for info in model.model_fields.values():
        for inner in models_in(info.annotation):
            kind = inner.model_fields.get("kind")
            if kind is not None and get_origin(kind.annotation) is Literal:
                found.update(get_args(kind.annotation))
            found |= _tags(inner)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in models_in(inner)]


def keys_near(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Keys that exist beside the unknown last part of ``path``."""
    models: list[type[BaseModel]] = [model]
    for part in path[:-1]:
        deeper = [
            m for one in models if part in one.model_fields for m in models_in(one.model_fields[str(part)].annotation)
        ]
        if deeper:
            models = deeper
        else:
            tagged = [
                m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
            ]
            models = tagged or models
    return sorted({key for one in models for key in one.model_fields})


def suggestion(key: str, known: Sequence[str]) -> str:
    """' Did you mean ...?' with the nearest known key, or the list of keys, or nothing."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean `{near[0]}`?"
    return f" Known: {', '.join(known)}." if known else ""
