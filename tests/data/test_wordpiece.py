import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from patchword.data.wordpiece import WordPieces, basic_words
from patchword.errors import DataError

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¿¡…—’“”。、"
TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{c}" for c in LETTERS if c not in "xq"),
    *MARKS,
    *("dog", "umb", "##rella", "run", "##ning", "cafe", "naive", "##ly", "man", "un", "##know", "co"),
    *("中", "国", "##国", "日", "é", "ß", "ı", "##ı", "ﬁ", "σ", "ς", "##ς", "и", "##и", "й", "अ", "ก"),
]
TEXTS = [
    "Two dogs running in the naïve café.",
    "UMBRELLAS, unknowingly co-running; don't!",
    "ÀÉÎÕÜ àéîõü Çç Ññ Ÿ Ø ø Å",
    "e\u0301 cafe\u0301 n\u0303 combined",
    "ﬁne ﬂow Ⅷ ½ ² ℃ ™",
    "中国 日本dog中dog国x",
    "漢字とかなカナ 한국어 텍스트",
    "\U00020000 \U0002a6df \U0002f800 豈",
    "İstanbul ISTANBUL ıi ŞIK",
    "Straße STRASSE ß ẞ",
    "ΣΊΣΥΦΟΣ σίσυφος ς",
    "Ёлка й и\u0306",
    "हिन्दी अ ไทย ก العربية עברית",
    "emoji 😀 👩\u200d👩\u200d👧 🏳️\u200d🌈 ❤️",
    "zero\u200bwidth\u200djoin\ufeffbom\u2060word soft\u00adhyphen",
    "nbsp\u00a0en\u2002em\u2003thin\u2009ideographic\u3000space",
    "tab\tnew\nline\rreturn\x0bvertical\x0cfeed\x1cfs\x1dgs\x1eus\x85nel\u2028ls\u2029ps",
    "nul\x00bell\x07esc\x1bdel\x7f\x80\x9fc1 replacement\ufffd",
    "private \ue000 unassigned \u0378 surrogate-free",
    "¿qué? ¡sí! “quoted” ‘single’ «guillemets» …—–‐‑",
    "math + = < > ^ ~ | $ ` € £ ¥ × ÷ ± ∑ √",
    "a_b c@d e#f g%h i&j *k* \\l\\ /m/",
    "x" * 100,
    "d" * 100,
    "d" * 101,
    "d" * 120 + " dog",
    "é" * 100 + " " + "é" * 101,
    "q xq qx dogx",
    "[CLS] [SEP] [MASK] [UNK] [PAD] inside",
    "[ mask ] [mask] [Mask]",
    "##s ## # dog##s",
    "",
    " ",
    "\u0301",
    "a\u0301\u0302\u0303 \u0301a",
    "3.14 1,000 50% $5 #1",
]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return folder


@cache
def their_tokenizer() -> BertTokenizer:
    made = BertTokenizer(vocab={token: k for k, token in enumerate(TOKENS)})
    assert made.vocab_size == len(TOKENS)
    return made


@pytest.fixture(scope="module")
def theirs() -> BertTokenizer:
    return their_tokenizer()


@pytest.fixture(scope="module")
def ours(vocab: Path) -> WordPieces:
    return WordPieces.read(vocab)


def pieces(ours: WordPieces, text: str) -> list[str]:
    return [ours.tokens[k] for word in basic_words(text) for k in ours.split(word)]


def test_the_toy_vocabulary_has_no_repetition() -> None:
    assert len(set(TOKENS)) == len(TOKENS) > 100


@pytest.mark.parametrize("text", [t for t in TEXTS if "[CLS]" not in t], ids=lambda t: ascii(t)[:24])
def test_equal_to_transformers(ours: WordPieces, theirs: BertTokenizer, text: str) -> None:
    assert pieces(ours, text) == theirs.tokenize(text)


def known_for_long(char: str) -> bool:
    """Whether a character is what it was in Unicode 3.2: the tokenisers' tables are of different, later versions."""
    category = unicodedata.category(char)
    return category not in ("Cn", "Cs") and unicodedata.ucd_3_2_0.category(char) == category


def test_every_single_character(ours: WordPieces, theirs: BertTokenizer) -> None:
    codes = [*range(0x3400), *range(0x3400, 0xD800, 53), *range(0xE000, 0xF900, 97), *range(0xF900, 0x10000)]
    codes += [*range(0x10000, 0x11000), *range(0x1D000, 0x1D800), *range(0x20000, 0x2FA20, 499), 0x10FFFD]
    texts = [f"a{chr(code)}b" for code in codes if known_for_long(chr(code))]
    assert len(texts) > 12_000
    assert [ascii(t) for t in texts if pieces(ours, t) != theirs.tokenize(t)] == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cn"]).filter(known_for_long), max_size=25))
def test_equal_to_transformers_on_any_text(text: str) -> None:
    if "[" not in text:
        assert pieces(WordPieces(TOKENS), text) == their_tokenizer().tokenize(text)


def test_special_tokens_in_a_caption_are_plain_text(ours: WordPieces) -> None:
    """transformers lets a caption write control tokens; a caption is text, so ours does not."""
    assert pieces(ours, "[SEP]") == ["[", "s", "##e", "##p", "]"]


def test_greedy_longest_match(ours: WordPieces) -> None:
    for word, expected in (
        ("umbrellas", ["umb", "##rella", "##s"]),
        ("dogs", ["dog", "##s"]),
        ("xx", ["[UNK]"]),  # there is no ##x
        ("d" * 101, ["[UNK]"]),
        ("", []),
    ):
        assert [ours.tokens[k] for k in ours.split(word)] == expected


def test_pieces_of_random_words_join_to_the_word(ours: WordPieces) -> None:
    draw = random.Random(0)
    for _ in range(200):
        word = "".join(draw.choices("abcdefghijklmnoprstuvwyz", k=draw.randint(1, 30)))
        found = [ours.tokens[k] for k in ours.split(word)]
        assert "".join(p.removeprefix("##") for p in found) == word
        assert not found[0].startswith("##")
        assert all(p.startswith("##") for p in found[1:])


def test_reading(vocab: Path, tmp_path: Path) -> None:
    assert WordPieces.read(vocab).tokens == WordPieces.read(vocab / "vocab.txt").tokens == tuple(TOKENS)
    with pytest.raises(DataError, match=r"Expected the vocab.txt of a BERT model"):
        WordPieces.read(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n[PAD]\n")
    with pytest.raises(DataError, match=r"of 3 tokens lacks \[UNK\], \[CLS\], \[SEP\], \[MASK\]"):
        WordPieces.read(tmp_path)
