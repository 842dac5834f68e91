"""BERT's two-step tokeniser: basic words, then greedy word pieces.

Written from its definition (Devlin et al. 2019; WordPiece of Wu et al. 2016) because the size augmentation of captions
works word by word, and transformers 5 no longer shows the two steps. Equal to transformers' tokeniser on the field's
captions and, for cased BERTs, on other scripts (tests/data/test_wordpiece*.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from patchword.data.casing import WHOLE_FILE, Casing, read_settings
from patchword.data.text_files import read_lines
from patchword.errors import DataError

LONGEST_WORD = 100  # characters; a longer word becomes [UNK]


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    ascii_symbol = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_symbol or unicodedata.category(char).startswith("P")


_CJK = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
]  # fmt: skip


UNCASED = Casing()


def basic_words(text: str, casing: Casing = UNCASED) -> list[str]:
    """Words of a text; every punctuation mark stands alone.

    A capital sigma at the end of a word becomes ς, as in Google's code (in transformers it becomes σ).

    Args:
        text: a caption.
        casing: what becomes of capitals, accents and CJK characters; without it, words are in lower case, without
            accents, and every CJK character is one.

    Example:
        >>> basic_words("A Café, isn't it?")
        ['a', 'cafe', ',', 'isn', "'", 't', 'it', '?']
        >>> basic_words("A Café, isn't it?", Casing(lower_case=False, strip_accents=False))
        ['A', 'Café', ',', 'isn', "'", 't', 'it', '?']
    """
    spaced: list[str] = []
    for char in unicodedata.normalize("NFC", text) if casing.strip_accents else text:
        code, category = ord(char), unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf", "Co", "Cs"):
            continue
        elif casing.split_chinese and any(low <= code <= high for low, high in _CJK):
            spaced += [" ", char, " "]
        else:
            spaced.append(char)
    words: list[str] = []
    for token in "".join(spaced).split():
        plain = token.lower() if casing.lower_case else token
        if casing.strip_accents:
            plain = "".join(c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
        word = ""
        for char in plain:
            if _is_punctuation(char):
                words += [word, char] if word else [char]
                word = ""
            else:
                word += char
        if word:
            words.append(word)
    return words


class WordPieces:
    """Greedy longest-match pieces over a BERT vocabulary.

    Args:
        tokens: the vocabulary in the order of its ids.
        casing: of the text that the vocabulary is for.

    Raises:
        DataError: a special token is missing.

    Example:
        >>> pieces = WordPieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "um", "##bre", "##lla"])
        >>> pieces.split("umbrella"), pieces.split("zebra")
        ([5, 6, 7], [1])
    """

    def __init__(self, tokens: Sequence[str], casing: Casing = UNCASED) -> None:
        self.casing = casing
        self.tokens = tuple(tokens)
        self.ids = {token: k for k, token in enumerate(self.tokens)}
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t not in self.ids]
        if missing:
            raise DataError(
                f"a BERT vocabulary of {len(self.tokens)} tokens lacks {', '.join(missing)}. Is it a vocab.txt?"
            )
        self.unknown, self.start, self.end, self.mask = (self.ids[t] for t in ("[UNK]", "[CLS]", "[SEP]", "[MASK]"))

    @classmethod
    def read(cls, folder: Path) -> WordPieces:
        """Read the vocabulary of a BERT folder, and whether the BERT is cased.

        Args:
            folder: with ``vocab.txt``, or with ``tokenizer.json`` alone, as transformers 5 saves it; or ``vocab.txt``
                itself.

        Raises:
            DataError: there is none, or the files beside it do not describe a BERT's text (``Casing.read``).
        """
        path = folder / "vocab.txt" if folder.is_dir() else folder
        whole = path.with_name(WHOLE_FILE)
        if path.is_file():
            tokens = read_lines(path)
        elif folder.is_dir() and whole.is_file():
            tokens = _saved_tokens(whole)
        else:
            raise DataError(f"'{path}' does not exist. Expected the vocab.txt of a BERT model, or its {WHOLE_FILE}.")
        return cls(tokens, Casing.read(path.parent))

    def words(self, text: str) -> list[str]:
        """Basic words of a text, as the vocabulary has them."""
        return basic_words(text, self.casing)

    def split(self, word: str) -> list[int]:
        """Ids of the pieces of one basic word; ``[UNK]`` when it can not be covered or is too long."""
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        pieces: list[int] = []
        start = 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in self.ids:
                    pieces.append(self.ids[piece])
                    start = stop
                    break
            else:
                return [self.unknown]
        return pieces


def _saved_tokens(path: Path) -> list[str]:
    """The tokens of a ``tokenizer.json`` in the order of their ids, those that were added later included."""
    content = read_settings(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        found = model.get("type") if isinstance(model, dict) else model
        raise DataError(f"'{path}' cuts words by {found}. Expected the WordPiece of a BERT model.")
    try:
        ids = {**model["vocab"], **{token["content"]: token["id"] for token in content.get("added_tokens") or []}}
        tokens = sorted(ids, key=ids.__getitem__)
    except (KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged: {error!r}. Fetch the BERT folder again.") from None
    last = len(tokens) - 1
    if [ids[token] for token in tokens] != list(range(last + 1)):
        raise DataError(f"'{path}' numbers {last + 1:,} tokens with gaps. Expected the ids 0 to {last:,}.")
    return tokens
