import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from patchword.data.vocab import MASK, SPECIAL, Vocabulary
from patchword.errors import DataError

CAPTIONS = ["A dog runs .", "a Dog sits .", "the cat sits .", "a bird"]


def scan_json(path: Path, words: list[str], **changes: Any) -> Path:
    """A vocabulary as SCAN writes it."""
    table = {word: k for k, word in enumerate(words)}
    content = {"word2idx": table, "idx2word": {str(k): w for w, k in table.items()}, "idx": len(words)}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return path


def test_building_orders_by_frequency_then_alphabet() -> None:
    assert Vocabulary.build(CAPTIONS, min_count=1).words == (
        *SPECIAL, *(".", "a", "dog", "sits", "bird", "cat", "runs", "the"), MASK,
    )  # fmt: skip
    assert Vocabulary.build(CAPTIONS, min_count=2).words == (*SPECIAL, ".", "a", "dog", "sits", MASK)
    assert Vocabulary.build(CAPTIONS).words == (*SPECIAL, MASK)


def test_building_does_not_depend_on_the_order_of_captions() -> None:
    assert Vocabulary.build(CAPTIONS, min_count=1) == Vocabulary.build(reversed(CAPTIONS), min_count=1)


def test_special_words_in_captions_are_not_listed_twice() -> None:
    words = Vocabulary.build(["<unk> <mask> <pad> dog"] * 3, min_count=1).words
    assert len(words) == len(set(words))
    assert words[:4] == SPECIAL
    assert words[-1] == MASK


def test_ids() -> None:
    made = Vocabulary.build(CAPTIONS, min_count=1)
    assert [made.id(w) for w in ("<pad>", "<start>", "<end>", "<unk>", ".", "<mask>")] == [0, 1, 2, 3, 4, len(made) - 1]
    assert made.id("zebra") == 3
    assert made.id("Dog") == 3  # captions are lower-cased before


def test_unknown_rate_counts_words_not_kinds() -> None:
    made = Vocabulary.build(CAPTIONS, min_count=2)
    assert made.unknown_rate(["a zebra zebra dog", "the dog"]) == pytest.approx(3 / 6)
    assert made.unknown_rate([]) == made.unknown_rate([""]) == 0


def test_writing_and_reading_are_inverse(tmp_path: Path) -> None:
    made = Vocabulary.build(["naïve café 日本 \u2028", *CAPTIONS], min_count=1)
    made.write(tmp_path / "v.json")
    again = Vocabulary.read(tmp_path / "v.json")
    assert again == made
    assert again.fingerprint == made.fingerprint
    content = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert content["idx"] == len(made)
    assert content["idx2word"]["4"] == made.words[4]


def test_the_mask_is_appended_to_scans_files(tmp_path: Path) -> None:
    words = [*SPECIAL, "dog", "cat"]
    assert Vocabulary.read(scan_json(tmp_path / "a.json", words)).words == (*words, MASK)
    assert Vocabulary.read(scan_json(tmp_path / "b.json", [*words, MASK])).words == (*words, MASK)
    shuffled = {w: k for k, w in reversed(list(enumerate(words)))}
    assert Vocabulary.read(scan_json(tmp_path / "c.json", words, word2idx=shuffled)).words == (*words, MASK)


def test_fingerprints_tell_orders_apart() -> None:
    one, other = Vocabulary((*SPECIAL, "a", "b")), Vocabulary((*SPECIAL, "b", "a"))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Vocabulary((*SPECIAL, "a", "b")).fingerprint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json", "is not SCAN's JSON"),
        (b"[1, 2]", "is not SCAN's JSON"),
        (b'{"words": []}', "is not SCAN's JSON"),
        (b'{"word2idx": {"a": "x"}}', "is not SCAN's JSON"),
        (b'{"word2idx": [1]}', "is not SCAN's JSON"),
        (b'{"word2idx": {"a": null}}', "is not SCAN's JSON"),
        (b"\xff\xfe{}", "is not SCAN's JSON"),
        (b'{"word2idx": {"<pad>": 0, "a": 2}}', r"has 2 words but its ids are not 0..1"),
        (b'{"word2idx": {"<pad>": 0, "a": 0}}', "ids are not 0..1"),
        (b'{"word2idx": {"a": 0, "b": 1}}', r"starts with \['a', 'b', '<mask>'\]. Expected \['<pad>'"),
        (pickle.dumps({"a": 1}), "is a Python pickle, which is never loaded"),
        (pickle.dumps({"a": 1}, protocol=0), "never loaded|not SCAN's JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(DataError, match=said):
        Vocabulary.read(tmp_path / "v.json")


def test_missing_files_and_repeated_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Vocabulary.read(tmp_path / "none.json")
    with pytest.raises(DataError, match="lists the word 'a' twice"):
        Vocabulary((*SPECIAL, "a", "b", "a"))
