"""Golden cases of captions to token ids, with and without training augmentation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from patchword.data.tokenizers import PieceTokenizer, Units, WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.parity.cases import Case, Ledger


class _CasePieces(WordPieces):
    """Word pieces of a case: its own table decides for the words that it lists."""

    def __init__(self, tokens: Sequence[str], table: Mapping[str, Sequence[str]]) -> None:
        super().__init__(tokens)
        self.table = table

    def split(self, word: str) -> list[int]:
        if word in self.table:
            return [self.ids[piece] for piece in self.table[word]]
        return super().split(word)


class _CaseTokenizer(PieceTokenizer):
    """A piece tokeniser over a case's toy vocabulary, which the guard against truncated vocabularies would refuse."""

    def __init__(self, pieces: WordPieces) -> None:
        self.pieces = pieces
        self._cache: dict[str, list[int]] = {}


def compare_words(case: Case) -> Ledger:
    """Compare every caption of a case: ids in evaluation and the exact replay of each seed."""
    ledger = Ledger(case)
    fields = case.fields
    words = sorted(fields["vocab_bigru"], key=fields["vocab_bigru"].get)
    word_tokenizer = WordTokenizer(Vocabulary(tuple(words)))
    ledger.exact("vocab_bigru", word_tokenizer.vocabulary.ids, fields["vocab_bigru"])
    tokens = sorted(fields["vocab_bert"], key=fields["vocab_bert"].get)
    pieces = _CasePieces(tokens, fields["wordpiece_table"])
    ledger.exact("vocab_bert", pieces.ids, fields["vocab_bert"])
    for word, expected in fields["wordpiece_table"].items():
        whole = WordPieces(
            [t for t in tokens if t != word]
        )  # the authors' table cuts words that are also whole entries
        ledger.exact(f"wordpiece_table.{word}", [whole.tokens[k] for k in whole.split(word)], list(expected))
    piece_tokenizer = _CaseTokenizer(pieces)
    for k, one in enumerate(fields["cases"].get("bigru", [])):
        _replay(ledger, f"cases.bigru.{k}", one, word_tokenizer, word_tokenizer.units(one["caption"]))
    for k, one in enumerate(fields["cases"].get("bert", [])):
        _replay(ledger, f"cases.bert.{k}", one, piece_tokenizer, [pieces.split(word) for word in one["basic_tokens"]])
    ledger.use(*(name for name in case.tensors if case.tensors[name].numel() == 0 or name == "placeholder"))
    return ledger


def _replay(
    ledger: Ledger, name: str, one: Mapping[str, object], tokenizer: WordTokenizer | PieceTokenizer, units: Units
) -> None:
    draw = random.Random(int(str(one["seed"]))) if one["train"] else None
    ledger.exact(name, tokenizer.join(units, draw), one["ids"])
