"""Lit words: they add up to the score, and get the right words and boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import write_checkpoint
from held import Rows, random_model
from PIL import Image

from patchword.data.pictures import PictureFiles
from patchword.data.table import Split
from patchword.encoders.patches import VitConfig
from patchword.errors import DataError
from patchword.explain.lit_words import LitWord, explain_picture, grid_boxes, light_words, lit_words, telling_patches
from patchword.loading import load
from patchword.model import Model
from patchword.types import Alignment

CAPTIONS = ["a red ball , left of a box", "two dogs", "a box", "a red dog"]
TINY_VIT = {
    "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16,
}  # fmt: skip


def a_split() -> Split:
    """Two images of five regions, two captions each, with boxes."""
    values = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    boxes = np.tile(np.array([0.1, 0.2, 0.5, 0.9], dtype=np.float32), (2, 5, 1))
    return Split("toy", "test", ["x", "y"], CAPTIONS, np.array([0, 0, 1, 1]), images=Rows(values), boxes=boxes)


def a_model(kind: str, *, image: Any = None) -> Model:
    """A small model with random weights."""
    if kind == "vse_inf":
        return random_model(kind, CAPTIONS, width=6, image=image, joint_dim=16, seed=1)
    coding, pooling = kind.split("-")
    chan = {"coding": coding, "pooling": pooling}
    return random_model("chan", CAPTIONS, width=6, image=image, joint_dim=16, seed=1, **chan)


@pytest.mark.parametrize("kind", ["vha-mean", "vha-lse", "vha-max", "tha-mean", "vsa-softmax", "vse_inf"])
def test_the_words_add_up_to_the_score(kind: str) -> None:
    model, split = a_model(kind), a_split()
    images, captions = model.encode_images(split.require_images()), model.encode_captions(split.captions)
    scores = model.score(images, captions)
    for image in range(2):
        for caption in range(4):
            found = light_words(model, split, image, caption)
            assert sum(word.part for word in lit_words(found)) == pytest.approx(found.score, abs=1e-5)
            assert found.score == pytest.approx(float(scores[image, caption]), abs=1e-5)


def test_words_and_boxes_are_those_of_the_caption_and_image() -> None:
    found = light_words(a_model("vha-mean"), a_split(), 1, "a red box")
    assert found.words == ("<start>", "a", "red", "box", "<end>")
    assert [word.is_mark for word in lit_words(found)] == [True, False, False, False, True]
    assert found.boxes is not None
    assert found.boxes.shape == (5, 4)
    no_boxes = light_words(a_model("vha-mean"), replace(a_split(), boxes=None), 1, "a red box")
    assert no_boxes.boxes is None


def test_an_image_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match=r"no image 7\. Expected 0\.\.1"):
        light_words(a_model("vha-mean"), a_split(), 7, 0)


def test_pictures_get_the_cells_of_their_grid(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (200, 10, 10)).save(tmp_path / "x.png")
    split = Split(
        "toy", "test", ["x"], CAPTIONS[:2], np.array([0, 0]),
        images=PictureFiles([tmp_path / "x.png"]), files=[tmp_path / "x.png"],
    )  # fmt: skip
    found = light_words(a_model("vha-mean", image=VitConfig(arch=TINY_VIT)), split, 0, 1)
    assert found.parts.shape[1] == 4
    assert found.boxes is not None
    assert found.boxes[3].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert grid_boxes(6) is None


def test_known_regions_are_not_the_cells_of_a_model_that_reads_pictures(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("RGB", (50, 40), (200, 10, 10)).save(file)
    split = replace(a_split(), images=PictureFiles([file, file]), files=[file, file])
    model = a_model("vha-mean", image=VitConfig(arch=TINY_VIT))
    found, expected = light_words(model, split, 0, "a red box"), explain_picture(model, file, "a red box")
    assert found.boxes is not None
    assert expected.boxes is not None
    assert torch.equal(found.boxes, expected.boxes)


def test_the_strongest_telling_words_choose_the_patches() -> None:
    parts = torch.tensor([[9.0, 0, 0], [0, 8, 0], [0, 0, 2], [0, 3, 0], [0, 0, -1]])
    words = lit_words(Alignment(parts, 21.0, ("a", "<end>", "red", "box", "big")))
    assert [word.is_telling for word in words] == [False, False, True, True, False]
    assert telling_patches(words, 3) == [1, 2]
    assert telling_patches(words, 1) == [1]
    assert telling_patches([LitWord("no", 1.0, 0, False)], 3) == []


def test_boxes_of_a_model_that_sees_the_middle_lie_in_the_whole_picture(tmp_path: Path) -> None:
    """A picture twice as wide as high: CLIP's crop is its middle half."""
    Image.new("RGB", (64, 32), "orange").save(tmp_path / "wide.png")
    model = load(write_checkpoint(tmp_path / "clip"))
    found = explain_picture(model, tmp_path / "wide.png", "ab")
    assert found.boxes is not None
    cells = found.boxes[1:] if len(found.boxes) == 17 else found.boxes  # without the whole picture in front
    assert cells.amin(0).tolist() == pytest.approx([0.25, 0, 0.375, 0.25], abs=0.02)
    assert cells.amax(0).tolist() == pytest.approx([0.625, 0.75, 0.75, 1], abs=0.02)
