"""The casing of a BERT, from its folder (or the hub) into a model, a checkpoint and a resumed run."""

import fnmatch
import json
import shutil
from pathlib import Path

import pytest
from small import recipe, write_bert, write_precomp

from patchword import checkpoint
from patchword.data.casing import FILE, Casing
from patchword.data.tokenizers import PieceTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from patchword.data.vocab import Vocabulary
from patchword.data.wordpiece import WordPieces
from patchword.encoders import pretrained
from patchword.errors import ConfigError
from patchword.export import run
from patchword.loading import load
from patchword.train.run import train
from patchword.train.setup import prepare

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "Hund",
    "hund",
    "Straße",
    "é",
    "e",
    *(f"w{k}" for k in range(99)),
]
CASED = {"do_lower_case": False}


def test_a_saved_tokeniser_keeps_its_casing(tmp_path: Path) -> None:
    for number, casing in enumerate((Casing(), Casing(False, False, True), Casing(False, True, False))):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = PieceTokenizer(WordPieces(TOKENS, casing))
        made.save(folder)
        again = load_tokenizer(folder)
        assert isinstance(again, PieceTokenizer)
        assert again.pieces.casing == casing
        assert again.units("Hund hund Straße é") == made.units("Hund hund Straße é")
        assert again.fingerprint() == made.fingerprint()
    assert load_tokenizer(tmp_path / "1").units("Hund Straße é") == [[5], [7], [8]]  # type: ignore[union-attr]


@pytest.mark.parametrize("files", [checkpoint._OURS, run._OURS], ids=["checkpoint", "export"])
def test_what_a_tokeniser_writes_may_be_replaced(files: frozenset[str], tmp_path: Path) -> None:
    made = PieceTokenizer(WordPieces(TOKENS))
    for _ in range(2):
        checkpoint.save_folder(tmp_path / "model", made.save, files=files)


def test_a_checkpoint_that_does_not_say_is_uncased(tmp_path: Path) -> None:
    PieceTokenizer(WordPieces(TOKENS, Casing(False, False, False))).save(tmp_path)
    (tmp_path / FILE).unlink()
    found = load_tokenizer(tmp_path)
    assert found is not None
    assert found.units("Hund É") == [[6], [9]]


def test_fingerprints_tell_what_decides_about_ids() -> None:
    casings = [Casing(), Casing(False, False), Casing(False, True), Casing(False, False, False)]
    made: list[Tokenizer] = [
        PieceTokenizer(WordPieces(tokens, casing)) for casing in casings for tokens in (TOKENS, TOKENS[:-1])
    ]
    words = [WordTokenizer(Vocabulary.build(["a dog", more], min_count=1)) for more in ("runs", "sits")]
    assert len({one.fingerprint() for one in [*made, *words]}) == len(made) + len(words)
    assert PieceTokenizer(WordPieces(TOKENS)).fingerprint() == made[0].fingerprint()


def test_shares_of_unknown_words() -> None:
    words = WordTokenizer(Vocabulary.build(["a dog runs"], min_count=1))
    assert words.unknown_rate(["A dog sits", "dog"]) == 1 / 4
    pieces = PieceTokenizer(WordPieces(TOKENS))
    assert pieces.unknown_rate(["Hund Straße hund", "É"]) == 1 / 4  # straße is no piece
    assert PieceTokenizer(WordPieces(TOKENS, Casing(False, False))).unknown_rate(["Hund Straße hund", "É"]) == 1 / 4
    assert pieces.unknown_rate(["w1 w2 " + "w" * 101, "Hund"]) == 1 / 4
    assert pieces.unknown_rate([]) == pieces.unknown_rate([""]) == 0


def test_a_hub_name_brings_the_files_that_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    there = write_bert(tmp_path / "hub")
    (there / FILE).write_text(json.dumps(CASED), encoding="utf-8")
    (there / "tokenizer.json").write_text("{}", encoding="utf-8")
    (there / "README.md").write_text("not wanted", encoding="utf-8")

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        for path in there.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, fetched)
        return str(fetched)

    fetched = tmp_path / "fetched"
    fetched.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(pretrained, "reachable", str)
    folder = pretrained.pretrained_folder(Path("somebody/bert-cased"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", FILE, "vocab.txt"
    ]  # fmt: skip
    assert WordPieces.read(folder).casing == Casing(False, False)


def write_cased_bert(folder: Path) -> Path:
    """A BERT whose pieces have capitals, as those of a cased BERT: ``Dog`` is known, ``dog`` is not."""
    write_bert(folder)
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(t.replace("dog", "Dog") for t in lines) + "\n", encoding="utf-8")
    (folder / FILE).write_text(json.dumps(CASED), encoding="utf-8")
    return folder


@pytest.mark.integration
def test_a_run_keeps_the_casing_and_goes_on_with_it_only(tmp_path: Path) -> None:
    data, bert = write_precomp(tmp_path / "data", {"train": 8, "dev": 4}), write_cased_bert(tmp_path / "bert")
    made = recipe("vse_inf", data, {"train": {"epochs": 1}}, bert=bert)
    tokenizer = prepare(made).tokenizer
    assert tokenizer.knows("Dog")
    assert not tokenizer.knows("dog")
    train(made, tmp_path / "run")
    stored = load(tmp_path / "run").tokenizer
    assert stored is not None
    assert stored.fingerprint() == tokenizer.fingerprint()
    assert stored.units("Dog dog") == tokenizer.units("Dog dog") != stored.units("dog Dog")
    (tmp_path / "run" / "last" / FILE).unlink()  # as a run that read the folder in lower case
    with pytest.raises(ConfigError, match="other words than this vocabulary, or in other case"):
        train(made, tmp_path / "run")
