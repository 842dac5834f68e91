"""Vectors in the place of CLIP's: the mean region of an image and the mean hidden state of a caption, with a note."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small import recipe_values, refused, write_bert, write_precomp

from patchword.cli import main
from patchword.data.clip_features import STAND_INS, extract_clip
from patchword.data.features import RegionFeatures
from patchword.data.open import open_split
from patchword.data.stand_ins import mean_regions, stand_ins_of
from patchword.encoders.sentence import SentenceEncoder
from patchword.errors import DataError
from patchword.recipe import make_recipe
from patchword.train.run import train

SIZES = {"train": 8, "dev": 4}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "tiny", positions=12)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_precomp(tmp_path / "data", SIZES)


def prepare(data: Path, bert: Path, *more: str) -> int:
    return main(["prepare", "stand-ins", str(data), "--text", str(bert), *more])


def test_they_are_means_of_unit_length_padded_to_one_width(
    data: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(data, bert, "--called", "TinyBERT") == 0
    said = capsys.readouterr().out
    assert "sentence vectors of TinyBERT stand in for CLIP's global vectors" in said
    assert "--model.clip_dim 16" in said
    split = open_split(data, "train")
    images = np.load(data / "train_ims_clip.npy")
    mean = np.load(data / "train_ims.npy").mean(axis=1)
    assert images.shape == (8, 16)
    np.testing.assert_allclose(images[:, :8], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert not images[:, 8:].any()
    captions = np.load(data / "train_caps_clip.npy")
    model: Any = transformers.BertModel.from_pretrained(bert).eval()
    pieces = transformers.BertTokenizer(str(bert / "vocab.txt"))
    tokens = pieces(split.captions[0], return_tensors="pt")
    with torch.no_grad():
        one = model(**tokens).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(captions[0], (one / one.norm()).numpy(), atol=1e-5)
    about = stand_ins_of(split)
    assert about is not None
    assert (about.width, about.captions) == (16, "sentence vectors of TinyBERT")
    assert str(data) not in (data / STAND_INS).read_text(encoding="utf-8")


def test_aahr_trains_on_them(data: Path, bert: Path, tmp_path: Path) -> None:
    assert prepare(data, bert) == 0
    values = recipe_values("aahr", data)
    values["model"] |= {"guide": "clip", "clip_dim": 16}
    assert train(make_recipe(values), tmp_path / "run").position.step > 0


def test_images_of_different_numbers_of_regions_count_only_their_own(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    features = RegionFeatures(tmp_path, array, np.arange(2), np.array([0, 1, 4]))
    means = torch.from_numpy(np.stack([array[0], array[1:].mean(0)]))
    torch.testing.assert_close(mean_regions(features, range(2)), means / means.norm(dim=1, keepdim=True))


def test_long_sentences_are_cut_and_batches_do_not_matter(bert: Path) -> None:
    encoder = SentenceEncoder(bert)
    long, longer, short = encoder.encode(["dog " * 10, "dog " * 40, "a cat"])
    torch.testing.assert_close(long, longer)
    torch.testing.assert_close(encoder.encode(["a cat"])[0], short)
    assert encoder.fingerprint() == SentenceEncoder(bert).fingerprint()


def test_vectors_of_clip_are_not_replaced_and_stand_ins_not_taken_for_them(
    data: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(data / "dev_caps_clip.npy", np.zeros((20, 4), np.float32))
    words: list[str | Path] = ["prepare", "stand-ins", data, "--text", bert]
    assert "holds vectors of CLIP, which stand-ins would replace" in refused(words, capsys, kind="DataError")
    assert stand_ins_of(open_split(data, "dev")) is None
    (data / "dev_caps_clip.npy").unlink()
    assert prepare(data, bert) == 0
    capsys.readouterr()
    assert prepare(data, bert, "--json") == 0
    assert [one["width"] for one in json.loads(capsys.readouterr().out)] == [16] * 4
    (data / "images").mkdir()
    for split, count in SIZES.items():
        for k in range(count):
            (data / "images" / f"{split}_{k}.png").write_bytes(b"")
    with pytest.raises(DataError, match="stand-ins of CLIP's vectors lie there"):
        extract_clip(data, "no clip")
    (data / STAND_INS).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        stand_ins_of(open_split(data, "dev"))


def test_annotations_alone_have_no_regions(data: Path, bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in SIZES:
        (data / f"{split}_ims.npy").unlink()
    words: list[str | Path] = ["prepare", "stand-ins", data, "--text", bert]
    assert "no split has features" in refused(words, capsys, kind="DataError")
