"""Typed recipes: frozen pydantic models, YAML with line numbers in every error, dotted overrides.

A recipe holds only what differs from the defaults, and the defaults are the published settings. Nothing is ever
silently ignored: an unknown key is refused with its file, line and the nearest key that exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from patchword.config_keys import is_tag, keys_near, suggestion
from patchword.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, typed, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_truth(cls, values: Any) -> Any:
        """``yes`` is no number, although pydantic would read it as 1."""
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, bool) and key in cls.model_fields and cls.model_fields[key].annotation is not bool:
                raise ValueError(f"`{key}` is not something that can be true or false")
        return values


class DataConfig(Config):
    """Where the pairs are and how they are read.

    Attributes:
        root: the data folder; no default, because no path exists on every machine.
        name: data set name (``f30k``, ``coco``, ``flickr8k``, ``scenes``); None takes the folder's name.
        images: ``features``, ``pictures``, or ``auto`` (features when there are any).
        train, dev, test: names of the splits.
        columns: rows of a table whose columns have other names: ours (``image``, ``caption``, ``id``, ``split``) to
            the file's.
        limit_dev: use only the first images of dev (1,000 reproduces the authors' validation curves on Flickr30K).
        limit_train: use only the first images of train, for trials.
        captions_per_image: keep the first k captions of each image; None keeps all.
        vocabulary: path of a SCAN vocabulary JSON; None builds one from train + dev (BiGRU only).
        min_word_count: words seen less often become unknown when a vocabulary is built (4 in SCAN).
        max_words: cut captions to this many words (BERT: words, each with all its pieces); None never cuts.
        region_drop: training: probability of dropping a region (size augmentation of images); 0 is off.
        word_drop: training: probability of masking, replacing or deleting a word; 0 is off.
        skip_broken: leave out pictures that do not decode, listing them, instead of stopping.
        workers: processes that load batches; 0 loads in the training process (fastest for feature files).
    """

    root: Path | None = None
    name: str | None = None
    images: Literal["auto", "features", "pictures"] = "auto"
    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    columns: dict[str, str] = Field(default_factory=dict)
    limit_dev: int | None = Field(None, gt=0)
    limit_train: int | None = Field(None, gt=0)
    captions_per_image: int | None = Field(None, gt=0)
    vocabulary: Path | None = None
    min_word_count: int = Field(4, ge=1)
    max_words: int | None = Field(None, gt=0)
    region_drop: float = Field(0.2, ge=0, lt=1)
    word_drop: float = Field(0.2, ge=0, lt=1)
    skip_broken: bool = False
    workers: int = Field(0, ge=0)


class TrainConfig(Config):
    """How a method is trained.

    Attributes:
        epochs, seed: as they say.
        start_from: run or checkpoint of the same method whose weights and vocabulary are trained on, in place of fresh
            or pretrained ones.
        batch_size: pairs in one loss, over all processes.
        micro_batch: pairs encoded at a time; smaller than the batch saves memory and gives the same loss and gradients
            (the score matrix is always that of the whole batch). None encodes the whole batch at once.
        lr: base learning rate of AdamW.
        lr_factors: factor for parameter groups, 1 where nothing is said: ``text``, ``text_backbone``, ``image``,
            ``image_backbone``, and ``matching``, what belongs to neither tower (the similarity of CEFG and ESL, the
            condensers of SCTA and LAPS, the graphs over a batch of HREM and AAHR).
        lr_steps: epochs at whose start all rates are multiplied by ``lr_gamma``.
        warmup_steps: optimiser steps of linear learning-rate warm-up (0 in all published recipes).
        weight_decay: of AdamW, on all parameters.
        clip_norm: global gradient norm is cut to this; None is off.
        drop_last: leave out the last incomplete batch of an epoch.
        precision: ``float32``, or ``bf16`` for autocast around the encoders only.
        freeze_backbone: epochs -> number of frozen backbone stages (``{0: 4, 1: 0}``: all frozen in epoch 0).
        select_on: ``dev``; ``test`` exists only to reproduce papers that did so; ``none`` keeps the last epoch.
        patience: stop after this many epochs without a better dev rsum; None never stops early.
        save_every_steps: also save ``last/`` every so many steps; None saves at the end of every epoch.
        on_collapse: ``stop`` with advice, or ``warn``.
        eval_batch: images or captions encoded at a time in evaluation.
    """

    epochs: int = Field(25, gt=0)
    seed: int = Field(2022, ge=0)
    start_from: Path | None = None
    batch_size: int = Field(128, gt=1)
    micro_batch: int | None = Field(None, gt=0)
    lr: float = Field(5e-4, gt=0)
    lr_factors: dict[str, float] = Field(default_factory=dict)
    lr_steps: tuple[int, ...] = (15,)
    lr_gamma: float = Field(0.1, gt=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float | None = Field(2.0, gt=0)
    drop_last: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    freeze_backbone: dict[int, int] = Field(default_factory=dict)
    select_on: Literal["dev", "test", "none"] = "dev"
    patience: int | None = Field(None, gt=0)
    save_every_steps: int | None = Field(None, gt=0)
    on_collapse: Literal["stop", "warn"] = "stop"
    eval_batch: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _patience_has_a_measure(self) -> TrainConfig:
        if self.patience is not None and self.select_on == "none":
            raise ValueError(
                f"patience {self.patience} counts epochs without a better rsum, but with select_on none no epoch is "
                "evaluated; leave out patience, or set select_on to dev"
            )
        return self


C = TypeVar("C", bound=Config)


class Source:
    """Where each key of a configuration was written, for error messages."""

    def __init__(
        self,
        name: str,
        lines: Mapping[tuple[str | int, ...], int],
        options: Collection[tuple[str | int, ...]] = (),
    ) -> None:
        self.name, self.lines, self.options = name, lines, options

    def with_overrides(self, values: Mapping[str, Any]) -> Source:
        """The same source with some keys given as options on top of it."""
        return Source(self.name, self.lines, [*self.options, *_leaves(values)])

    def place(self, path: Sequence[str | int]) -> str:
        """``file:line`` of a key, or of its nearest enclosing key; ``option --a.b`` of a key that was given as one."""
        keys = tuple(path)
        for option in self.options:
            is_above = option[: len(keys)] == keys and keys not in self.lines
            if keys[: len(option)] == option or is_above:
                return f"option --{'.'.join(map(str, option))}"
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.name}:{self.lines[keys]}" if keys in self.lines else self.name

    def place_named(self, text: str, section: Sequence[str | int]) -> str:
        """Place of the first key of a section that a text names, one that was given as an option before all others."""
        named = [(*section, word) for word in re.findall(r"\w+", text)]
        written = [keys for keys in named if keys in self.options] + [keys for keys in named if keys in self.lines]
        return self.place(written[0] if written else section)


def _leaves(values: Mapping[str, Any], at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all values of a nested mapping that are not mappings themselves."""
    paths: list[tuple[str | int, ...]] = []
    for key, value in values.items():
        paths += _leaves(value, (*at, key)) if isinstance(value, Mapping) and value else [(*at, key)]
    return paths


def read_yaml(path: Path) -> tuple[dict[str, Any], Source]:
    """Read a YAML mapping safely, remembering the line of every key.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, repeats a key, or uses a tag.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.stem for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"recipe '{path}' does not exist.{suggestion(path.stem, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe '{path}' can not be read: {error}.") from None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # nine lines of aliases can stand for billions of values
                line = event.start_mark.line + 1 if event.start_mark is not None else 1
                raise ConfigError(f"{path}:{line}: aliases (*{event.anchor}) are not allowed.")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str | int, ...], int] = {}
        value = {} if node is None else _construct(node, (), lines, path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    except RecursionError:
        raise ConfigError(f"{path}: nests its values too deeply to be a recipe.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping such as 'method: chan', found a {type(value).__name__}.")
    return value, Source(str(path), lines)


_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _construct(node: yaml.Node, at: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], path: Path) -> Any:
    """Plain Python value of a YAML node; refuses duplicate keys and anything but plain data."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise ConfigError(f"{path}:{line}: tag '{node.tag}' is not allowed. Recipes hold plain values only.")
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{path}:{key_node.start_mark.line + 1}: a key must be a plain word.")
            key = _scalar(key_node, path)
            here = (*at, key)
            if key in result:
                raise ConfigError(
                    f"{path}:{key_node.start_mark.line + 1}: key `{'.'.join(map(str, here))}` is given twice "
                    f"(first in line {lines[here]}). Remove one."
                )
            lines[here] = key_node.start_mark.line + 1
            result[key] = _construct(value_node, here, lines, path)
        return result
    if isinstance(node, yaml.SequenceNode):
        for k, item in enumerate(node.value):
            lines[(*at, k)] = item.start_mark.line + 1
        return [_construct(item, (*at, k), lines, path) for k, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path)
    raise ConfigError(f"{path}:{line}: unsupported YAML.")


_NO_VALUE = (ValueError, LookupError, AttributeError)  # what PyYAML raises for a date that there is not
_BUT = "looks like a date or a number, but is none. To give a text, write "


def _scalar(node: yaml.ScalarNode, path: Path) -> Any:
    loader, where = yaml.SafeLoader(""), f"{path}:{node.start_mark.line + 1}"
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: tag '{node.tag}' is not allowed. Recipes hold plain values only.") from None
    except _NO_VALUE:
        raise ConfigError(f"{where}: '{node.value}' {_BUT}'{node.value}'.") from None
    finally:
        loader.dispose()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over`` on top, mapping by mapping.

    Example:
        >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
        {'a': {'x': 1, 'y': 3}}
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


_NUMBERS = re.compile(r"[-+.e0-9]+( *, *[-+.e0-9]+)+")  # a list without its brackets, which YAML reads as a text


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Nested mapping of ``--a.b value`` and ``--a.b=value`` arguments; values are read as YAML scalars.

    Example:
        >>> parse_overrides(["--train.lr", "1e-4", "--data.name=coco"])
        {'train': {'lr': '1e-4'}, 'data': {'name': 'coco'}}

    Raises:
        ConfigError: an argument is not of this form, is given twice, is a bare list of numbers, or is no date.
    """
    result: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ConfigError(f"unexpected argument {word!r}. Expected options such as --train.lr 1e-4.")
        name, has_value, value = word[2:].partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"option '--{name}' has no value. Write --{name} VALUE.")
            value = rest.pop(0)
        if _NUMBERS.fullmatch(value):
            raise ConfigError(
                f"option '--{name}' is '{value}'. To give a list, write \"[{', '.join(re.split(' *, *', value))}]\"."
            )
        here = result
        *parents, leaf = name.replace("-", "_").split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
            if not isinstance(here, dict):
                raise ConfigError(f"option '--{name}' contradicts an earlier option on '{parent}'.")
        if leaf in here:
            raise ConfigError(f"option '--{name}' is given twice.")
        try:
            here[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            here[leaf] = value
        except _NO_VALUE:
            raise ConfigError(f"option '--{name}': '{value}' {_BUT}\"'{value}'\".") from None
    return result


Hint = Callable[[Sequence[str | int], Sequence[str]], str]  # of an unknown key and the keys that exist beside it


def validate(
    model: type[C], values: Mapping[str, Any], source: Source, at: tuple[str, ...] = (), hint: Hint | None = None
) -> C:
    """Build a configuration, turning the first problem into one line with its place and the nearest key.

    Args:
        model: the configuration.
        values: its plain values.
        source: where each was written.
        at: where the configuration lies in the recipe.
        hint: says what an unknown key may have meant; by default the nearest of those beside it.

    Raises:
        ConfigError: a key is unknown, missing, or has a value of the wrong kind.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        path = [*at, *(str(p) if not isinstance(p, int) else p for p in problem["loc"])]
        keys = [*(p for p in path[:-1] if not is_tag(p, model)), *path[-1:]]
        place, dotted = source.place(keys), ".".join(map(str, keys))
        if problem["type"] == "extra_forbidden":
            known = keys_near(model, path[len(at) :])
            said = hint(keys, known) if hint is not None else suggestion(str(path[-1]), known)
            raise ConfigError(f"{place}: unknown key `{dotted}`.{said}") from None
        if problem["type"] == "missing":
            raise ConfigError(f"{place}: key `{dotted}` is missing.") from None
        found = problem.get("input")
        if problem["type"] == "value_error" and isinstance(found, Mapping):  # of a validator of the whole section
            said = str(problem["ctx"]["error"])
            raise ConfigError(f"{source.place_named(said, keys)}: `{dotted}`: {said}.") from None
        raise ConfigError(
            f"{place}: `{dotted}` is {found!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}."
        ) from None


__all__ = [
    "Config",
    "DataConfig",
    "Source",
    "TrainConfig",
    "merge",
    "parse_overrides",
    "read_yaml",
    "validate",
]
