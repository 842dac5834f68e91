"""SCAN vocabularies: words and their ids, read from and written to the field's JSON, or built from captions.

A rebuilt vocabulary never matches published weights (its order is that of the original run), so a vocabulary is part of
a model and is stored inside every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchword.data.words import split_words
from patchword.errors import DataError

PAD, START, END, UNKNOWN, MASK = "<pad>", "<start>", "<end>", "<unk>", "<mask>"
SPECIAL = (PAD, START, END, UNKNOWN)


@dataclass(frozen=True)
class Vocabulary:
    """Words by id. Ids 0..3 are ``<pad> <start> <end> <unk>``; ``<mask>`` is the last id.

    Example:
        >>> v = Vocabulary.build(["A dog runs .", "a dog"], min_count=2)
        >>> v.words, v.id("dog"), v.id("cat")
        (('<pad>', '<start>', '<end>', '<unk>', 'a', 'dog', '<mask>'), 5, 3)
    """

    words: tuple[str, ...]
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {word: k for k, word in enumerate(self.words)})
        if len(self.ids) != len(self.words):
            twice = next(w for w, n in Counter(self.words).items() if n > 1)
            raise DataError(f"a vocabulary lists the word {twice!r} twice. Expected every word once.")
        if self.words[:4] != SPECIAL:
            raise DataError(
                f"a vocabulary starts with {list(self.words[:4])}. Expected {list(SPECIAL)}, as in SCAN's files."
            )

    def __len__(self) -> int:
        return len(self.words)

    def id(self, word: str) -> int:
        """Id of a word, that of ``<unk>`` when it is unknown."""
        return self.ids.get(word, 3)

    @property
    def fingerprint(self) -> str:
        """Hash of the words in order; equal fingerprints mean equal ids."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:16]

    @classmethod
    def build(cls, captions: Iterable[str], *, min_count: int = 4) -> Vocabulary:
        """Words seen at least ``min_count`` times, the most frequent first, ties in alphabetical order."""
        counts = Counter(word for caption in captions for word in split_words(caption))
        frequent = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls((*SPECIAL, *(w for w in frequent if w not in SPECIAL and w != MASK), MASK))

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read SCAN's JSON (``word2idx``, ``idx2word``, ``idx``); ``<mask>`` is appended when it is not there.

        Raises:
            DataError: the file is missing, a pickle, not JSON, or its ids are not dense.
        """
        try:
            raw = path.read_bytes()
        except OSError:
            raise DataError(f"vocabulary '{path}' does not exist. Expected SCAN's *_precomp_vocab.json.") from None
        if raw[:1] == b"\x80" or raw[:2] == b"(i":
            raise DataError(
                f"vocabulary '{path}' is a Python pickle, which is never loaded. Expected SCAN's JSON form of it."
            )
        try:
            table = json.loads(raw)["word2idx"]
            words = sorted(table, key=lambda w: int(table[w]))
            dense = [int(table[w]) for w in words] == list(range(len(words)))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise DataError(f"vocabulary '{path}' is not SCAN's JSON. Expected an object with `word2idx`.") from None
        if not dense:
            raise DataError(
                f"vocabulary '{path}' has {len(words)} words but its ids are not 0..{len(words) - 1}. "
                "Expected every id once."
            )
        return cls(tuple(words) if MASK in table else (*words, MASK))

    def write(self, path: Path) -> None:
        """Write SCAN's JSON."""
        table = {
            "word2idx": self.ids,
            "idx2word": {str(k): word for k, word in enumerate(self.words)},
            "idx": len(self.words),
        }
        path.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")

    def unknown_rate(self, captions: Sequence[str]) -> float:
        """Share of the words of some captions that the vocabulary does not know."""
        counts = Counter(word for caption in captions for word in split_words(caption))
        total = sum(counts.values())
        return sum(n for w, n in counts.items() if w not in self.ids) / total if total else 0.0
