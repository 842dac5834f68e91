"""The tokeniser of a transformers checkpoint, as its own ``tokenizer.json`` defines it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchword.data.augment import DROP_RATE
from patchword.data.tokenizers import Units, unknown_share
from patchword.data.vocab import END, START
from patchword.errors import CheckpointError

FILE = "tokenizer.json"
_BLANK = "▁"  # how sentencepiece writes the blank before a word


class HfTokenizer:
    """Sub-words between the marks that the checkpoint puts around a sentence; longer sentences are cut.

    The cut keeps the marks, as transformers' ``truncation=True`` does. Marks are shown as ``<start>`` and ``<end>``
    whatever the checkpoint calls them.

    Args:
        backend: a ``tokenizers.Tokenizer`` with truncation set.
    """

    kind = "transformers"

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        found = backend.encode("a")
        inner = [k for k, mark in enumerate(found.special_tokens_mask) if not mark] or [-1]
        self.before, self.after = found.ids[: max(0, inner[0])], found.ids[inner[-1] + 1 :]
        name = getattr(backend.model, "unk_token", None) or "<unk>"
        self.unknown: int | None = backend.token_to_id(name)

    @classmethod
    def of(cls, tokenizer: Any, context: int) -> HfTokenizer:
        """From a transformers tokeniser, for a text model that reads ``context`` tokens.

        Raises:
            CheckpointError: it has no ``tokenizer.json`` form.
        """
        from tokenizers import Tokenizer, normalizers

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise CheckpointError(
                f"the checkpoint's tokeniser is a {type(tokenizer).__name__} without a tokenizer.json. "
                "Expected a folder with tokenizer.json; `AutoTokenizer.from_pretrained(...).save_pretrained(...)` "
                "writes one where the tokeniser has such a form."
            )
        own: Any = Tokenizer.from_str(backend.to_str())
        if tokenizer.init_kwargs.get("do_lower_case"):  # not every class of transformers heeds its own setting
            lower = normalizers.Lowercase()
            own.normalizer = lower if own.normalizer is None else normalizers.Sequence([lower, own.normalizer])
        own.no_padding()
        own.enable_truncation(context)
        return cls(own)

    @classmethod
    def read(cls, folder: Path) -> HfTokenizer:
        """From the ``tokenizer.json`` of a checkpoint folder.

        Raises:
            CheckpointError: it is damaged.
        """
        from tokenizers import Tokenizer

        path = folder / FILE
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"'{path}' is damaged: {reason}. Save the checkpoint again.") from None

    @property
    def size(self) -> int:
        """Number of token ids."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def context(self) -> int:
        """Most tokens of a caption, marks included."""
        return int(self.backend.truncation["max_length"])

    def units(self, caption: str) -> Units:
        """Token ids of every word, cut to what the text model reads."""
        found = self.backend.encode(caption.strip())
        units: Units = []
        last: int | None = None
        for number, token, word, mark in zip(
            found.ids, found.tokens, found.word_ids, found.special_tokens_mask, strict=True
        ):
            if mark:
                continue
            if not units or word is None or word != last or token.startswith(_BLANK):
                units.append([])
            units[-1].append(number)
            last = word
        return units

    def join(self, units: Units, draw: random.Random | None = None, rate: float = DROP_RATE) -> list[int]:
        """Ids between their marks; with ``draw``, every word may be left out (never all of them).

        These vocabularies have no mask, so nothing is masked or replaced.
        """
        kept = units if draw is None else [unit for unit in units if draw.random() >= rate] or units[:1]
        return [*self.before, *(number for unit in kept for number in unit), *self.after]

    def shown(self, caption: str) -> list[str]:
        """Text of every token: what it covers of the caption."""
        text = caption.strip()
        found = self.backend.encode(text)
        inner = [
            token if token == _BLANK else text[begin:end].strip() or token
            for token, (begin, end), mark in zip(found.tokens, found.offsets, found.special_tokens_mask, strict=True)
            if not mark
        ]
        return [*[START] * len(self.before), *inner, *[END] * len(self.after)]

    def knows(self, caption: str) -> bool:
        """Whether any part of the caption is known."""
        return any(number != self.unknown for unit in self.units(caption) for number in unit)

    def unknown_rate(self, captions: Sequence[str]) -> float:
        """Share of the words of some captions of which a part is unknown, 0 without words."""
        return unknown_share(self.unknown in unit for caption in captions for unit in self.units(caption))

    def fingerprint(self) -> str:
        """Hash of the whole ``tokenizer.json``."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        (folder / FILE).write_text(self.backend.to_str(), encoding="utf-8")
