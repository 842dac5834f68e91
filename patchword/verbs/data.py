"""Verbs that make and check data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from patchword.verbs.output import say, say_json


def scenes(folder: Positional[Path], train: int = 2000, dev: int = 250, test: int = 500, seed: int = 0) -> int:
    """Write the generated scenes data set in the layouts of real data.

    Args:
        folder: where to.
        train: training images.
        dev: development images.
        test: test images.
        seed: of everything drawn.
    """
    from patchword.data.scenes import write_scenes

    write_scenes(folder, train=train, dev=dev, test=test, seed=seed)
    say(f"wrote {train + dev + test:,} scenes to '{folder}'. Next: patchword train chan_scenes --data.root {folder}")
    return 0


def doctor(
    what: Positional[Literal["data", "recipe"]], path: Positional[Path], name: str | None = None, json: bool = False
) -> int:
    """Check a data folder or a recipe file.

    Args:
        what: ``data`` or ``recipe``.
        path: the folder or file.
        name: known data set to compare with: f30k, coco, flickr8k.
        json: print JSON.
    """
    if what == "data":
        from patchword.data.doctor import check_data

        report = check_data(path, name=name)
        say(report.to_json() if json else "\n".join(report.lines()))
        return 0 if report.usable else 2
    from patchword.recipe import load_recipe, to_yaml

    recipe = load_recipe(path)
    if json:
        say_json(recipe.dump())
    else:
        say(f"'{path}' is a valid recipe of {recipe.method}. With all defaults:\n\n{to_yaml(recipe.dump())}")
    return 0
