"""``patchword import``: an authors' checkpoint to ours, read without running anything that is pickled in it."""

from __future__ import annotations

import argparse
import math
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from patchword.checkpoint import read_config
from patchword.data.text_files import LFS_MARK
from patchword.data.tokenizers import PieceTokenizer, Tokenizer, WordTokenizer
from patchword.data.vocab import MASK, Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.encoders.pretrained import pretrained_folder, read_arch
from patchword.errors import CheckpointError, ConfigError
from patchword.importers.allowed import NotAllowedError, allow_list
from patchword.importers.keys import Imported, without_prefix
from patchword.importers.options import refusal
from patchword.methods.base import Method
from patchword.model import Model, word_rows

# What torch's safe reader raises on damaged bytes, besides its refusals.
_DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    struct.error, zipfile.BadZipFile,
)  # fmt: skip
IMPORTERS = {
    "vse_inf": "patchword.importers.vse_inf",
    "chan": "patchword.importers.chan",
    "cefg": "patchword.importers.cefg",
    "hrem": "patchword.importers.hrem",
    "aahr": "patchword.importers.aahr",
    "scta": "patchword.importers.scta",
    "laps": "patchword.importers.scta",
    "esl": "patchword.importers.esl",
}


@dataclass(frozen=True)
class ImportResult:
    """Outcome of an import.

    Attributes:
        folder: our checkpoint.
        used: authors' keys whose weights are in it.
        dead: authors' keys that their code never uses.
        tokenizer: ``words``, ``pieces``, or None when no vocabulary was given or stored.
        options: the authors' options that were found.
    """

    folder: Path
    used: list[str]
    dead: list[str]
    tokenizer: str | None
    options: dict[str, Any]


def read_authors_file(path: Path) -> dict[str, Any]:
    """Read a torch checkpoint with an allow-list: tensors, plain containers, ``argparse.Namespace``; paths and
    NumPy's numbers, which become plain values; nothing else.

    Raises:
        CheckpointError: the file is missing, truncated, or holds anything else (which is not run).
    """
    if not path.is_file():
        raise CheckpointError(
            f"'{path}' does not exist. Expected a checkpoint file of the authors' code (model_best.pth)."
        )
    _refuse_other_files(path)
    try:
        with allow_list(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # "unusual pickle protocol": refused below if it can not be read
            content = torch.load(path, map_location="cpu", weights_only=True)
    except NotAllowedError as error:
        raise CheckpointError(
            f"'{path}' holds objects that are not allowed, and nothing in it was run: {error}."
        ) from None
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        unsafe = "Unsupported" in str(error) or "global" in str(error).lower()
        what = "holds objects that are not allowed, and nothing in it was run" if unsafe else "is damaged"
        named = _globals_in(error) or ("" if unsafe else reason)
        raise CheckpointError(f"'{path}' {what}{f': {named}' if named else ''}.") from None
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"'{path}' is truncated or not a torch checkpoint ({path.stat().st_size:,} bytes): {reason}."
        ) from None
    if not isinstance(content, Mapping) or "model" not in content:
        found = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"'{path}' holds {found}. Expected a dictionary with `model` and `opt`, as the authors' code saves it."
        )
    return dict(content)


def _refuse_other_files(path: Path) -> None:
    """Say what a file is that was downloaded in place of a checkpoint.

    Raises:
        CheckpointError: it begins like neither of torch's formats.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK", b"\x80")) or b"ustar" in start:  # zip, pickle, tar
        return
    if start.startswith(LFS_MARK):
        what = "a Git LFS pointer, not the checkpoint. Fetch it with: git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "a web page, not a checkpoint. Download the checkpoint itself"
    else:
        what = "truncated or not a torch checkpoint. Download it again"
    raise CheckpointError(f"'{path}' ({path.stat().st_size:,} bytes) is {what}.")


def _globals_in(error: Exception) -> str:
    """The forbidden name in a refusal of torch's safe reader."""
    words = [w.strip("`'\".,") for w in str(error).split()]
    dotted = [
        w
        for w in words
        if w.count(".") >= 1 and all(p.isidentifier() for p in w.split(".")) and not w.startswith("torch")
    ]
    return f"`{dotted[0]}`" if dotted else ""


def options_of(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The authors' options as a plain dictionary.

    Raises:
        CheckpointError: there are none. No method can be told by its weights alone.
    """
    opt = content.get("opt")
    found = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(
            f"'{path}': {'no `opt` is' if opt is None else 'an `opt` without options is'} beside the weights, which do "
            "not tell all settings of a model. Expected the options of its training, as the authors' code saves them. "
            "Take the authors' own file, or add a dictionary `opt` to this one."
        )
    return {str(k): v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in found.items()}


def joined_state(model: Any, items: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """One state dict of the checkpoint's list of state dicts, with the names of its items as prefixes.

    Raises:
        CheckpointError: the list has another length, or an item holds something else than tensors.
    """
    if isinstance(model, Mapping) and all(isinstance(v, Tensor) for v in model.values()):
        return without_prefix(dict(model))
    if not isinstance(model, list | tuple) or len(model) != len(items):
        count = len(model) if isinstance(model, list | tuple) else type(model).__name__
        raise CheckpointError(
            f"'{path}': `model` holds {count} state dicts. "
            f"Expected {len(items)} ({', '.join(i.rstrip('.') for i in items)}): is it a checkpoint of another method?"
        )
    state: dict[str, Tensor] = {}
    for prefix, part in zip(items, model, strict=True):
        if not isinstance(part, Mapping) or not all(isinstance(v, Tensor) for v in part.values()):
            raise CheckpointError(f"'{path}': `model` item '{prefix.rstrip('.')}' is not a state dict of tensors.")
        state |= {prefix + key: value for key, value in without_prefix(part).items()}
    return state


def import_checkpoint(
    method: str,
    file: Path | str,
    out: Path | str,
    *,
    vocab: Path | str | None = None,
    bert: Path | str | None = None,
) -> ImportResult:
    """Turn an authors' checkpoint into one of ours.

    Args:
        method: a name of ``IMPORTERS``.
        file: the authors' ``model_best.pth`` or ``checkpoint.pth``.
        out: folder to write; an existing checkpoint of the same method there is replaced, by a complete one only.
        vocab: SCAN vocabulary JSON of a BiGRU model (CHAN's GloVe runs store theirs in the file).
        bert: local BERT folder or its name on the hub, for its vocabulary and its number of attention heads.

    Raises:
        CheckpointError: unsafe or truncated file, missing or unknown keys, weights that are no finite numbers, options
            that are missing or unusable, another method's checkpoint.
        ConfigError: the method has no importer, or ``out`` holds a checkpoint of another method.
    """
    if method not in IMPORTERS:
        raise ConfigError(f"there is no importer for {method!r}. Importers: {', '.join(IMPORTERS)}.")
    module = import_module(IMPORTERS[method])
    path = Path(file)
    content = read_authors_file(path)
    state = joined_state(content["model"], module.ITEMS, path)
    options = options_of(content, path)
    if bert is not None:
        bert = pretrained_folder(Path(bert))
        options["bert_config"] = read_arch("bert", bert)
    try:
        imported: Imported = module.import_state(state, options)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from None
    except KeyError as error:
        raise CheckpointError(f"'{path}': live key {error} is missing. Is it a checkpoint of another method?") from None
    except ValidationError as error:
        raise CheckpointError(f"'{path}': {refusal(error, module.OPTIONS, options, method)}") from None
    except (ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{path}' holds options or shapes that fit no {method} model: {reason}.") from None
    assert isinstance(imported.method, Method)
    _refuse_other_method(Path(out), imported.method.name)
    tokenizer = _tokenizer(imported.method, options, vocab, bert, path)
    about = {
        "imported_from": path.name,
        "epoch": _plain(content.get("epoch")),
        "best_rsum": _plain(content.get("best_rsum")),
        "dead_keys": imported.dead,
    }
    if hasattr(module, "about_of"):  # what else the authors' options say of a model's evaluation
        about |= module.about_of(options)
    Model(imported.method, tokenizer, about).save(out)
    shown = {k: v for k, v in options.items() if isinstance(v, str | int | float | bool) or v is None}
    return ImportResult(Path(out), imported.used, imported.dead, tokenizer.kind if tokenizer else None, shown)


def _refuse_other_method(out: Path, method: str) -> None:
    """Keep a checkpoint of another method from being replaced.

    Raises:
        ConfigError: there is one in ``out``.
    """
    try:
        there = read_config(out / "config.json")["method"]
    except CheckpointError:  # none, or a damaged one
        return
    if there != method:
        raise ConfigError(
            f"'{out}' holds a checkpoint of {there}, which this one of {method} would replace. "
            "Name another folder with -o DIR, or remove that one."
        )


def _plain(value: Any) -> Any:
    """A number that JSON can hold, or None."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _tokenizer(method: Method, options: Mapping[str, Any], vocab: Any, bert: Any, path: Path) -> Tokenizer | None:
    """The tokeniser that fits the imported weights, or None when its vocabulary is nowhere."""
    rows = word_rows(method)
    if hasattr(getattr(method, "text", None), "bert"):
        folder = bert if bert is not None else vocab
        if folder is None:
            return None
        pieces = PieceTokenizer(WordPieces.read(Path(folder)))
        _check_rows(rows, pieces.size, path)
        return pieces
    if vocab is not None:
        vocabulary = Vocabulary.read(Path(vocab))
    elif isinstance(options.get("word2idx"), Mapping):
        vocabulary = _stored_vocabulary(options["word2idx"], path)
    else:
        return None
    _check_rows(rows, len(vocabulary), path)
    return WordTokenizer(vocabulary)


def _stored_vocabulary(table: Mapping[Any, Any], path: Path) -> Vocabulary:
    """The vocabulary in the options of a checkpoint."""
    dense = all(isinstance(k, str) for k in table) and sorted(map(str, table.values())) == sorted(
        map(str, range(len(table)))
    )
    if not dense:
        raise CheckpointError(f"'{path}': option `word2idx` is not a vocabulary with the ids 0..{len(table) - 1}.")
    words = sorted(table, key=lambda word: int(table[word]))
    return Vocabulary(tuple(words) if MASK in words else (*words, MASK))


def _check_rows(rows: int | None, size: int, path: Path) -> None:
    if size != rows:
        raise CheckpointError(
            f"'{path}' has {rows:,} word rows, the vocabulary has {size:,} words (with <mask>). "
            "Use the vocabulary the model was trained with."
        )
