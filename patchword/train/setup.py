"""From a recipe to the parts of a run: splits, tokeniser, a method with its starting weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patchword.config import DataConfig, TrainConfig
from patchword.data.batches import TrainingPairs
from patchword.data.extras import require_extras, require_finite
from patchword.data.features import RegionFeatures
from patchword.data.graph_words import GraphTexts
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.data.tokenizers import PieceTokenizer, Tokenizer, WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig, VitConfig, freezable_stages
from patchword.encoders.pretrained import pretrained_folder, read_arch
from patchword.encoders.resnet import ResnetConfig, grid_cells
from patchword.errors import ConfigError, DataError
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.model import prepare_source, text_limit
from patchword.recipe import Recipe
from patchword.train.start import continued, copy_weights, load_starting_weights, open_start


@dataclass(frozen=True)
class Parts:
    """Everything a run needs but its optimiser."""

    train: Split
    select: Split | None
    tokenizer: Tokenizer
    method: Method
    grid_cells: int | None


def data_root(data: DataConfig) -> Path:
    """The data folder of a recipe.

    Raises:
        ConfigError: the recipe names none.
    """
    if data.root is None:
        raise ConfigError("the recipe names no data folder. Add --data.root DIR.")
    return data.root


def open_named(data: DataConfig, split: str, *, pictures: bool) -> Split:
    """A split as the recipe reads it."""
    kind = data.images if data.images != "auto" else ("pictures" if pictures else "features")
    return open_split(
        data_root(data),
        split,
        name=data.name,
        images=kind,
        captions_per_image=data.captions_per_image,
        skip_broken=data.skip_broken,
        columns=data.columns,
    )


def prepare(recipe: Recipe) -> Parts:
    """Open the data, make the tokeniser and build the method with starting weights, checking that all fit together.

    Raises:
        DataError, ConfigError, CheckpointError: before any training step.
    """
    config: Any = recipe.model
    pictures = not isinstance(config.image, RegionsConfig)
    data = recipe.data
    train = open_named(data, data.train, pictures=pictures).limit(data.limit_train)
    select = None
    if recipe.train.select_on != "none":
        select = open_named(data, data.dev if recipe.train.select_on == "dev" else data.test, pictures=pictures).limit(
            data.limit_dev
        )
    splits = [split for split in (train, select) if split is not None]
    for split in splits:
        split.require_images()
    check_widths(splits, config.image)
    if train.n_captions < recipe.train.batch_size and recipe.train.drop_last:
        raise ConfigError(
            f"{train.dataset}/{train.name} has {train.n_captions} captions, "
            f"fewer than one batch of {recipe.train.batch_size}. Use a smaller --train.batch_size."
        )
    start = None if recipe.train.start_from is None else open_start(recipe)
    if start is None:
        text, tokenizer = resolve_text(config.text, data, splits)
        image = resolve_image(config.image)
    else:
        text, tokenizer = continued(config.text, start, "text"), start.require_tokenizer()
        image = continued(config.image, start, "image")
    torch.manual_seed(recipe.train.seed)
    method: Method = method_class(recipe.method)(config.model_copy(update={"text": text, "image": image}), recipe.loss)
    check_region_drop(data, method)
    check_freezing(recipe.train, method)
    if select is not None:  # the training rows are looked at as they are read, these only after a whole epoch
        check_finite(select, method)
    if start is None:
        load_starting_weights(method, tokenizer)
    else:
        copy_weights(method, start)
    cells = grid_cells(image) if isinstance(image, ResnetConfig) else None
    return Parts(train, select, tokenizer, method, cells)


def training_pairs(recipe: Recipe, parts: Parts) -> TrainingPairs:
    """The pairs of the training split, as the method reads them.

    Raises:
        DataError: a caption is longer than the text encoder can read.
    """
    data, method = recipe.data, parts.method
    pairs = TrainingPairs(
        parts.train,
        parts.tokenizer,
        seed=recipe.train.seed,
        region_drop=data.region_drop,
        word_drop=data.word_drop,
        grid_cells=parts.grid_cells,
        max_words=data.max_words,
        text_limit=text_limit(method),
        image_extras=method.image_extras,
        caption_extras=method.caption_extras,
    )
    pairs.source = prepare_source(method, pairs.source)
    return pairs


def check_widths(splits: Sequence[Split], image: Any) -> None:
    """Refuse features of another width than the model reads.

    Raises:
        ConfigError: all splits have the same other width; naming both widths and the option.
        DataError: the splits differ, so that no width of the model would fit; naming the width of each.
    """
    sources = {split.name: split.images for split in splits if isinstance(split.images, RegionFeatures)}
    widths = {name: source.width for name, source in sources.items()}
    if not isinstance(image, RegionsConfig) or set(widths.values()) <= {image.width}:
        return
    odd = next(source for source in sources.values() if source.width != image.width)
    found = f"'{odd.path}' holds features of width {odd.width}, the recipe expects {image.width}"
    if len(set(widths.values())) > 1:
        raise DataError(
            f"{found}, and the splits differ: {', '.join(f'{name} {width}' for name, width in widths.items())}. "
            "Take the features of all splits from the same network."
        )
    raise ConfigError(f"{found}. If these are the right features, add --model.image.width {odd.width}")


def check_region_drop(data: DataConfig, method: Method) -> None:
    """Refuse to drop regions of a method that reads which of them are neighbours.

    Raises:
        ConfigError: naming the side input, whose rows and columns would be those of other regions.
    """
    of_regions = [name for name in method.image_extras if name.startswith("adjacency")]
    if data.region_drop and of_regions:
        raise ConfigError(
            f"`data.region_drop` is {data.region_drop}, but this {method.name} reads `{of_regions[0]}`, which would "
            "not fit the regions that are left. Add --data.region_drop 0."
        )


def check_freezing(train: TrainConfig, method: Method) -> None:
    """Refuse to freeze what the image backbone can not freeze.

    Raises:
        ConfigError: a number of stages that would freeze nothing, or something else than it says.
    """
    kind, known = method.config.image.kind, freezable_stages(method.config.image)
    for epoch, stages in train.freeze_backbone.items():
        if stages not in known:
            expected = f"Expected {', '.join(map(str, known[:-1]))} or {known[-1]} (all of it)"
            raise ConfigError(
                f"`train.freeze_backbone` freezes {stages} stages from epoch {epoch} on, which model.image.kind {kind} "
                f"can not do. {expected if known[1:] else 'It has no backbone: leave train.freeze_backbone out'}."
            )


def check_finite(split: Split, method: Method) -> None:
    """Refuse features and side inputs with NaN or infinity, looking at every row once (seconds for 5,000 images).

    Raises:
        DataError: naming the first such row, with the image and how many there are for features; or a side input that
            the method reads is not there, or is a file of graphs that can not be read.
    """
    require_extras(split, method.image_extras, method.caption_extras)
    require_finite(split, method.image_extras, method.caption_extras)
    for name in method.caption_extras:
        extra = split.caption_extras[name]
        if isinstance(extra, GraphTexts):
            extra.texts()
    source = split.images
    if not isinstance(source, RegionFeatures):
        return
    broken = source.broken()
    if broken:
        first = broken[0]
        raise DataError(
            f"'{source.path}' row {int(source.rows[first])} (image {split.image_ids[first]!r}) holds NaN or infinite "
            f"features; {len(broken):,} of {len(source):,} images of {split.dataset}/{split.name} do. "
            f"Extract them again. List all such rows with: patchword doctor data {source.path.parent}"
        )


def resolve_text(
    text: BigruConfig | BertConfig, data: DataConfig, splits: list[Split]
) -> tuple[BigruConfig | BertConfig, Tokenizer]:
    """The text configuration with its sizes filled in, and the tokeniser that goes with it."""
    if isinstance(text, BertConfig):
        if text.pretrained is None:
            raise ConfigError(
                "a BERT text encoder needs its vocabulary. Add --model.text.pretrained DIR, "
                "a local folder of a BERT model, or its name on the hub."
            )
        folder = pretrained_folder(text.pretrained)
        arch = {**read_arch("bert", folder), **text.arch}
        found = text.model_copy(update={"arch": arch, "pretrained": folder})
        return found, PieceTokenizer(WordPieces.read(folder))
    if data.vocabulary is not None:
        vocabulary = Vocabulary.read(data.vocabulary)
    else:
        vocabulary = Vocabulary.build((c for s in splits for c in s.captions), min_count=data.min_word_count)
    return text.model_copy(update={"vocab_size": len(vocabulary)}), WordTokenizer(vocabulary)


def resolve_image(image: Any) -> Any:
    """The image configuration with the architecture of its pretrained folder filled in."""
    if isinstance(image, VitConfig) and image.pretrained is not None:
        folder = pretrained_folder(image.pretrained)
        arch = {**read_arch(image.kind, folder), **image.arch}
        return image.model_copy(update={"arch": arch, "pretrained": folder})
    return image
