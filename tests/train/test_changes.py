"""What a run says about its recipe: where it differs from the published one, and how it is evaluated."""

from __future__ import annotations

from pathlib import Path

from patchword.recipe import load_recipe
from patchword.train.run import _changes
from patchword.verbs.training import _evaluation


def test_changes_of_a_recipe_are_named() -> None:
    own = ["--data.root", "d", "--data.name", "mine", "--train.seed", "5"]
    assert _changes("chan_scenes", load_recipe("chan_scenes", own)) == []
    more = ["--model.joint_dim=64", "--train.lr_steps", "[2, 3]", "--data.max_words", "9", "--model.text.layers=2"]
    assert _changes("chan_scenes", load_recipe("chan_scenes", [*own, *more])) == [
        "data.max_words none -> 9",
        "model.joint_dim 128 -> 64",
        "model.text.layers 1 -> 2",
        "train.lr_steps [] -> [2, 3]",
    ]


def test_a_part_of_another_kind_is_one_change(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("{method: chan, model: {text: {kind: bigru}}}\n", encoding="utf-8")
    changed = _changes(recipe, load_recipe(recipe, {"model": {"text": {"kind": "bert"}}}))
    assert changed == ["model.text.kind bigru -> bert"]


def test_a_recipe_that_needs_its_overrides_has_no_changes(tmp_path: Path) -> None:
    recipe = tmp_path / "draft.yaml"
    recipe.write_text("data: {name: scenes}\n", encoding="utf-8")
    assert _changes(recipe, load_recipe(recipe, {"method": "chan"})) == []


def test_the_command_that_comes_next_names_the_data() -> None:
    recipe = load_recipe("chan_scenes", {"data": {"root": "my data", "test": "testall"}})
    words = ["patchword", "evaluate", "r", "--data", "my data", "--split", "testall", "--name", "scenes"]
    assert _evaluation(recipe, Path("r")) == words
