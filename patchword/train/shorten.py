"""A shorter run of the same recipe: fewer epochs or fewer images, with the schedule cut in the same proportion."""

from __future__ import annotations

from typing import Any

from patchword.recipe import Recipe

IN_EPOCHS = {"train": ("lr_steps",), "loss": ("warmup_epochs", "anneal_epochs")}


def shortened(recipe: Recipe, *, epochs: int | None = None, share: float = 1.0) -> dict[str, Any]:
    """Overrides that make a run of another length of a recipe.

    What is counted in epochs (learning-rate steps, the hinge's start) keeps its place in the run, at least one epoch
    when it had any. What is counted in optimiser steps (``train.warmup_steps``, ``loss.*_from_step``) shrinks with the
    number of steps of the run. Without this, a recipe cut from twelve epochs to four would never lower its learning
    rate and never reach the losses that start late.

    Args:
        recipe: the whole recipe.
        epochs: of the run; None keeps the recipe's.
        share: of the training images that the run sees.

    Example:
        >>> from patchword.recipe import make_recipe
        >>> recipe = make_recipe({"method": "chan", "train": {"epochs": 12, "lr_steps": [9], "warmup_steps": 300}})
        >>> shortened(recipe, epochs=4, share=0.5)["train"]
        {'epochs': 4, 'lr_steps': [3], 'warmup_steps': 50}
    """
    whole, length = recipe.train.epochs, epochs or recipe.train.epochs
    values: dict[str, dict[str, Any]] = {"train": recipe.train.model_dump(), "loss": recipe.loss.model_dump()}
    found: dict[str, dict[str, Any]] = {"train": {"epochs": length}, "loss": {}}
    for section, keys in IN_EPOCHS.items():
        for key in values[section].keys() & set(keys):
            value = values[section][key]
            found[section][key] = (
                [_part(one, length / whole) for one in value] if key == "lr_steps" else _part(value, length / whole)
            )
    in_steps = [("train", "warmup_steps"), *(("loss", key) for key in values["loss"] if key.endswith("_from_step"))]
    for section, key in in_steps:
        found[section][key] = _part(values[section][key], share * length / whole)
    return found


def _part(value: int, factor: float) -> int:
    """A share of a count, rounded; at least 1 of what was something."""
    return max(1, round(value * factor)) if value else 0
