"""What a run says at its start about words that its vocabulary does not know."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small import recipe, write_bert, write_precomp

from patchword.data.tokenizers import PieceTokenizer, Tokenizer, WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.train.run import train
from patchword.train.words import SAMPLE, report_words

WORDS = WordTokenizer(Vocabulary.build(["a dog runs on the beach"], min_count=1))
PIECES = PieceTokenizer(
    WordPieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", *(f"w{k}" for k in range(99))])
)


def said(tokenizer: Tokenizer, captions: list[str]) -> list[str]:
    out = io.StringIO()
    report_words(Console(file=out, width=1000), tokenizer, captions)
    return out.getvalue().splitlines()


def test_a_few_rare_words_are_no_warning() -> None:
    assert said(WORDS, ["a dog"] * 10) == ["the vocabulary knows 100.0 % of the words of the training captions"]
    assert said(WORDS, ["a dog"] * 48 + ["a zebra", "a lion", "a cat", "a cow"]) == [
        "the vocabulary knows 96.2 % of the words of the training captions"
    ]
    assert len(said(WORDS, ["a dog"] * 9 + ["a zebra"])) == 1  # 5 % exactly


@pytest.mark.parametrize(
    ("tokenizer", "advice"),
    [(WORDS, "use a BERT recipe or segment the captions first"), (PIECES, "Use a BERT of the language and script")],
)
def test_many_unknown_words_are_one_line_of_warning(tokenizer: Tokenizer, advice: str) -> None:
    first, second = said(tokenizer, ["a dog"] * 9 + ["a zebra zebra"])
    assert first == "the vocabulary knows 90.5 % of the words of the training captions"
    assert second.startswith("warning: 9.5 % of the words of the training captions are unknown to the vocabulary")
    assert advice in second


def test_text_without_blanks_is_warned_about() -> None:
    captions = ["一只狗在海滩上跑", "两个人坐在长椅上", "一个孩子在草地上玩球"]
    assert len(said(WordTokenizer(Vocabulary.build(captions, min_count=2)), captions)) == 2


def test_only_the_first_captions_are_looked_at() -> None:
    found = said(WORDS, ["a dog"] * SAMPLE + ["zebra"] * SAMPLE)
    assert found == ["the vocabulary knows 100.0 % of the words of the first 20,000 training captions"]


@pytest.mark.integration
@pytest.mark.parametrize("tower", ["bigru", "bert"])
def test_a_run_says_it(tower: str, tmp_path: Path) -> None:
    data = write_precomp(tmp_path / "data", {"train": 8, "dev": 4})
    bert = write_bert(tmp_path / "bert") if tower == "bert" else None
    changes: dict[str, Any] = {"train": {"epochs": 1}}
    if bert is None:
        changes["data"] = {"min_word_count": 1000}  # no word is that frequent
    out = io.StringIO()
    train(recipe("vse_inf", data, changes, bert=bert), tmp_path / "run", console=Console(file=out, width=1000))
    assert f"the vocabulary knows {100 if bert else 0}.0 % of the words of the training captions\n" in out.getvalue()
    assert ("warning: 100.0 % of the words" in out.getvalue()) == (bert is None)
