"""Cased BERTs: the words and pieces are transformers', whatever the folder's files ask for."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_wordpiece import TEXTS, known_for_long
from transformers import BertTokenizer

from patchword.data.casing import FILE, Casing
from patchword.data.wordpiece import WordPieces, basic_words
from patchword.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = [
    *SPECIAL,
    *("Hund", "hund", "Straße", "straße", "strasse", "Café", "café", "cafe", "Mädchen", "madchen", "mädchen", "##s"),
    *(
        "كتب",
        "كَتَبَ",
        "رجل",
        "رَجُل",
        "##ان",
        "中",
        "国",
        "中国",
        "##国",
        "狗",
        "##dog",
        "dog",
        ".",
        ",",
        "e",
        "é",
        "##\u0301",
    ),
]
CAPTIONS = [
    "Hund, hund. Straße straße STRASSE",
    "Café café CAFÉ cafe\u0301 Cafe\u0301s",
    "Das Mädchen mit dem Hund auf der Straße.",
    "كَتَبَ رَجُلان كتب رجل",
    "中国 狗dog中国 中国狗",
    "dog\u200bdog e\u0301 é E\u0301",
]
CASED = [
    Casing(*chosen)
    for chosen in itertools.product((True, False), repeat=3)
    if Casing(*chosen) != Casing()  # tests/data/test_wordpiece.py has that one
]
SETTINGS: list[dict[str, Any]] = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower, strip, chinese in itertools.product((True, False), (None, True, False), (True, False))
]


def their_words(text: str, casing: Casing) -> list[str]:
    """Basic words of transformers' tokeniser."""
    backend: Any = BertTokenizer(
        vocab={token: k for k, token in enumerate(TOKENS)},
        do_lower_case=casing.lower_case,
        strip_accents=casing.strip_accents,
        tokenize_chinese_chars=casing.split_chinese,
    ).backend_tokenizer
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("casing", CASED, ids=str)
def test_words_are_those_of_transformers(casing: Casing) -> None:
    for text in [*TEXTS, *CAPTIONS]:
        if "Σ" not in text:  # transformers lower-cases it to σ, even at the end of a word
            assert basic_words(text, casing) == their_words(text, casing), text


@pytest.mark.parametrize("casing", CASED, ids=str)
def test_every_character_inside_a_word(casing: Casing) -> None:
    codes = [*range(0x3400), *range(0x3400, 0xD800, 53), *range(0xE000, 0xF900, 97), *range(0xF900, 0x10000)]
    codes += [*range(0x1D000, 0x1D800), *range(0x20000, 0x2FA20, 499)]
    text = " ".join(f"a{chr(code)}b" for code in codes if known_for_long(chr(code)))
    assert basic_words(text, casing) == their_words(text, casing)


@settings(max_examples=100, deadline=None)
@given(
    st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cn"]).filter(known_for_long), max_size=25),
    st.sampled_from(CASED),
)
@example("E\u0301 é", Casing(lower_case=False, strip_accents=False))  # neither is composed nor taken apart
def test_words_of_any_text(text: str, casing: Casing) -> None:
    if "Σ" not in text:
        assert basic_words(text, casing) == their_words(text, casing)


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_pieces_of_a_folder_are_those_of_transformers(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", {FILE: {**asked, "tokenizer_class": "BertTokenizer"}})
    ours, theirs = WordPieces.read(folder), BertTokenizer.from_pretrained(folder)
    for text in CAPTIONS:
        assert [ours.tokens[k] for word in ours.words(text) for k in ours.split(word)] == theirs.tokenize(text), text
    assert WordPieces.read(folder / "vocab.txt").casing == ours.casing


@pytest.mark.parametrize("lower", [True, False])
def test_a_folder_that_transformers_saved_without_a_vocabulary_file(lower: bool, tmp_path: Path) -> None:
    theirs = BertTokenizer(vocab={token: k for k, token in enumerate(TOKENS)}, do_lower_case=lower)
    theirs.add_tokens(["zebra"])
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    ours = WordPieces.read(tmp_path)
    assert ours.tokens == (*TOKENS, "zebra")
    assert ours.casing.lower_case == lower
    for text in CAPTIONS:
        assert [ours.tokens[k] for word in ours.words(text) for k in ours.split(word)] == theirs.tokenize(text), text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"type": "BPE", "vocab": {}}}, "cuts words by BPE. Expected the WordPiece"),
        ({"model": None}, "cuts words by None"),
        ({"model": {"type": "WordPiece"}}, "is damaged: KeyError"),
        ({"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 2}}}, "numbers 2 tokens with gaps"),
        ({"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": "1"}}}, "is damaged: TypeError"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(change))
    with pytest.raises(DataError, match=said):
        WordPieces.read(tmp_path)


def test_what_the_settings_do() -> None:
    text = "Straße Café 中国 كَتَبَ"
    assert basic_words(text) == ["straße", "cafe", "中", "国", "كتب"]
    assert basic_words(text, Casing.of({"do_lower_case": False})) == ["Straße", "Café", "中", "国", "كَتَبَ"]
    assert basic_words(text, Casing(False, True, False)) == ["Straße", "Cafe", "中国", "كتب"]
    assert basic_words(text, Casing(True, False, False)) == ["straße", "café", "中国", "كَتَبَ"]


NORMALISER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False, "strip_accents": None}
CASED_FILE = {"normalizer": {**NORMALISER, "lowercase": False}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Casing()),
        ({FILE: {}}, Casing()),
        ({FILE: {"model_max_length": 512}}, Casing()),
        ({FILE: {"do_lower_case": True, "strip_accents": None}}, Casing()),
        ({FILE: {"do_lower_case": False}}, Casing(False, False, True)),
        ({FILE: {"do_lower_case": False, "strip_accents": True}}, Casing(False, True, True)),
        ({FILE: {"strip_accents": False, "tokenize_chinese_chars": False}}, Casing(True, False, False)),
        ({"tokenizer.json": CASED_FILE}, Casing(False, False, False)),
        ({"tokenizer.json": {"normalizer": {**NORMALISER, "lowercase": True}}}, Casing(True, True, False)),
        ({"tokenizer.json": {"normalizer": None}}, Casing(False, False, False)),
        ({"tokenizer.json": CASED_FILE, FILE: {"model_max_length": 512}}, Casing(False, False, False)),
        ({"tokenizer.json": CASED_FILE, FILE: {"strip_accents": True}}, Casing(False, True, False)),
        ({"tokenizer.json": CASED_FILE, FILE: {"do_lower_case": True}}, Casing()),
        (
            {"tokenizer.json": {"normalizer": {"type": "NFC"}}, FILE: {"do_lower_case": False}},
            Casing(False, False, True),
        ),
    ],
)
def test_which_file_decides(files: dict[str, Any], expected: Casing, tmp_path: Path) -> None:
    assert Casing.read(write_folder(tmp_path, files)) == expected
    expected.write(tmp_path)
    assert Casing.read(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (FILE, "{", r"tokenizer_config.json' can not be read: .* Fetch the BERT folder again"),
        (FILE, "[]", r"tokenizer_config.json' holds a JSON list. Expected an object"),
        (FILE, '{"do_lower_case": "no"}', r"`do_lower_case` is 'no'. Expected true or false"),
        (FILE, '{"strip_accents": 1}', r"`strip_accents` is 1. Expected true or false"),
        ("tokenizer.json", "3", r"tokenizer.json' holds a JSON int"),
        (
            "tokenizer.json",
            '{"normalizer": {"type": "Sequence"}}',
            r"normalises text with 'Sequence'. Expected BertNormalizer. .* \{\"do_lower_case\": true\} or false",
        ),
    ],
)
def test_files_that_describe_no_bert(name: str, text: str, message: str, tmp_path: Path) -> None:
    (write_folder(tmp_path, {}) / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        WordPieces.read(tmp_path)
