import random
from collections import Counter
from pathlib import Path

import pytest

from patchword.data.tokenizers import (
    PieceTokenizer,
    Tokenizer,
    WordTokenizer,
    augment,
    load_tokenizer,
    longest,
    require_tokenizer,
)
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.errors import CheckpointError, DataError

PIECES = WordPieces(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "run", "##s", "a", ".", *(f"w{k}" for k in range(120))]
)


@pytest.fixture
def words() -> WordTokenizer:
    return WordTokenizer(Vocabulary.build(["a man in a red shirt rides the brown horse ."], min_count=1))


@pytest.fixture
def pieces() -> PieceTokenizer:
    return PieceTokenizer(PIECES)


def test_both_keep_the_contract(words: WordTokenizer, pieces: PieceTokenizer) -> None:
    for made, kind in ((words, "words"), (pieces, "pieces")):
        assert isinstance(made, Tokenizer)
        assert made.kind == kind
        for caption in ("a dog runs .", "A Man, a red zebra!", "", "?!"):
            ids = made.join(made.units(caption))
            assert len(made.shown(caption)) == len(ids)
            assert all(0 <= k < made.size for k in ids)


def test_words(words: WordTokenizer) -> None:
    ids = words.vocabulary.id
    assert words.shown("A man's horse.") == ["<start>", "a", "man", "'s", "horse", ".", "<end>"]
    assert words.join(words.units("A man's horse.")) == [1, ids("a"), ids("man"), 3, ids("horse"), ids("."), 2]
    assert words.join(words.units("")) == [1, 2]
    assert words.knows("zebra man")
    assert not words.knows("zebra giraffe")
    assert not words.knows("")


def test_pieces(pieces: PieceTokenizer) -> None:
    assert pieces.units("Dogs runs!") == [[5, 7], [6, 7], [1]]
    assert pieces.join(pieces.units("Dogs runs!")) == [2, 5, 7, 6, 7, 1, 3]
    assert pieces.shown("dogs") == ["[CLS]", "dog", "##s", "[SEP]"]
    assert pieces.knows("zebra dog")
    assert not pieces.knows("zebra !")
    with pytest.raises(DataError, match="has only 10 tokens"):
        PieceTokenizer(WordPieces(PIECES.tokens[:10]))


class _Fixed(random.Random):
    """Plays back given draws."""

    def __init__(self, draws: list[float]) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)

    def randrange(self, *args: int) -> int:  # type: ignore[override]
        return 77


def test_what_each_draw_does() -> None:
    units = [[10], [11, 12], [13], [14, 15], [16]]
    draws = [0.2, 0.0999, 0.1001, 0.1001, 0.1201]  # keep, mask, replace, replace, delete
    assert augment(units, _Fixed(draws), 0.2, 99, 1000) == [10, 99, 99, 77, 77, 77]
    assert augment(units, _Fixed([0.99] * 5), 0.2, 99, 1000) == [10, 11, 12, 13, 14, 15, 16]
    assert augment(units, _Fixed([0.199] * 5), 0.2, 99, 1000) == []


def test_the_same_generator_gives_the_same_ids(words: WordTokenizer, pieces: PieceTokenizer) -> None:
    for made in (words, pieces):
        units = made.units("a man in a red shirt runs a dog .")
        found = [made.join(units, random.Random(seed)) for seed in range(50)]
        assert found == [made.join(units, random.Random(seed)) for seed in range(50)]
        assert len({tuple(one) for one in found}) > 20


def test_a_caption_never_loses_all_its_tokens(words: WordTokenizer, pieces: PieceTokenizer) -> None:
    delete_all = [0.199] * 20
    assert words.join(words.units("a man"), _Fixed(delete_all)) == [1]
    assert pieces.join(pieces.units("a dog"), _Fixed(delete_all)) == [2, 3]
    for seed in range(3000):
        assert words.join(words.units(""), random.Random(seed), 1.0)


def test_special_tokens_of_pieces_are_never_touched(pieces: PieceTokenizer) -> None:
    units = pieces.units("a dog runs .")
    for seed in range(200):
        ids = pieces.join(units, random.Random(seed), 1.0)
        assert (ids[0], ids[-1]) == (2, 3)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_rates(rate: float) -> None:
    count, units = 40_000, [[5]]
    draw = random.Random(1)
    seen: Counter[str] = Counter()
    for _ in range(count):
        found = augment(units, draw, rate, 1, 1_000_000)
        seen["deleted" if not found else {5: "kept", 1: "masked"}.get(found[0], "replaced")] += 1
    for what, share in (("kept", 1 - rate), ("masked", rate * 0.5), ("replaced", rate * 0.1), ("deleted", rate * 0.4)):
        spread = (share * (1 - share) / count) ** 0.5
        assert abs(seen[what] / count - share) < 5 * spread, what


def test_replacements_are_uniform_over_all_ids() -> None:
    draw = random.Random(2)
    seen = Counter(k for _ in range(60_000) for k in augment([[500]], draw, 1.0, 999, 20) if k not in (500, 999))
    assert set(seen) == set(range(20))
    assert max(seen.values()) < 1.35 * min(seen.values())


def test_saving_and_loading(words: WordTokenizer, pieces: PieceTokenizer, tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None
    for name, made in (("a", words), ("b", pieces)):
        folder = tmp_path / name
        folder.mkdir()
        made.save(folder)
        again = load_tokenizer(folder)
        assert type(again) is type(made)
        assert again is not None
        assert again.size == made.size
        caption = "a man rides dogs, w7 zebra"
        assert again.join(again.units(caption)) == made.join(made.units(caption))


def test_a_model_without_a_vocabulary_is_refused_when_text_is_needed(words: WordTokenizer) -> None:
    assert require_tokenizer(words, "x") is words
    with pytest.raises(CheckpointError, match="'chan' holds no vocabulary"):
        require_tokenizer(None, "chan")


def test_longest() -> None:
    assert longest([[[1], [2, 3]], [[4]]]) == 3
    assert longest([]) == 0
