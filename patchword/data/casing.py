"""Which differences between letters a BERT keeps: capitals, accents, and whether CJK characters stand alone.

A cased vocabulary read in lower case, or without accents, silently turns most words into ``[UNK]``. What a BERT wants
is in ``tokenizer_config.json`` beside its ``vocab.txt``, in the names that transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchword.errors import DataError

FILE = "tokenizer_config.json"
WHOLE_FILE = "tokenizer.json"  # the same settings and the vocabulary, as the package tokenizers has them


@dataclass(frozen=True)
class Casing:
    """How a BERT simplifies text before it is cut into pieces; the defaults are those of the uncased BERTs.

    Attributes:
        lower_case: capitals become small letters.
        strip_accents: combining marks are taken off (é becomes e, and Arabic loses its vowel signs).
        split_chinese: every CJK character is a word of its own.

    Example:
        >>> Casing.of({"do_lower_case": False})
        Casing(lower_case=False, strip_accents=False, split_chinese=True)
    """

    lower_case: bool = True
    strip_accents: bool = True
    split_chinese: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = FILE) -> Casing:
        """From the settings of transformers' ``BertTokenizer``, with its defaults.

        Args:
            settings: ``do_lower_case``, ``strip_accents`` (None: as ``do_lower_case``) and ``tokenize_chinese_chars``;
                others are ignored.
            where: the file that they are from, for messages.

        Raises:
            DataError: one of them is neither true nor false.
        """
        lower = settings.get("do_lower_case", True)
        strip = settings.get("strip_accents")
        found = {
            "do_lower_case": lower,
            "strip_accents": lower if strip is None else strip,
            "tokenize_chinese_chars": settings.get("tokenize_chinese_chars", True),
        }
        for name, value in found.items():
            if not isinstance(value, bool):
                raise DataError(f"'{where}': `{name}` is {value!r}. Expected true or false.")
        return cls(*found.values())

    @classmethod
    def read(cls, folder: Path) -> Casing:
        """What the files of a BERT folder, or of a checkpoint of ours, ask for.

        ``tokenizer_config.json`` decides. Where it does not say ``do_lower_case``, or is not there, the normaliser of
        ``tokenizer.json`` does; a folder with neither is an uncased BERT, as transformers takes it.

        Raises:
            DataError: a file is damaged, or ``tokenizer.json`` normalises in another way than BERT.
        """
        path, whole = folder / FILE, folder / WHOLE_FILE
        settings = read_settings(path) if path.is_file() else {}
        if "do_lower_case" not in settings and whole.is_file():
            settings = {**_normaliser(whole), **settings}
        return cls.of(settings, str(path if path.is_file() else whole))

    def write(self, folder: Path) -> None:
        """Write ``tokenizer_config.json``, which ``read`` and transformers read."""
        settings = {
            "do_lower_case": self.lower_case,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.split_chinese,
        }
        (folder / FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a BERT folder.

    Raises:
        DataError: it can not be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{path}' can not be read: {error}. Fetch the BERT folder again.") from None
    if not isinstance(found, dict):
        raise DataError(f"'{path}' holds a JSON {type(found).__name__}. Expected an object with settings.")
    return found


def _normaliser(path: Path) -> dict[str, Any]:
    """The normaliser of a ``tokenizer.json``, in the names of ``tokenizer_config.json``."""
    found = read_settings(path).get("normalizer")
    if found is None:  # text stays as it is
        return {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    kind = found.get("type") if isinstance(found, dict) else None
    if kind != "BertNormalizer":
        raise DataError(
            f"'{path}' normalises text with {kind or found!r}. Expected BertNormalizer. If this BERT is one all the "
            f"same, say in '{FILE}' beside it whether it is cased: {{\"do_lower_case\": true}} or false."
        )
    names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
    return {names.get(name, name): value for name, value in found.items()}
