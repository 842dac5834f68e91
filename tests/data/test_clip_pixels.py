"""Where the pixels of a CLIP come from in the picture, and how a NaFlex grid travels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from patchword.data.clip_pixels import ClipTransform, grid, place_boxes, split_shapes
from patchword.data.pictures import ImagenetTransform
from patchword.errors import ConfigError

PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}, **PLAIN}


def gradient(height: int, width: int) -> np.ndarray:
    """A picture whose red grows from left to right and whose green grows from top to bottom."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return picture


@pytest.mark.parametrize(("height", "width"), [(60, 180), (200, 90), (50, 50)])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("clip", CROPPED),
        ("clip", {**CROPPED, "size": {"height": 50, "width": 60}}),
        ("clip", {**CROPPED, "do_center_crop": False, "size": {"height": 40, "width": 40}}),
        ("siglip", {"size": {"height": 40, "width": 40}, **PLAIN}),
    ],
)
def test_the_shown_part_is_what_the_pixels_show(family: str, settings: dict[str, Any], height: int, width: int) -> None:
    transform = ClipTransform(family, settings)
    pixels = transform(gradient(height, width))
    x1, y1, x2, y2 = transform.shown(height, width)
    assert pixels.shape == (3, 40, 40)
    for found, edge in (
        (pixels[0, 20, 0], x1),
        (pixels[0, 20, -1], x2),
        (pixels[1, 0, 20], y1),
        (pixels[1, -1, 20], y2),
    ):
        assert float(found) == pytest.approx(edge, abs=0.03)


def test_boxes_are_placed_in_the_picture() -> None:
    transform = ClipTransform("clip", CROPPED)
    placed = place_boxes(grid(2, 2), transform, 50, 100)
    assert placed[0].tolist() == pytest.approx([0.25, 0.0, 0.5, 0.5])
    assert placed[3].tolist() == pytest.approx([0.5, 0.5, 0.75, 1.0])
    assert torch.equal(place_boxes(grid(2, 2), ImagenetTransform(40), 50, 100), grid(2, 2))


def test_a_naflex_grid_travels_with_its_patches() -> None:
    transform = ClipTransform("siglip2", {"patch_size": 4, "max_num_patches": 30, **PLAIN})
    patches, shapes = split_shapes(torch.stack([transform(gradient(20, 60)), transform(gradient(60, 20))]))
    assert patches.shape == (2, 30, 48)
    (h, w), (h2, w2) = shapes.tolist()
    assert (h, w) == (w2, h2)
    assert h * w <= 30 < (h + 1) * (w + 3)
    assert w > 2 * h
    assert (patches[0, h * w :] == 0).all()
    assert transform.shown(20, 60) == (0.0, 0.0, 1.0, 1.0)


def test_training_flips_half_of_the_pictures() -> None:
    transform = ClipTransform("siglip", {"size": {"height": 40, "width": 40}, **PLAIN})
    picture, plain = gradient(40, 40), transform(gradient(40, 40))
    found = [transform(picture, np.random.default_rng(seed)) for seed in range(20)]
    flipped = [torch.equal(one, plain.flip(2)) for one in found]
    assert 4 < sum(flipped) < 16
    assert all(torch.equal(one, plain) for one, is_flipped in zip(found, flipped, strict=True) if not is_flipped)


def test_a_worker_gets_the_settings_and_wrong_ones_are_refused() -> None:
    transform = ClipTransform("clip", CROPPED)
    pixels = transform(gradient(50, 60))
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform
    assert "transform" not in again.__dict__
    assert torch.equal(again(gradient(50, 60)), pixels)
    with pytest.raises(ConfigError, match="the `transform` of a clip model is wrong"):
        ClipTransform("clip", {"size": {"wide": 3}})(gradient(50, 60))
