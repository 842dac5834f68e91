"""From a caption to token ids, with the word-level augmentation of training, for both kinds of text tower.

A tokeniser cuts a caption into *units* once (a unit is one word with its token ids); what training masks, replaces or
deletes are whole units. Source: woodfrog/vse_infty ``lib/datasets/image_caption.py`` (process_caption, both branches).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from patchword.data.augment import DROP_RATE
from patchword.data.vocab import END, MASK, START, Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.data.words import split_words
from patchword.errors import CheckpointError, DataError

Units = list[list[int]]


@runtime_checkable
class Tokenizer(Protocol):
    """What a data set needs to know about a tokeniser."""

    kind: str

    @property
    def size(self) -> int:
        """Number of token ids."""
        ...

    def units(self, caption: str) -> Units:
        """Token ids of a caption, word by word."""
        ...

    def join(self, units: Units, draw: random.Random | None = None, rate: float = DROP_RATE) -> list[int]:
        """Token ids of a caption; with ``draw``, augmented."""
        ...

    def shown(self, caption: str) -> list[str]:
        """Text of every token, as long as the ids of ``join(units(caption))``."""
        ...

    def knows(self, caption: str) -> bool:
        """Whether any word of the caption is known."""
        ...

    def unknown_rate(self, captions: Sequence[str]) -> float:
        """Share of the words of some captions that are unknown."""
        ...

    def fingerprint(self) -> str:
        """Hash of all that decides about the ids; equal ones mean equal ids of any caption."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that ``load_tokenizer`` reads."""
        ...


class WordTokenizer:
    """Whole words over a SCAN vocabulary, between ``<start>`` and ``<end>``, which augmentation may touch too.

    Example:
        >>> t = WordTokenizer(Vocabulary.build(["a dog runs"], min_count=1))
        >>> t.join(t.units("A dog jumps")), t.shown("A dog jumps")
        ([1, 4, 5, 3, 2], ['<start>', 'a', 'dog', 'jumps', '<end>'])
    """

    kind = "words"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @property
    def size(self) -> int:
        """Number of words, ``<mask>`` included."""
        return len(self.vocabulary)

    def shown(self, caption: str) -> list[str]:
        """The words between the two special tokens."""
        return [START, *split_words(caption), END]

    def units(self, caption: str) -> Units:
        """One id per word."""
        return [[self.vocabulary.id(word)] for word in self.shown(caption)]

    def knows(self, caption: str) -> bool:
        """Whether any word of the caption is in the vocabulary."""
        return any(word in self.vocabulary.ids for word in split_words(caption))

    def unknown_rate(self, captions: Sequence[str]) -> float:
        """Share of the words of some captions that are not in the vocabulary, 0 without words."""
        return self.vocabulary.unknown_rate(captions)

    def fingerprint(self) -> str:
        """Hash of the words in the order of their ids."""
        return self.vocabulary.fingerprint

    def join(self, units: Units, draw: random.Random | None = None, rate: float = DROP_RATE) -> list[int]:
        """Ids in order; with ``draw``, every word may be masked, replaced or deleted (never all of them deleted)."""
        if draw is None:
            return [unit[0] for unit in units]
        ids = augment(units, draw, rate, self.vocabulary.ids[MASK], self.size)
        return ids or [units[0][0]]

    def save(self, folder: Path) -> None:
        """Write ``vocabulary.json``."""
        self.vocabulary.write(folder / "vocabulary.json")


class PieceTokenizer:
    """BERT word pieces between ``[CLS]`` and ``[SEP]``, which augmentation never touches."""

    kind = "pieces"

    def __init__(self, pieces: WordPieces) -> None:
        if len(pieces.tokens) <= 100:
            raise DataError(
                f"a BERT vocabulary has only {len(pieces.tokens)} tokens. "
                "Expected a full vocab.txt (30,522 for bert-base-uncased)."
            )
        self.pieces = pieces
        self._cache: dict[str, list[int]] = {}

    @property
    def size(self) -> int:
        """Number of word pieces."""
        return len(self.pieces.tokens)

    def shown(self, caption: str) -> list[str]:
        """The text of every piece."""
        return [self.pieces.tokens[k] for k in self.join(self.units(caption))]

    def units(self, caption: str) -> Units:
        """The pieces of every basic word."""
        return [self._split(word) for word in self.pieces.words(caption)]

    def _split(self, word: str) -> list[int]:
        found = self._cache.get(word)
        if found is None:
            found = self._cache[word] = self.pieces.split(word)
        return found

    def knows(self, caption: str) -> bool:
        """Whether any word of the caption has pieces."""
        return any(unit != [self.pieces.unknown] for unit in self.units(caption))

    def unknown_rate(self, captions: Sequence[str]) -> float:
        """Share of the basic words of some captions that become ``[UNK]``, 0 without words."""
        return unknown_share(unit == [self.pieces.unknown] for caption in captions for unit in self.units(caption))

    def fingerprint(self) -> str:
        """Hash of the pieces in the order of their ids, and of what becomes of capitals, accents and CJK characters."""
        return hashlib.sha256("\n".join([*self.pieces.tokens, str(self.pieces.casing)]).encode()).hexdigest()[:16]

    def join(self, units: Units, draw: random.Random | None = None, rate: float = DROP_RATE) -> list[int]:
        """Ids in order; with ``draw``, every word may be masked, replaced or deleted, all its pieces alike."""
        if draw is None:
            inner = [piece for unit in units for piece in unit]
        else:
            inner = augment(units, draw, rate, self.pieces.mask, self.size)
        return [self.pieces.start, *inner, self.pieces.end]

    def save(self, folder: Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_config.json``."""
        self.pieces.casing.write(folder)
        (folder / "vocab.txt").write_text("\n".join(self.pieces.tokens) + "\n", encoding="utf-8")


def augment(units: Units, draw: random.Random, rate: float, mask: int, size: int) -> list[int]:
    """Mask, replace or delete whole words.

    One draw p per word: p >= rate keeps it; else with q = p / rate: q < 0.5 masks every token of the word, q < 0.6 puts
    a uniformly random token (of all ``size`` ids, special ones included) in place of each, and q >= 0.6 deletes the
    word.
    """
    ids: list[int] = []
    for unit in units:
        p = draw.random()
        if p >= rate:
            ids += unit
            continue
        q = p / rate
        if q < 0.5:
            ids += [mask] * len(unit)
        elif q < 0.6:
            ids += [draw.randrange(size) for _ in unit]
    return ids


def unknown_share(unknown: Iterable[bool]) -> float:
    """Share of the words that are unknown, 0 without words."""
    counts = Counter(unknown)
    return counts[True] / counts.total() if counts else 0.0


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokeniser stored in a checkpoint folder, or None when it was imported without one."""
    if (folder / "vocabulary.json").is_file():
        return WordTokenizer(Vocabulary.read(folder / "vocabulary.json"))
    if (folder / "vocab.txt").is_file():
        return PieceTokenizer(WordPieces.read(folder))
    if (folder / "tokenizer.json").is_file():
        from patchword.data.hf_tokenizer import HfTokenizer

        return HfTokenizer.read(folder)
    return None


def require_tokenizer(tokenizer: Tokenizer | None, where: str) -> Tokenizer:
    """The tokeniser of a model.

    Raises:
        CheckpointError: the model was imported without a vocabulary, so it can not read text.
    """
    if tokenizer is None:
        raise CheckpointError(
            f"'{where}' holds no vocabulary, so it can not read captions. "
            "Import it again with --vocab FILE (the vocabulary it was trained with)."
        )
    return tokenizer


def cut_ids(ids: list[int], limit: int | None) -> list[int]:
    """The first ``limit`` token ids of a caption (None: all), of which the last stays the last: ``[SEP]``.

    Example:
        >>> cut_ids([2, 5, 6, 7, 3], 4), cut_ids([2, 5, 3], 4)
        ([2, 5, 6, 3], [2, 5, 3])
    """
    return ids if limit is None or len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def was_cut(tokenizer: Tokenizer, caption: str, ids: Sequence[int]) -> bool:
    """Whether a tokeniser that cuts by itself (``HfTokenizer``) left out some of a caption; ``ids`` is what it gave."""
    whole: Any = tokenizer
    return len(ids) == getattr(whole, "context", None) and bool(whole.backend.encode(caption.strip()).overflowing)


def longest(units: Sequence[Units]) -> int:
    """Number of tokens of the longest caption, without special tokens that ``join`` adds."""
    return max((sum(len(u) for u in caption) for caption in units), default=0)
