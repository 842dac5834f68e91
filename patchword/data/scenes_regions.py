"""Regions of a picture: where an imperfect detector would look, and the vector of what it sees there.

A region vector is a fixed function of the pixels inside the box and of the box itself, plus seeded noise:

    vector = relu(A d(crop, box) + a + noise),      A (F x 297) and a fixed once for all data sets

d is made of colour histograms (whole crop, its middle, its four quarters), colourfulness on an 8 x 8 grid, histograms
of gradient directions on a 4 x 4 grid, and the box. The vectors are non-negative like those of a real detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from patchword.data.scenes_draw import Placement
from patchword.data.scenes_world import Scene

REGION_WIDTH = 192  # F
FEWEST_REGIONS = 10
NOISE = 0.15  # standard deviation beside activations of about 1
CROP = 16  # pixels to which the side of every crop is resized

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels


def propose_boxes(
    scene: Scene, placements: Sequence[Placement], generator: np.random.Generator, *, regions: int, canvas: int
) -> Float32[np.ndarray, "R 4"]:
    """Draw the boxes of a picture in random order, x1, y1, x2, y2 in 0..1.

    All things with a detector's inaccuracy, the things of a pair together, other unions of two, things with too much
    around them, parts of things, and for the rest boxes that fell anywhere.
    """
    things = [placement.box for placement in placements]
    boxes = [_jitter(box, 1, generator) for box in things]
    boxes += [_jitter(_union(things[pair.first], things[pair.second]), 2, generator) for pair in scene.pairs]
    loose = [_jitter(_grow(box, int(generator.integers(2, 8))), 2, generator) for box in things]
    unions = [_jitter(_union(things[i], things[j]), 2, generator) for i in range(len(things)) for j in range(i)]
    chosen = generator.permutation(len(unions))[:8].tolist()
    boxes += [*loose, *(unions[k] for k in chosen), *(_part(box, generator) for box in things)]
    while len(boxes) < regions:
        side = generator.integers(14, 90, size=2)
        corner = generator.integers(0, canvas - side)
        boxes.append((int(corner[0]), int(corner[1]), int(corner[0] + side[0]), int(corner[1] + side[1])))
    pixels = np.clip(np.asarray(boxes[:regions]), 0, canvas)[generator.permutation(regions)]  # (R, 4)
    return np.asarray(pixels / canvas, dtype=np.float32)


def _jitter(box: Box, amount: int, generator: np.random.Generator) -> Box:
    """Move each side by up to ``amount`` pixels."""
    x1, y1, x2, y2 = (np.asarray(box) + generator.integers(-amount, amount + 1, size=4)).tolist()
    return x1, y1, x2, y2


def _grow(box: Box, amount: int) -> Box:
    """Move each side outwards."""
    return box[0] - amount, box[1] - amount, box[2] + amount, box[3] + amount


def _union(box: Box, other: Box) -> Box:
    """The smallest box around two."""
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def _part(box: Box, generator: np.random.Generator) -> Box:
    """About two thirds of a box at one of its corners."""
    x1, y1, x2, y2 = box
    width, height = round((x2 - x1) * generator.uniform(0.5, 0.8)), round((y2 - y1) * generator.uniform(0.5, 0.8))
    x1, y1 = (x2 - width if generator.random() < 0.5 else x1), (y2 - height if generator.random() < 0.5 else y1)
    return x1, y1, x1 + width, y1 + height


def region_vectors(
    picture: UInt8[np.ndarray, "H W 3"], boxes: Float32[np.ndarray, "R 4"], generator: np.random.Generator
) -> Float32[np.ndarray, "R F"]:
    """Describe the regions of a picture: ``relu(A d + a + noise)``, the noise drawn from ``generator``.

    Args:
        picture: the pixels.
        boxes: x1, y1, x2, y2 in 0..1, each at least one pixel wide and high.
        generator: where the noise comes from.

    Returns:
        Non-negative vectors, about half of the entries zero.
    """
    described = describe_crops(picture, boxes)  # (R, 297)
    matrix, bias = _projection(described.shape[1])
    noise = NOISE * generator.standard_normal((len(boxes), REGION_WIDTH), dtype=np.float32)
    return np.asarray(np.maximum(_product(described, matrix) + bias + noise, 0.0))


def _product(a: Float32[np.ndarray, "*A k"], b: Float32[np.ndarray, "*B n"]) -> Float32[np.ndarray, "*C n"]:
    """Matrix product through torch, whose threads the caller can limit: for products this small, NumPy's threads wait
    for each other longer than they work (8.0 s against 2.3 s for 280 images on two busy cores)."""
    return np.asarray(
        torch.matmul(torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b)))
    )


@lru_cache(maxsize=1)
def _projection(width: int) -> tuple[Float32[np.ndarray, "d F"], Float32[np.ndarray, " F"]]:
    """The fixed random matrix (transposed) and bias of all region vectors."""
    generator = np.random.default_rng(20230618)
    matrix = generator.standard_normal((width, REGION_WIDTH)).astype(np.float32)
    return matrix, (0.3 * generator.standard_normal(REGION_WIDTH)).astype(np.float32)


def describe_crops(
    picture: UInt8[np.ndarray, "H W 3"], boxes: Float32[np.ndarray, "R 4"]
) -> Float32[np.ndarray, "R d"]:
    """Colours, colourfulness, gradient directions and geometry of every box, as four blocks side by side."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    pixels = np.rint(boxes * np.asarray([width, height, width, height], dtype=np.float32)).astype(int).tolist()
    bilinear = Image.Resampling.BILINEAR
    crops = np.stack(  # (R, S, S, 3)
        [np.asarray(image.resize((CROP, CROP), bilinear, box=tuple(box))) for box in pixels]
    )
    values = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32) / 255  # (R, 3, S, S)
    blocks = (_colours(crops), _colourfulness(values), _gradients(values), _geometry(boxes))
    return np.concatenate(blocks, axis=1)


def _colours(crops: UInt8[np.ndarray, "R S S 3"]) -> Float32[np.ndarray, "R c"]:
    """Histograms over 3 x 3 x 3 colours, neighbours sharing a pixel: of the crop, its middle and its four quarters."""
    coarse = (crops >> 4).astype(np.intp)  # 16 levels of each channel
    numbers = (coarse[..., 0] * 256 + coarse[..., 1] * 16 + coarse[..., 2]).reshape(len(crops), -1)  # (R, S*S)
    joint = _colour_shares()[numbers]  # (R, S*S, 27)
    return np.asarray(0.4 * np.sqrt(_product(_areas(), joint)).reshape(len(crops), -1))


@lru_cache(maxsize=1)
def _colour_shares() -> Float32[np.ndarray, "4096 27"]:
    """How much each of 16 x 16 x 16 colours belongs to each of 3 x 3 x 3; every row adds up to 1."""
    near = np.maximum(1 - np.abs(np.linspace(0, 1, 16)[:, None] - np.linspace(0, 1, 3)) * 2, 0)  # (16, 3)
    shares = np.einsum("rx,gy,bz->rgbxyz", near, near, near).reshape(16**3, 27)
    return np.asarray(shares, dtype=np.float32)


@lru_cache(maxsize=1)
def _areas() -> Float32[np.ndarray, "6 P"]:
    """What to multiply the pixels of a crop with to average over all of it, its middle, and its four quarters."""
    areas, half, quarter = np.zeros((6, CROP, CROP), dtype=np.float32), CROP // 2, CROP // 4
    areas[0] = 1
    areas[1, quarter:-quarter, quarter:-quarter] = 1
    for k in range(4):
        row, column = divmod(k, 2)
        areas[2 + k, row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
    return np.asarray((areas / areas.sum(axis=(1, 2), keepdims=True)).reshape(6, -1))


@lru_cache(maxsize=2)
def _grid(cells: int) -> Float32[np.ndarray, "P c"]:
    """What to multiply the pixels of a crop with to average over each cell of a square grid."""
    cell = np.arange(CROP) * cells // CROP
    place = cell[:, None] * cells + cell  # (S, S)
    inside = place.reshape(-1, 1) == np.arange(cells**2)  # (S*S, c)
    return np.asarray(inside * (cells / CROP) ** 2, dtype=np.float32)


def _colourfulness(values: Float32[np.ndarray, "R 3 S S"]) -> Float32[np.ndarray, "R c"]:
    """How far the pixels are from grey, on an 8 x 8 grid: roughly the outline of what is in the crop."""
    red, green, blue = values[:, 0], values[:, 1], values[:, 2]
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return np.asarray(0.25 * _product((most - least).reshape(len(values), -1), _grid(8)))


def _gradients(values: Float32[np.ndarray, "R 3 S S"]) -> Float32[np.ndarray, "R c"]:
    """Histograms of the directions of brightness gradients (four directions, sign ignored) on a 4 x 4 grid."""
    grey = (values[:, 0] + values[:, 1] + values[:, 2]) / 3
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    diagonal = np.float32(0.5**0.5)
    strength = np.abs(np.stack([across, down, (across + down) * diagonal, (across - down) * diagonal], axis=1))
    pooled = np.sqrt(_product(strength.reshape(len(values), 4, -1), _grid(4)))  # (R, 4, 16)
    return np.asarray(0.6 * pooled.reshape(len(values), -1))


def _geometry(boxes: Float32[np.ndarray, "R 4"]) -> Float32[np.ndarray, "R c"]:
    """Corners, width, height and area, with usual values near 0."""
    x1, y1, x2, y2 = boxes.T
    width, height = x2 - x1, y2 - y1
    parts = [x1 - 0.5, y1 - 0.5, x2 - 0.5, y2 - 0.5, 2 * width - 0.5, 2 * height - 0.5, 4 * width * height - 0.3]
    return np.float32(0.8) * np.stack(parts, axis=1)
