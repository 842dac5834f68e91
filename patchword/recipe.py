"""A recipe: one published (or own) result, as a file that holds only what differs from the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml

from patchword.config import (
    Config,
    DataConfig,
    Source,
    TrainConfig,
    merge,
    parse_overrides,
    read_yaml,
    validate,
)
from patchword.config_keys import models_in, suggestion
from patchword.errors import ConfigError
from patchword.methods import METHODS, method_class
from patchword.recipe_keys import hint_for

SECTIONS = ("method", "data", "model", "loss", "train")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        method: name in the table of methods.
        data, train: how pairs are read and the method trained.
        model, loss: configuration of the method and of its loss.
        source: file name, for messages.
    """

    method: str
    data: DataConfig
    model: Config
    loss: Config
    train: TrainConfig
    source: str = "recipe"

    def dump(self) -> dict[str, Any]:
        """Plain values of the whole recipe, defaults included."""
        return {
            "method": self.method,
            **{key: getattr(self, key).model_dump(mode="json") for key in ("data", "model", "loss", "train")},
        }


def recipe_folders() -> list[Path]:
    """Where recipes are looked up by name: ``./recipes``, then those of the installed package."""
    packaged = Path(str(resources.files("patchword"))) / "recipes"
    beside = Path(str(resources.files("patchword"))).parent / "recipes"
    return [folder for folder in (Path("recipes"), packaged, beside) if folder.is_dir()]


def find_recipe(name: str | Path) -> Path:
    """A recipe file by path or by name (``chan_scenes``).

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    path = Path(name)
    if path.is_file():
        return path
    known: list[str] = []
    for folder in recipe_folders():
        for candidate in (folder / path.name, folder / f"{path.name}.yaml"):
            if path.parent == Path() and candidate.is_file():
                return candidate
        known += [p.stem for p in folder.glob("*.yaml")]
    raise ConfigError(f"recipe '{name}' does not exist.{_nearest(path.stem, sorted(set(known)))}")


def _nearest(name: str, known: Sequence[str]) -> str:
    """The recipe that was meant; else those of its method, else the methods: there are too many to name them all."""
    method = name.partition("_")[0]
    of_method = [one for one in known if one.partition("_")[0] == method]
    found = suggestion(name, of_method or known)
    if of_method or "Did you mean" in found:
        return found
    methods = dict.fromkeys(one.partition("_")[0] for one in known)
    return f" The {len(known)} known ones begin with {', '.join(methods)}; an example is chan_scenes."


def load_recipe(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe, put overrides on top, and check every key.

    Args:
        name: path or name of the recipe.
        overrides: ``["--train.lr", "1e-4"]`` or ``{"train": {"lr": 1e-4}}``.

    Raises:
        ConfigError: with file, line and the nearest key.
    """
    path = find_recipe(name)
    values, source = read_yaml(path)
    over = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return make_recipe(merge(_without_old_kinds(values, over), over), source.with_overrides(over))


def _without_old_kinds(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe without what only a part had that the overrides replace by one of another kind."""
    model, new = values.get("model"), over.get("model")
    method = str(over.get("method", values.get("method")))
    if not isinstance(model, Mapping) or not isinstance(new, Mapping) or method not in METHODS:
        return dict(values)
    cls: Any = method_class(method)
    return {**values, "model": without_old_kind(cls.Config, model, new)}


def without_old_kind(model: type[Config], values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of a configuration, without the keys that a new ``kind`` in ``over`` has no use for.

    A part of another kind has other keys: those of the old one go, those that both have stay.

    Args:
        model: the configuration, of which some parts have a ``kind``.
        values: what is written so far.
        over: what is put on top of it.
    """
    result = dict(values)
    for key, new in over.items():
        old = result.get(key)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping) or key not in model.model_fields:
            continue
        info = model.model_fields[key]
        known = {
            kind: one
            for one in models_in(info.annotation)
            if "kind" in one.model_fields
            for kind in get_args(one.model_fields["kind"].annotation)
        }
        wanted = new.get("kind")
        if wanted in known and wanted != old.get("kind", getattr(info.default, "kind", None)):
            result[key] = {k: v for k, v in old.items() if k in known[wanted].model_fields}
    return result


def make_recipe(values: Mapping[str, Any], source: Source | None = None) -> Recipe:
    """Check plain values and build a recipe of them."""
    source = source if source is not None else Source("recipe", {})
    unknown = [key for key in values if key not in SECTIONS]
    if unknown:
        said = hint_for(str(values.get("method")), [unknown[0]], SECTIONS)
        raise ConfigError(f"{source.place([unknown[0]])}: unknown key `{unknown[0]}`.{said}")
    if "method" not in values:
        raise ConfigError(f"{source.name}: key `method` is missing. Methods: {', '.join(METHODS)}.")
    method = str(values["method"])
    if method not in METHODS:
        raise ConfigError(f"{source.place(['method'])}: unknown method {method!r}.{suggestion(method, list(METHODS))}")
    for key in SECTIONS[1:]:
        if not isinstance(values.get(key) or {}, Mapping):
            raise ConfigError(f"{source.place([key])}: `{key}` is {values[key]!r}. Expected a mapping of options.")
    cls: Any = method_class(method)
    default_loss, hint = cls.default_loss().model_dump(), partial(hint_for, method)
    model = with_tower_defaults(cls.Config, values.get("model") or {})
    return Recipe(
        method,
        validate(DataConfig, values.get("data") or {}, source, ("data",), hint),
        validate(cls.Config, model, source, ("model",), hint),
        validate(cls.Loss, {**default_loss, **(values.get("loss") or {})}, source, ("loss",), hint),
        validate(TrainConfig, values.get("train") or {}, source, ("train",), hint),
        source.name,
    )


def with_tower_defaults(config: type[Config], model: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a tower on top of the method's own tower, when they are of the same kind or name none."""
    filled = dict(model)
    for tower in ("image", "text"):
        given, default = filled.get(tower), config.model_fields[tower].default if tower in config.model_fields else None
        if isinstance(given, Mapping) and isinstance(default, Config):
            kind = default.model_dump()["kind"]
            if given.get("kind", kind) == kind:
                filled[tower] = merge({**default.model_dump(exclude_unset=True), "kind": kind}, given)
    return filled


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in the order given."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
