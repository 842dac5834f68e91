"""From a folder, or a name on the hub, to a model: every kind of checkpoint comes in through ``load``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from patchword.checkpoint import FORMAT, find_checkpoint, load_weights, read_config
from patchword.config import Source
from patchword.data.tokenizers import Tokenizer, load_tokenizer
from patchword.errors import CheckpointError
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.methods.clip import Interaction
from patchword.model import Model, build_method, word_rows
from patchword.precision import forbid_tf32
from patchword.zero_shot import is_zero_shot, load_zero_shot, with_interaction


def load(
    path: Path | str, *, method: str | None = None, device: str = "cpu", interaction: Interaction | None = None
) -> Model:
    """Load a checkpoint, the best checkpoint of a run, or a CLIP, SigLIP or SigLIP 2 of transformers.

    Args:
        path: a run folder, a checkpoint folder, a folder of transformers, or a name on the hub
            (``openai/clip-vit-base-patch32``), which is asked only when nothing local has the name.
        method: refuse a checkpoint of any other method.
        device: where the weights go; ``auto`` is CUDA when torch finds it, else the CPU.
        interaction: of a CLIP-like model: ``global`` (one vector per item, the default) or ``patches``.

    Raises:
        CheckpointError: it is missing, truncated, of another method or of a newer format.
        ConfigError: ``interaction`` was given for a method that has none.

    Example:
        ``model = patchword.load("runs/demo")``
    """
    forbid_tf32()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_zero_shot(path):
        if method not in (None, "clip"):
            raise CheckpointError(f"'{path}' is a checkpoint of 'clip'. Expected one of {method!r}.")
        return load_zero_shot(path, interaction=interaction or "global", device=device)
    folder = find_checkpoint(Path(path))
    about = read_config(folder / "config.json")
    name = about["method"]
    if about["format"] != FORMAT:
        raise CheckpointError(
            f"'{folder}' has checkpoint format {about['format']}. This version reads format {FORMAT}."
        )
    if method is not None and name != method:
        raise CheckpointError(f"'{folder}' is a checkpoint of {name!r}. Expected one of {method!r}.")
    is_whole = not method_class(name).training_only  # what only training needs is not in the file: it starts anew
    with without_random_weights() if is_whole else nullcontext():
        made = build_method(name, about["model"], about["loss"], Source(str(folder / "config.json"), {}))
    load_weights(made, folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer is None and about["vocabulary"] is not None:
        raise CheckpointError(
            f"'{folder}' lacks the vocabulary that its config.json names. "
            "Expected vocabulary.json, vocab.txt or tokenizer.json."
        )
    check_vocabulary(made, tokenizer, folder)
    model = Model(made.to(device).eval(), tokenizer, about["about"], folder, about["max_words"])
    return with_interaction(model, interaction)


def check_vocabulary(method: Method, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Refuse a vocabulary whose size differs from the rows of the word table."""
    rows = word_rows(method)
    if tokenizer is not None and rows is not None and tokenizer.size != rows:
        raise CheckpointError(
            f"'{folder}': the vocabulary has {tokenizer.size:,} words, the weights have {rows:,} word rows. "
            "Use the vocabulary the model was trained with."
        )


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Give weights the mean of what would be drawn: they are about to be loaded, and drawing took most of the time."""
    with _Means():
        yield


# Functions that draw a parameter, and the numbers that they draw between or around, by their names in `nn.init` and in
# `Tensor`. Known by name: transformers puts functions of its own in the place of those of `nn.init`.
_DRAWS = {
    "uniform_": (("a", "from", 0.0), ("b", "to", 1.0)),
    "normal_": (("mean", "mean", 0.0),),
    "kaiming_uniform_": (),
}


class _Means(TorchFunctionMode):
    """Draws for parameters give the mean. Others are drawn: torch draws again what lies outside of bounds.

    A mode for functions and not for dispatched operations, which would import torch's compiler (more than a second).
    """

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        weight = args[0] if args else given.get("tensor")
        names = _DRAWS.get(getattr(function, "__name__", ""))
        if names is None or not isinstance(weight, nn.Parameter):
            return function(*args, **given)
        usual = [given.get(name, given.get(other, value)) for name, other, value in names]
        values = [*args[1 : len(usual) + 1], *usual[max(len(args) - 1, 0) :]]
        with torch.no_grad():
            return weight.fill_(sum(values) / max(len(values), 1))
