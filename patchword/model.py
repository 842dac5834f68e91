"""A model that stands alone: a method with its tokeniser, loaded from one folder, ready to encode, score and search.

A checkpoint folder holds ``config.json`` (method, configuration, how it was made), ``model.safetensors`` and the
vocabulary; nothing else is needed to load it, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import patchword
from patchword.checkpoint import FORMAT, WEIGHTS, inference_state, require_utf8, save_folder
from patchword.config import Source, validate
from patchword.data.batches import check_lengths, cut_units, pad_captions
from patchword.data.extras import read_extras
from patchword.data.graph_words import bind_tokens
from patchword.data.pictures import PictureFiles
from patchword.data.table import Extra, ImageSource, Split
from patchword.data.tokenizers import Tokenizer, cut_ids, require_tokenizer, was_cut
from patchword.errors import ConfigError, DataError
from patchword.files import save_tensors
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.types import Captions, Encoded

Progress = Callable[[int], None]


@dataclass
class Model:
    """A method and the tokeniser it was trained with.

    Attributes:
        method: in evaluation mode.
        tokenizer: None when an import came without a vocabulary.
        about: how it was made: version, recipe, epoch, selection, source of an import.
        path: where it was loaded from.
        max_words: captions are cut to this many words (or words of word pieces), as in training; None never cuts.
    """

    method: Method
    tokenizer: Tokenizer | None
    about: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    max_words: int | None = None

    @property
    def label(self) -> str:
        """Method and folder, or the name on the hub that a ready-made model came from, for tables."""
        place = self.about.get("hub", self.path)
        return f"{self.method.label} ({place})" if place is not None else self.method.label

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.method.parameters()).device

    def require_tokenizer(self) -> Tokenizer:
        """The tokeniser.

        Raises:
            CheckpointError: the model holds no vocabulary.
        """
        return require_tokenizer(self.tokenizer, self.label)

    def tokenize(
        self, captions: Iterable[str], *, max_words: int | None = None, where: str | None = None
    ) -> list[list[int]]:
        """Token ids of captions, as evaluation sees them.

        What is longer than the text encoder can read is cut to its first tokens and the last one, and a warning says
        how many captions that were.

        Args:
            captions: their texts.
            max_words: captions are cut to this many words before that; None: as in training.
            where: what the captions are called; when given, one that is too long is refused by it, not cut.

        Raises:
            CheckpointError: the model holds no vocabulary.
            DataError: a text was given in the place of several, or, with ``where``, a caption is longer than the text
                encoder can read.
        """
        captions = list_texts(captions)
        tokenizer = self.require_tokenizer()
        words = self.max_words if max_words is None else max_words
        units = [cut_units(tokenizer.units(caption), words) for caption in captions]
        limit = text_limit(self.method)
        if where is not None:
            check_lengths(units, limit, where)
        whole = [tokenizer.join(one) for one in units]
        ids = [cut_ids(one, limit) for one in whole]
        cut = sum(
            len(a) > len(b) or was_cut(tokenizer, text, b) for a, b, text in zip(whole, ids, captions, strict=True)
        )
        if cut:
            most = max(map(len, ids))
            warnings.warn(
                f"{cut:,} of {len(ids):,} captions are longer than the {most} tokens that the text encoder reads, and "
                "were cut to them",
                stacklevel=2,
            )
        return ids

    @torch.no_grad()
    def encode_captions(
        self,
        captions: Iterable[str],
        *,
        batch: int = 256,
        max_words: int | None = None,
        extras: Mapping[str, Extra] | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Encode captions in batches of similar length.

        The result is in the order given and does not depend on ``batch`` (but for a method that ``reads_padding``,
        whose captions are batched in the order given). A method with ``caption_extras`` needs them
        in ``extras``.

        Raises:
            DataError: there are no captions, a text was given in the place of several, or a side input is missing.
            ConfigError: ``batch`` is below 1.
        """
        captions = list_texts(captions)
        check_work(len(captions), batch, "captions")
        self.method.eval()
        needed = self.method.caption_extras
        check_extras(needed, extras, "captions")
        bound = {name: bind_tokens((extras or {})[name], self.require_tokenizer()) for name in needed}
        ids = self.tokenize(captions, max_words=max_words)
        order = list(range(len(ids)))
        if not self.method.reads_padding:
            order.sort(key=lambda k: len(ids[k]))
        parts = []
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs: Captions = replace(
                pad_captions([ids[k] for k in chosen]), extra=read_extras(bound, needed, chosen)
            ).to(self.device)
            parts.append(self.method.encode_captions(inputs).float().to("cpu"))
            if progress is not None:
                progress(len(inputs))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return Encoded.concat(parts).select(back)

    @torch.no_grad()
    def encode_images(
        self,
        source: ImageSource,
        *,
        batch: int = 256,
        extras: Mapping[str, Extra] | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Encode all images of a source, in order; a method with ``image_extras`` needs them in ``extras``.

        Raises:
            DataError: the source holds no images or is none, or a side input is missing.
            ConfigError: ``batch`` is below 1.
        """
        if not isinstance(source, ImageSource):
            raise DataError(
                f"a {type(source).__name__} was given to encode images of. Expected a source of images: "
                "`split.require_images()`, or `PictureFiles([path, ...])` of patchword.data.pictures."
            )
        check_work(len(source), batch, "images")
        self.method.eval()
        needed = self.method.image_extras
        check_extras(needed, extras, "images")
        source = prepare_source(self.method, source)
        parts = []
        for start in range(0, len(source), batch):
            chosen = range(start, min(start + batch, len(source)))
            inputs = replace(source.read(chosen), extra=read_extras(extras or {}, needed, chosen)).to(self.device)
            parts.append(self.method.encode_images(inputs).float().to("cpu"))
            if progress is not None:
                progress(len(inputs))
        return Encoded.concat(parts)

    def score(self, images: Encoded, captions: Encoded, *, progress: Progress | None = None) -> torch.Tensor:
        """Scores of all images against all captions, ``(N, M)`` float32 on the CPU."""
        from patchword.scoring.matrix import score_matrix

        self.method.eval()
        return score_matrix(self.method, images.to(self.device), captions.to(self.device), progress=progress)

    def search(self, query: str | Path, split: Split, k: int = 10) -> list[Any]:
        """Best images of a split for a sentence, or best captions for a picture file (``patchword.search``)."""
        from patchword.search import search_split

        return search_split(self, query, split, k)

    def save(self, folder: Path | str) -> None:
        """Write the checkpoint folder; an existing one is replaced only when the new one is complete."""
        require_utf8(Path(folder).resolve())
        save_folder(Path(folder), lambda place: write_model(place, self))


def text_limit(method: Method) -> int | None:
    """Longest caption, in tokens, that the text tower can read; None without a limit."""
    return getattr(getattr(method, "text", None), "max_tokens", None)


def list_texts(texts: Iterable[str]) -> list[str]:
    """Several texts as a list.

    Raises:
        DataError: it is one text, whose letters would be taken for texts, or something in it is no text.

    Example:
        >>> list_texts(text for text in ("a dog", "a cat"))
        ['a dog', 'a cat']
    """
    if isinstance(texts, str):
        raise DataError(f"the text {texts!r} was given in the place of several. Put it into a list: [{texts!r}].")
    found = list(texts)
    for place, one in enumerate(found):
        if not isinstance(one, str):
            raise DataError(f"caption {place} is a {type(one).__name__}, not a text. Expected a str.")
    return found


def check_work(count: int, batch: int, what: str) -> None:
    """Refuse to encode nothing, or in batches that hold nothing.

    Raises:
        DataError: there is nothing to encode.
        ConfigError: ``batch`` is below 1.
    """
    if batch < 1:
        raise ConfigError(f"`batch` is {batch}. Expected 1 or more: the {what} that are encoded at a time.")
    if count < 1:
        raise DataError(f"there are no {what} to encode. Expected at least one.")


def check_extras(needed: Sequence[str], extras: Mapping[str, Extra] | None, what: str) -> None:
    """Refuse to encode without the side inputs of a method.

    Raises:
        DataError: naming the first one that is missing.
    """
    for name in needed:
        if name not in (extras or {}):
            raise DataError(f"this model also reads `{name}` of the {what}, which was not given. Pass it in `extras`.")


def prepare_source(method: Method, source: ImageSource) -> ImageSource:
    """Give a picture source the pixels that the method's encoder expects."""
    if isinstance(source, PictureFiles):
        from patchword.encoders.patches import pixel_transform

        image = method.config.image
        transform = image.pixel_transform() if hasattr(image, "pixel_transform") else pixel_transform(image)
        if transform is not None:
            return source.with_transform(transform)
    return source


def write_model(folder: Path, model: Model) -> None:
    """Write config, weights and vocabulary into an existing folder."""
    config = model.method.config.model_dump(mode="json")
    for tower in ("image", "text"):  # the weights are in this folder: where they once came from is nobody's path
        for key in ("pretrained", "weights", "vectors"):
            if key in config.get(tower, {}):
                config[tower][key] = None
    about = {
        "format": FORMAT,
        "patchword": patchword.__version__,
        "method": model.method.name,
        "model": config,
        "loss": model.method.loss.model_dump(mode="json"),
        "vocabulary": None if model.tokenizer is None else {"kind": model.tokenizer.kind, "size": model.tokenizer.size},
        "max_words": model.max_words,
        "about": model.about,
    }
    (folder / "config.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_tensors(inference_state(model.method), folder / WEIGHTS)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def build_method(name: str, model: Mapping[str, Any], loss: Mapping[str, Any], source: Source) -> Method:
    """A method with fresh weights from plain configuration values.

    Raises:
        ConfigError: the method or a key is unknown, or a value is wrong.
    """
    cls = method_class(name)
    config = validate(cls.Config, model, source, ("model",))
    return cls(config, validate(cls.Loss, loss, source, ("loss",)))


def word_rows(method: Method) -> int | None:
    """Rows of the word (piece) embedding."""
    text: Any = getattr(method, "text", None)
    if hasattr(text, "embed"):
        return int(text.embed.num_embeddings)
    return int(text.bert.config.vocab_size) if hasattr(text, "bert") else None
