from typing import Any

import pytest

from patchword.config import merge
from patchword.errors import ConfigError
from patchword.methods import METHODS
from patchword.recipe import make_recipe
from patchword.recipe_keys import AUTHORS, keys_of


def said_of(method: str, dotted: str) -> str:
    """What a recipe is told whose only mistake is this key."""
    values: Any = {"method": method}
    for key in reversed(dotted.split(".")):
        values = {key: values if key != dotted.rpartition(".")[2] else 1}
    kinds = {"model": {"text": {"kind": "bert"}}} if dotted.startswith("model.text.") else {}
    with pytest.raises(ConfigError) as error:
        make_recipe(merge({"method": method, **kinds}, values))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"recipe: unknown key `{dotted}`. ")
    return text.removeprefix(f"recipe: unknown key `{dotted}`. ")


@pytest.mark.parametrize(
    ("method", "key", "said"),
    [
        ("chan", "train.lerning_rate", "Did you mean `train.lr` (called learning_rate in the authors' code)?"),
        ("chan", "train.max_violation", "Did you mean `loss.negatives_after` (called max_violation in the authors'"),
        ("chan", "train.vse_mean_warmup_epochs", "Did you mean `loss.warmup_epochs` (called vse_mean_warmup_epochs"),
        ("chan", "train.lr_update", "Did you mean `train.lr_steps` (called lr_update"),
        ("chan", "model.belta", "Did you mean `model.pooling_temperature` (called belta"),
        ("hrem", "train.max_violation", "Did you mean `loss.warmup_epochs` (called max_violation"),
        ("chan", "max_violaton", "Did you mean `loss.negatives_after` (called max_violation"),
        ("chan", "model.word_dim", "Did you mean `model.text.word_dim` of `model.text.kind: bigru`?"),
        ("chan", "model.text.word_dim", "It is a setting of `model.text.kind: bigru`."),
        ("chan", "model.no_imgnorm", "Did you mean `model.unit_patches` (called no_imgnorm"),
        ("hrem", "model.no_imgnorm", "Did you mean `model.unit_images` (called no_imgnorm"),
        ("cefg", "model.no_txtnorm", "Did you mean `model.unit_words` (called no_txtnorm"),
        ("vse_inf", "model.coding", "`model.coding` is a setting of chan, not of vse_inf."),
        ("vse_inf", "model.coding_type", "`model.coding` (called coding_type in the authors' code) is a setting of"),
        ("vse_inf", "train.swav_weight", "`loss.swav_weight` is a setting of aahr, not of vse_inf."),
        ("vse_inf", "model.swav_wieght", "Did you mean `loss.swav_weight`? It is a setting of aahr."),
        ("chan", "lr", "Did you mean `train.lr`?"),
        ("chan", "model.kind", "Did you mean `model.image.kind` or `model.text.kind` or `loss.kind`?"),
        ("chan", "loss.batch_sise", "Did you mean `train.batch_size`?"),
        ("chan", "data.zzz", "Known: captions_per_image, columns, dev,"),
    ],
)
def test_the_full_key_that_was_meant_is_named(method: str, key: str, said: str) -> None:
    assert said_of(method, key).startswith(said)


def test_a_recipe_without_a_method_gets_hints_too() -> None:
    with pytest.raises(ConfigError, match=r"unknown key `embed_size`\. Did you mean `model\.joint_dim`"):
        make_recipe({"embed_size": 3})


def test_every_name_of_the_authors_stands_for_a_key_that_exists() -> None:
    known = {key for method in METHODS for key in keys_of(method)}
    assert {key for keys in AUTHORS.values() for key in keys} <= known
    assert not {key.rpartition(".")[2] for key in known} & set(AUTHORS)
