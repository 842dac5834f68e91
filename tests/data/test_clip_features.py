import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small import refused, write_pictures
from torch import Tensor

from patchword.cli import main
from patchword.data import clip_features
from patchword.data.clip_features import ClipEncoder, extract_clip, write_rows
from patchword.data.extras import require_extras
from patchword.data.open import open_split
from patchword.data.pictures import decode
from patchword.errors import CheckpointError, DataError

SIZES = {"train": 5, "dev": 3}


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A tiny random CLIP with its tokeniser and its picture transform."""
    folder.mkdir()
    torch.manual_seed(seed)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    text = {**tower, "vocab_size": len(tokens), "max_position_embeddings": 20, **ends}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 8}, projection_dim=6
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[("r", "e"), ("re", "d</w>")]).save_pretrained(folder)
    transform = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3]
    )
    transform.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def encoder(clip: Path) -> ClipEncoder:
    return ClipEncoder(clip)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "colours", SIZES)


def rows_of(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


def test_every_image_and_caption_gets_its_vector(data: Path, clip: Path, encoder: ClipEncoder) -> None:
    written = extract_clip(data, encoder, batch=2)
    assert [one.path.name for one in written] == [f"{s}_{side}_clip.npy" for s in SIZES for side in ("ims", "caps")]
    assert [(one.rows, one.width, one.computed) for one in written[:2]] == [(5, 6, 5), (10, 6, 10)]
    model: Any = transformers.CLIPModel.from_pretrained(clip)
    tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(clip)
    transform: Any = transformers.CLIPImageProcessorPil.from_pretrained(clip)
    split = open_split(data, "train")
    images, captions = rows_of(data / "train_ims_clip.npy"), rows_of(data / "train_caps_clip.npy")
    assert images.dtype == captions.dtype == torch.float32
    assert split.files is not None
    with torch.no_grad():
        for row, path in zip(images, split.files, strict=True):
            pixels = transform(decode(path), return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(row, model.get_image_features(pixel_values=pixels).pooler_output[0])
        for row, caption in zip(captions, split.captions, strict=True):
            tokens = tokenizer([caption], return_tensors="pt")
            torch.testing.assert_close(row, model.get_text_features(**tokens).pooler_output[0], atol=1e-6, rtol=1e-5)
    assert (images.norm(dim=1) - 1).abs().min() > 1e-3  # not normalised
    assert not torch.allclose(images[0], images[1])


def test_the_data_layer_finds_them(data: Path, encoder: ClipEncoder) -> None:
    with pytest.raises(DataError, match=r"train_ims_clip\.npy"):
        require_extras(open_split(data, "train"), ("clip",), ("clip",))
    extract_clip(data, encoder, splits=["train"])
    split = open_split(data, "train").select([3, 1])
    require_extras(split, ("clip",), ("clip",))
    assert torch.equal(split.image_extras["clip"].read([0])["clip"], rows_of(data / "train_ims_clip.npy")[3:4])
    assert torch.equal(split.caption_extras["clip"].read([2, 3])["clip"], rows_of(data / "train_caps_clip.npy")[2:4])
    assert not (data / "dev_ims_clip.npy").exists()


def test_the_size_of_a_batch_changes_nothing(data: Path, encoder: ClipEncoder) -> None:
    extract_clip(data, encoder, splits=["train"], batch=1)
    one = rows_of(data / "train_caps_clip.npy")
    extract_clip(data, encoder, splits=["train"], batch=64, again=True)
    torch.testing.assert_close(rows_of(data / "train_caps_clip.npy"), one, atol=1e-6, rtol=1e-5)


def test_an_interrupted_run_goes_on(
    data: Path, encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_clip(data, encoder, splits=["train"], batch=1)
    expected = {side: rows_of(data / f"train_{side}_clip.npy") for side in ("ims", "caps")}
    other = write_pictures(tmp_path / "other" / "colours", SIZES)
    monkeypatch.setattr(clip_features, "SAVE_EVERY", 2)
    texts = encoder.encode_texts
    calls = []

    def failing(sentences: list[str]) -> Tensor:
        calls.append(len(sentences))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return texts(sentences)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode_texts", failing)
        with pytest.raises(KeyboardInterrupt):
            extract_clip(other, encoder, splits=["train"], batch=1)
    assert not (other / "train_caps_clip.npy").exists()
    images, captions = extract_clip(other, encoder, splits=["train"], batch=1)
    assert (images.computed, captions.computed) == (0, 4)  # 6 of 10 captions were noted as done
    for side, rows in expected.items():
        assert torch.equal(rows_of(other / f"train_{side}_clip.npy"), rows)
    assert not list(other.glob(".*partial*"))


def compute(part: range) -> Tensor:
    return torch.arange(part.start, part.stop, dtype=torch.float32)[:, None].expand(-1, 2)


def test_rows_of_another_model_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_features, "SAVE_EVERY", 1)

    def stops(part: range) -> Tensor:
        if part.start >= 4:
            raise KeyboardInterrupt
        return torch.full((len(part), 2), -1.0)

    for fingerprint, computed in (("other", 6), ("same", 2)):
        path = tmp_path / f"{fingerprint}.npy"
        with pytest.raises(KeyboardInterrupt):
            write_rows(path, 6, 2, stops, batch=2, fingerprint="same")
        assert write_rows(path, 6, 2, compute, batch=2, fingerprint=fingerprint).computed == computed
        assert np.load(path)[:, 0].tolist() == ([-1.0] * 4 if computed == 2 else [0.0, 1.0, 2.0, 3.0]) + [4.0, 5.0]
    (tmp_path / ".cut.npy.partial").write_bytes(b"short")
    note = {"fingerprint": "same, 6 rows", "shapes": [[2]], "rows": 4, "kept": {}}
    (tmp_path / ".cut.npy.partial.json").write_text(json.dumps(note))
    assert write_rows(tmp_path / "cut.npy", 6, 2, compute, batch=2, fingerprint="same").computed == 6


def test_complete_files_are_kept_and_wrong_ones_refused(data: Path, encoder: ClipEncoder) -> None:
    extract_clip(data, encoder, splits=["dev"])
    path = data / "dev_ims_clip.npy"
    np.save(path, np.full((3, 6), 7.0, dtype=np.float32))
    assert [one.computed for one in extract_clip(data, encoder, splits=["dev"])] == [0, 0]
    assert (rows_of(path) == 7).all()
    np.save(path, np.zeros((4, 6), dtype=np.float32))
    path.with_name("dev_caps_clip.npy").unlink()
    with pytest.raises(DataError, match=r"4 rows|has shape"):
        extract_clip(data, encoder, splits=["dev"])
    path.unlink()
    assert [one.computed for one in extract_clip(data, encoder, splits=["dev"], again=True)] == [3, 6]


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"item 3 of 'x\.npy'"):
        write_rows(
            tmp_path / "x.npy",
            5,
            2,
            lambda part: torch.where(compute(part) == 3, torch.nan, compute(part)),
            batch=2,
            fingerprint="",
        )
    assert not (tmp_path / "x.npy").exists()


def test_long_sentences_are_cut_and_blanks_do_not_matter(encoder: ClipEncoder) -> None:
    assert (encoder.width, encoder.max_tokens) == (6, 20)
    long = encoder.encode_texts(["red " * 40, "red " * 80, " red ", "red"])
    assert torch.equal(long[0], long[1])
    assert torch.equal(long[2], long[3])
    assert not torch.allclose(long[0], long[2])


def test_models_are_told_apart(encoder: ClipEncoder, clip: Path, tmp_path: Path) -> None:
    assert ClipEncoder(clip).fingerprint() == encoder.fingerprint()
    assert ClipEncoder(write_clip(tmp_path / "other", seed=1)).fingerprint() != encoder.fingerprint()


def test_the_verb(data: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "clip", str(data), "--clip", str(clip), "--splits", "dev"]) == 0
    assert "'" + str(data / "dev_caps_clip.npy") + "': 6 rows of width 6, 6 computed now" in capsys.readouterr().out
    assert main(["extract", "clip", str(data), "--clip", str(clip), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["computed"] for one in said] == [5, 10, 0, 0]


def test_what_is_no_clip_is_refused(data: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run: list[str | Path] = ["extract", "clip", data, "--clip"]
    assert "holds no config.json" in refused([*run, empty], capsys, kind="CheckpointError")
    broken = tmp_path / "broken"
    shutil.copytree(clip, broken)
    (broken / "tokenizer.json").unlink()
    assert "holds no CLIP vocabulary" in refused([*run, broken], capsys, kind="CheckpointError")
    (broken / "config.json").write_text('{"model_type": "bert"}')
    assert "describes a 'bert' model" in refused([*run, broken], capsys, kind="CheckpointError")
    cut = tmp_path / "cut"
    shutil.copytree(clip, cut)
    (cut / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="can not be loaded as a CLIP model"):
        ClipEncoder(cut)
    weights = load_file(clip / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights .* `text_projection\.weight`"):
        ClipEncoder(cut)


def test_data_without_pictures_or_place_is_refused(
    data: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(data / "images", tmp_path / "gone")
    np.save(data / "train_ims.npy", np.zeros((5, 2, 3), dtype=np.float32))
    np.save(data / "dev_ims.npy", np.zeros((3, 2, 3), dtype=np.float32))
    said = refused(["extract", "clip", data, "--clip", clip], capsys, kind="DataError")
    assert "CLIP needs pictures, and there are none" in said
    table = tmp_path / "table"
    table.mkdir()
    (table / "captions.jsonl").write_text('{"image": "a.png", "split": "train", "captions": ["red"]}\n')
    said = refused(["extract", "clip", table, "--clip", clip], capsys, kind="DataError")
    assert "layout pairs_file" in said


def test_graphs_beside_the_captions_are_no_split(data: Path, encoder: ClipEncoder) -> None:
    shutil.copy(data / "train_caps.txt", data / "train_amr_caps.txt")
    written = extract_clip(data, encoder)
    assert [one.path.name for one in written] == [f"{s}_{side}_clip.npy" for s in SIZES for side in ("ims", "caps")]
