"""The weights that a run starts from: pretrained towers and word vectors, or a whole checkpoint that is trained on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from patchword.checkpoint import inference_state
from patchword.config import Config
from patchword.data.tokenizers import Tokenizer, WordTokenizer
from patchword.data.word_vectors import read_vectors
from patchword.encoders.bert import Bert
from patchword.encoders.bigru import Bigru, set_embedding_rows
from patchword.encoders.patches import TransformerPatches
from patchword.encoders.resnet import ResnetConfig
from patchword.errors import ConfigError
from patchword.loading import load
from patchword.methods.base import Method
from patchword.model import Model
from patchword.recipe import Recipe

_FROM_CHECKPOINT = ("arch", "vocab_size")  # sizes of a tower that a recipe does not say, but finds
_FILES = ("pretrained", "vectors", "weights")  # of a tower: replaced by the checkpoint's weights


def load_starting_weights(method: Method, tokenizer: Tokenizer) -> None:
    """Pretrained towers and word vectors, where the configuration names local files.

    Raises:
        ConfigError: the method lacks the names under which its towers are found.
    """
    config: Any = method.config
    require_towers(method)
    text, patches = method.text, method.image.patches  # type: ignore[union-attr]
    if isinstance(text, Bert) and config.text.pretrained is not None:
        text.load_pretrained(config.text.pretrained)
    if isinstance(text, Bigru) and config.text.vectors is not None and isinstance(tokenizer, WordTokenizer):
        rows: dict[int, Tensor] = read_vectors(config.text.vectors, tokenizer.vocabulary.words, config.text.word_dim)
        set_embedding_rows(text.embed, rows)
    if isinstance(patches, TransformerPatches) and config.image.pretrained is not None:
        patches.load_pretrained(config.image.pretrained)
    if isinstance(config.image, ResnetConfig) and config.image.weights is not None:
        patches.backbone.load_weights(config.image.weights)  # type: ignore[union-attr, operator]


def require_towers(method: Method) -> None:
    """Refuse a method whose towers are not where weights and vocabularies are put.

    Raises:
        ConfigError: naming what is missing and the line that makes it.
    """
    for tower, name, make in (
        (method, "text", "self.text = build_text(config.text, width)"),
        (method, "image", "self.image = a module with `patches`"),
        (getattr(method, "image", None), "patches", "self.patches = build_patches(config.image), in its image tower"),
    ):
        if not hasattr(tower, name):
            where = "" if tower is method else "image."
            raise ConfigError(
                f"{type(method).__name__} (method {method.name}) has no `self.{where}{name}`, where its tower is "
                f"looked for. Add to its __init__: {make}."
            )


def open_start(recipe: Recipe) -> Model:
    """The checkpoint that ``train.start_from`` names.

    Raises:
        CheckpointError: it is missing, damaged, or of another method.
        ConfigError: the recipe names a vocabulary of its own, or towers of another kind.
    """
    assert recipe.train.start_from is not None
    if recipe.data.vocabulary is not None:
        raise ConfigError(
            f"`data.vocabulary` is '{recipe.data.vocabulary}', and `train.start_from` brings the vocabulary of "
            f"'{recipe.train.start_from}'. Leave one of them out."
        )
    start = load(recipe.train.start_from, method=recipe.method)
    if any(type(getattr(start.method.config, name)) is not type(getattr(recipe.model, name)) for name in TOWERS):
        raise other_settings(recipe.model, start)
    return start


TOWERS = ("image", "text")


def other_settings(config: Any, start: Model, odd: Sequence[str] = ()) -> ConfigError:
    """The error for a checkpoint whose tensors are not those of a recipe: every setting of ``model`` that differs.

    Args:
        config: ``model`` of the recipe.
        start: the checkpoint.
        odd: tensors that differ; the first is named where all settings are equal.
    """
    ours, theirs = (dict(_flat(one)) for one in (config, start.method.config))
    differ = [key for key in theirs if ours.get(key, _ABSENT) != theirs[key]]
    if not differ:
        return ConfigError(
            f"`train.start_from`: {len(odd)} tensors of '{start.path}' are not those of {start.method.name}, the first "
            f"is `{odd[0]}`, with the same settings under `model`. Was the method changed since?"
        )
    shown = ", ".join(f"{key} {_shown(theirs[key])} (recipe: {_shown(ours.get(key))})" for key in differ)
    options = " ".join(f"--{key} {shlex.quote(_shown(theirs[key]))}" for key in differ)
    return ConfigError(
        f"`train.start_from`: the model in '{start.path}' has other settings than the recipe: {shown}. "
        f"To train on from it, add: {options}"
    )


_ABSENT = object()


def _flat(config: Config, at: str = "model.") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a configuration, without what a checkpoint or a recipe alone knows."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from _flat(value, f"{at}{name}.")
        elif name not in (*_FROM_CHECKPOINT, *_FILES):
            yield f"{at}{name}", value


def _shown(value: Any) -> str:
    """A value as a dotted option takes it; what a recipe does not have is null as well."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def continued(tower: Config, start: Model, name: str) -> Any:
    """The configuration of a tower of the recipe, with the sizes that only the checkpoint knows.

    Args:
        tower: of the recipe.
        start: the checkpoint.
        name: ``image`` or ``text``; both have a tower of the same kind there (``open_start``).
    """
    theirs: Config = getattr(start.method.config, name)
    known = type(tower).model_fields
    found = {key: getattr(theirs, key) for key in _FROM_CHECKPOINT if key in known}
    return tower.model_copy(update={**found, **{key: None for key in _FILES if key in known}})


def copy_weights(method: Method, start: Model) -> None:
    """Give a method the weights of a checkpoint; what only training needs (queues, key encoders) starts anew.

    Raises:
        ConfigError: their tensors differ in names or shapes.
    """
    wanted, found = inference_state(method), inference_state(start.method)
    odd = sorted(key for key in {*wanted, *found} if _shape(wanted, key) != _shape(found, key))
    if odd:
        raise other_settings(method.config, start, odd)
    method.load_state_dict(found, strict=False)  # the rest is not in a checkpoint


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
