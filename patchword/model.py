"""A model that stands alone: a method with its tokeniser, loaded from one folder, ready to encode, score and search.

A checkpoint folder holds ``config.json`` (method, configuration, how it was made), ``model.safetensors`` and the
vocabulary; nothing else is needed to load it, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import patchword
from patchword.config import Source, validate
from patchword.data.batches import check_lengths, cut_units, pad_captions
from patchword.data.pictures import PictureFiles
from patchword.data.table import ImageSource, Split
from patchword.data.tokenizers import Tokenizer, load_tokenizer, require_tokenizer
from patchword.errors import CheckpointError
from patchword.methods import method_class
from patchword.methods.base import Method
from patchword.types import Captions, Encoded

FORMAT = 1
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
        """Method and folder, for tables."""
        return f"{self.method.name} ({self.path})" if self.path is not None else self.method.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.method.parameters()).device

    def tokenize(
        self, captions: Sequence[str], *, max_words: int | None = None, where: str = "captions"
    ) -> list[list[int]]:
        """Token ids of captions, as evaluation sees them.

        Raises:
            CheckpointError: the model holds no vocabulary.
            DataError: a caption is longer than the text encoder can read.
        """
        tokenizer = require_tokenizer(self.tokenizer, self.label)
        limit = self.max_words if max_words is None else max_words
        units = [cut_units(tokenizer.units(caption), limit) for caption in captions]
        check_lengths(units, text_limit(self.method), where)
        return [tokenizer.join(one) for one in units]

    @torch.no_grad()
    def encode_captions(
        self,
        captions: Sequence[str],
        *,
        batch: int = 256,
        max_words: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Encode captions in batches of similar length.

        The result is in the order given and does not depend on ``batch``.
        """
        self.method.eval()
        ids = self.tokenize(captions, max_words=max_words)
        order = sorted(range(len(ids)), key=lambda k: (len(ids[k]), k))
        parts = []
        for start in range(0, len(order), batch):
            inputs: Captions = pad_captions([ids[k] for k in order[start : start + batch]]).to(self.device)
            parts.append(self.method.encode_captions(inputs).float().to("cpu"))
            if progress is not None:
                progress(len(inputs))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return Encoded.concat(parts).select(back)

    @torch.no_grad()
    def encode_images(self, source: ImageSource, *, batch: int = 256, progress: Progress | None = None) -> Encoded:
        """Encode all images of a source, in order."""
        self.method.eval()
        source = prepare_source(self.method, source)
        parts = []
        for start in range(0, len(source), batch):
            inputs = source.read(range(start, min(start + batch, len(source)))).to(self.device)
            parts.append(self.method.encode_images(inputs).float().to("cpu"))
            if progress is not None:
                progress(len(inputs))
        return Encoded.concat(parts)

    def score(self, images: Encoded, captions: Encoded, *, progress: Progress | None = None) -> torch.Tensor:
        """Scores of all images against all captions, ``(N, M)`` float32 on the CPU."""
        from patchword.scoring.matrix import score_matrix

        self.method.eval()
        return score_matrix(self.method, images, captions, progress=progress)

    def search(self, query: str | Path, split: Split, k: int = 10) -> list[Any]:
        """Best images of a split for a sentence, or best captions for a picture file; see ``patchword.search``."""
        from patchword.search import search_split

        return search_split(self, query, split, k)

    def save(self, folder: Path | str) -> None:
        """Write the checkpoint folder; an existing one is replaced only when the new one is complete."""
        save_folder(Path(folder), lambda place: write_model(place, self))


def text_limit(method: Method) -> int | None:
    """Longest caption, in tokens, that the text tower can read; None without a limit."""
    return getattr(getattr(method, "text", None), "max_words", None)


def prepare_source(method: Method, source: ImageSource) -> ImageSource:
    """Give a picture source the pixels that the method's encoder expects."""
    if isinstance(source, PictureFiles):
        from patchword.encoders.patches import pixel_transform

        transform = pixel_transform(method.config.image)
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
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in model.method.state_dict().items()}, folder / "model.safetensors"
    )
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def save_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder under a temporary name and put it in place; whatever fails, the old folder survives.

    Raises:
        CheckpointError: the disk is full or the place can not be written.
    """
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(folder)  # else an interrupted replacement would lose its only complete folder below
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir()
        write(fresh)
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        kept = " The checkpoint that was there before is untouched." if folder.exists() else ""
        raise CheckpointError(
            f"'{folder}' could not be written: {reason}.{kept} Free some space and run the same command again."
        ) from None
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> Path:
    """Undo a replacement that was interrupted between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by a path: itself, or ``best/`` or ``last/`` of a run.

    Raises:
        CheckpointError: there is none; the message lists what was tried.
    """
    tried = [path, path / "best", path / "last"]
    for folder in tried:
        if (recover_folder(folder) / "config.json").is_file():
            return folder
    if not path.exists():
        raise CheckpointError(
            f"'{path}' does not exist. Expected a run folder or a checkpoint folder (config.json + model.safetensors)."
        )
    raise CheckpointError(
        f"'{path}' holds no checkpoint. Tried {', '.join(repr(str(f / 'config.json')) for f in tried)}."
    )


def load(path: Path | str, *, method: str | None = None, device: str = "cpu") -> Model:
    """Load a checkpoint or the best checkpoint of a run.

    Args:
        path: a run folder or a checkpoint folder.
        method: refuse a checkpoint of any other method.
        device: where the weights go.

    Raises:
        CheckpointError: it is missing, truncated, of another method or of a newer format.

    Example:
        ``model = patchword.load("runs/demo")``
    """
    folder = find_checkpoint(Path(path))
    about = read_config(folder / "config.json")
    name = about["method"]
    if about["format"] != FORMAT:
        raise CheckpointError(
            f"'{folder}' has checkpoint format {about['format']}. This version reads format {FORMAT}."
        )
    if method is not None and name != method:
        raise CheckpointError(f"'{folder}' is a checkpoint of {name!r}. Expected one of {method!r}.")
    made = build_method(name, about["model"], about["loss"], Source(str(folder / "config.json"), {}))
    load_weights(made, folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer is None and about["vocabulary"] is not None:
        raise CheckpointError(
            f"'{folder}' lacks the vocabulary that its config.json names. Expected vocabulary.json or vocab.txt."
        )
    check_vocabulary(made, tokenizer, folder)
    return Model(made.to(device).eval(), tokenizer, about["about"], folder, about["max_words"])


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: it is not one.
    """
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' is not a checkpoint's config: {error}. Save or import the checkpoint again."
        ) from None
    expected: dict[str, Any] = {"format": int, "method": str, "model": dict, "loss": dict, "vocabulary": dict | None}
    expected |= {"about": dict, "max_words": int | None}
    for key, kind in expected.items():
        if not isinstance(config, dict) or key not in config or not isinstance(config[key], kind):
            raise CheckpointError(
                f"'{path}' is not a checkpoint's config: `{key}` is missing or of the wrong kind. "
                "Save or import the checkpoint again."
            )
    return dict(config)


def build_method(name: str, model: Mapping[str, Any], loss: Mapping[str, Any], source: Source) -> Method:
    """A method with fresh weights from plain configuration values.

    Raises:
        ConfigError: the method or a key is unknown, or a value is wrong.
    """
    cls = method_class(name)
    config = validate(cls.Config, model, source, ("model",))  # type: ignore[attr-defined]
    made: Method = cls(config, validate(cls.Loss, loss, source, ("loss",)))  # type: ignore[attr-defined]
    return made


def load_weights(method: Method, folder: Path) -> None:
    """Fill a method with the weights of a checkpoint folder, every tensor accounted for."""
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is missing. Expected the weights beside config.json.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"'{path}' is truncated or damaged ({path.stat().st_size:,} bytes): {error}. Use another checkpoint."
        ) from None
    wanted = method.state_dict()
    if set(state) != set(wanted):
        odd = sorted(set(state) ^ set(wanted))
        raise CheckpointError(
            f"'{path}' does not fit its config.json: {len(odd)} tensors differ, the first is `{odd[0]}`."
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"'{path}' tensor `{key}` has shape {tuple(state[key].shape)}; its config.json says "
                f"{tuple(value.shape)}."
            )
    method.load_state_dict(state)


def check_vocabulary(method: Method, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Refuse a vocabulary whose size differs from the rows of the word table."""
    rows = word_rows(method)
    if tokenizer is not None and rows is not None and tokenizer.size != rows:
        raise CheckpointError(
            f"'{folder}': the vocabulary has {tokenizer.size:,} words, the weights have {rows:,} word rows. "
            "Use the vocabulary the model was trained with."
        )


def word_rows(method: Method) -> int | None:
    """Rows of the word (piece) embedding."""
    text: Any = getattr(method, "text", None)
    if hasattr(text, "embed"):
        return int(text.embed.num_embeddings)
    return int(text.bert.config.vocab_size) if hasattr(text, "bert") else None
