"""The weights that a run starts from: pretrained towers and word vectors, or a whole checkpoint that is trained on."""

from __future__ import annotations

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
    """Pretrained towers and word vectors, where the configuration names local files."""
    config: Any = method.config
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


def open_start(recipe: Recipe) -> Model:
    """The checkpoint that ``train.start_from`` names.

    Raises:
        CheckpointError: it is missing, damaged, or of another method.
        ConfigError: the recipe names a vocabulary of its own.
    """
    assert recipe.train.start_from is not None
    if recipe.data.vocabulary is not None:
        raise ConfigError(
            f"`data.vocabulary` is '{recipe.data.vocabulary}', and `train.start_from` brings the vocabulary of "
            f"'{recipe.train.start_from}'. Leave one of them out."
        )
    return load(recipe.train.start_from, method=recipe.method)


def continued(tower: Config, start: Model, name: str) -> Any:
    """The configuration of a tower of the recipe, with the sizes that only the checkpoint knows.

    Args:
        tower: of the recipe.
        start: the checkpoint.
        name: ``image`` or ``text``.

    Raises:
        ConfigError: the checkpoint has another kind of tower.
    """
    theirs: Config = getattr(start.method.config, name)
    if type(theirs) is not type(tower):
        raise ConfigError(
            f"`model.{name}.kind` is {getattr(tower, 'kind', None)!r}, and the checkpoint of `train.start_from` has "
            f"{getattr(theirs, 'kind', None)!r}. Use the recipe that '{start.path}' was trained with."
        )
    known = type(tower).model_fields
    found = {key: getattr(theirs, key) for key in _FROM_CHECKPOINT if key in known}
    return tower.model_copy(update={**found, **{key: None for key in _FILES if key in known}})


def copy_weights(method: Method, start: Model) -> None:
    """Give a method the weights of a checkpoint; what only training needs (queues, key encoders) starts anew.

    Raises:
        ConfigError: their tensors differ in names or shapes.
    """
    wanted, found = inference_state(method), inference_state(start.method)
    for key in sorted(set(wanted) | set(found)):
        sizes = [tuple(state[key].shape) if key in state else "nothing" for state in (wanted, found)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"`train.start_from`: tensor `{key}` is {sizes[0]} by the recipe and {sizes[1]} in '{start.path}'. "
                "Use the settings under `model` that it was trained with (its config.json)."
            )
    method.load_state_dict(found, strict=False)  # the rest is not in a checkpoint
