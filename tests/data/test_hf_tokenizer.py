"""Tokenisers of checkpoints: the ids are transformers', whole words stay together, nothing is longer than the model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from clip_models import CONTEXT, FAMILIES, write_checkpoint

from patchword.data.clip_files import quiet, read_tokenizer
from patchword.data.hf_tokenizer import HfTokenizer
from patchword.data.tokenizers import Tokenizer, load_tokenizer
from patchword.errors import CheckpointError

SENTENCES = ["red", "A RED dog, and a cat", "  two   blanks ", "dog. dog! dog?", "zebra " * 30, "日本 🐕 é"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[HfTokenizer, Any]]:
    """Ours and transformers' tokeniser of every family."""
    home, found = tmp_path_factory.mktemp("checkpoints"), {}
    for family in FAMILIES:
        folder = write_checkpoint(home / family, family)
        with quiet():
            theirs = read_tokenizer(str(folder), family)
        found[family] = (HfTokenizer.of(theirs, CONTEXT), theirs)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_transformers(family: str, pairs: dict[str, tuple[HfTokenizer, Any]]) -> None:
    ours, theirs = pairs[family]
    assert isinstance(ours, Tokenizer)
    for sentence in SENTENCES:
        expected = theirs(sentence.strip(), truncation=True, max_length=CONTEXT)["input_ids"]
        assert ours.join(ours.units(sentence)) == expected
        assert len(ours.shown(sentence)) == len(expected)
    assert (ours.size, ours.context) == (len(theirs), CONTEXT)
    assert theirs("red", truncation=True, max_length=3)["input_ids"]  # ours has not changed theirs
    assert len(theirs("zebra " * 30)["input_ids"]) > CONTEXT


@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_words(family: str, pairs: dict[str, tuple[HfTokenizer, Any]]) -> None:
    ours, _ = pairs[family]
    assert len(ours.units("red dog red")) == 3
    assert ours.shown("Red dog")[len(ours.before)].lower() == "red"
    assert ours.shown("Red dog")[-1] == "<end>"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_tokeniser_is_the_same(family: str, pairs: dict[str, tuple[HfTokenizer, Any]], tmp_path: Path) -> None:
    ours, _ = pairs[family]
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, HfTokenizer)
    assert [again.units(s) for s in SENTENCES] == [ours.units(s) for s in SENTENCES]
    assert again.fingerprint() == ours.fingerprint()
    assert (again.before, again.after, again.unknown, again.context) == (
        ours.before, ours.after, ours.unknown, CONTEXT
    )  # fmt: skip


def test_what_is_known(pairs: dict[str, tuple[HfTokenizer, Any]]) -> None:
    for family in ("siglip", "siglip2"):
        ours, _ = pairs[family]
        assert ours.knows("a dog")
        assert not ours.knows("")
    assert not pairs["siglip2"][0].knows("日本")
    assert pairs["siglip2"][0].knows("日本 dog")
    assert pairs["siglip2"][0].unknown_rate(["a dog", "日本 dog"]) == 1 / 4
    assert pairs["siglip2"][0].unknown_rate([""]) == 0
    assert pairs["siglip2"][0].fingerprint() != pairs["clip"][0].fingerprint()


def test_augmentation_leaves_whole_words_out(pairs: dict[str, tuple[HfTokenizer, Any]]) -> None:
    ours, _ = pairs["clip"]
    units = ours.units("red dog cat red dog")
    lengths = {len(ours.join(units, random.Random(seed), 0.5)) for seed in range(20)}
    assert min(lengths) < len(ours.join(units)) == max(*lengths, len(ours.join(units)))
    for seed in range(20):
        ids = ours.join(units, random.Random(seed), 0.99)
        assert ids[:1] == ours.before
        assert ids[-1:] == ours.after
        assert len(ids) >= 3
        assert ids[1:-1][: len(units[0])] in units or ids[1:-1] in units


def test_a_damaged_file_and_a_slow_tokeniser_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json' is damaged"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a object without a tokenizer\.json"):
        HfTokenizer.of(object(), 5)
