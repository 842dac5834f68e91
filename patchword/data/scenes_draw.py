"""Drawing a scene: where its things stand in pixels, and the picture with soft edges, textures and shadows.

Every thing is pasted through a mask that is drawn four times too large and reduced, and kept for the next picture:
there are a few hundred different masks in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from patchword.data.scenes_world import Pair, Scene

CANVAS = 160  # pixels; a cell is half of it
RADIUS = {"small": 11, "medium": 16, "large": 21}  # pixels
OVERSAMPLING = 4
MARGIN = 4  # pixels around a thing, room for its shadow
COLOURS = {
    "red": (214, 48, 49),
    "orange": (243, 145, 32),
    "yellow": (247, 212, 55),
    "green": (56, 161, 85),
    "blue": (48, 112, 214),
    "purple": (130, 70, 180),
    "pink": (244, 140, 190),
    "brown": (128, 82, 48),
}
BACKGROUND_COLOURS = (
    (246, 247, 250),
    (250, 246, 238),
    (238, 246, 248),
    (244, 248, 240),
    (248, 242, 247),
    (240, 240, 238),
)


@dataclass(frozen=True)
class Placement:
    """Where a thing is drawn: its middle and radius in pixels."""

    x: int
    y: int
    radius: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box around it: x1, y1, x2, y2 in pixels."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


def place(scene: Scene) -> list[Placement]:
    """Where every thing of the scene stands: alone or in a pair around the shifted middle of its cell."""
    offsets: dict[int, tuple[float, float]] = dict.fromkeys(range(len(scene.things)), (0.0, 0.0))
    radius = [RADIUS[thing.size] for thing in scene.things]
    for pair in scene.pairs:
        offsets.update(
            _spread(pair, radius[pair.first], radius[pair.second], scene.shifts[scene.things[pair.first].cell][0])
        )
    placements = []
    for i, thing in enumerate(scene.things):
        partners = [j for j, other in enumerate(scene.things) if other.cell == thing.cell]
        reach = [max(abs(offsets[j][axis]) + radius[j] for j in partners) for axis in (0, 1)]
        room = [max(0.0, CANVAS / 4 - 2 - length) for length in reach]
        row, column = divmod(thing.cell, 2)
        shift = scene.shifts[thing.cell]
        x = CANVAS * (column + 0.5) / 2 + offsets[i][0] + room[0] * shift[0]
        y = CANVAS * (row + 0.5) / 2 + offsets[i][1] + room[1] * shift[1]
        placements.append(Placement(round(x), round(y), radius[i]))
    return placements


def _spread(pair: Pair, first: int, second: int, side: float) -> dict[int, tuple[float, float]]:
    """Offsets of two things from the middle of their cell, from their relation and radii in pixels."""
    apart = first + second + 3
    back, front = (first, second) if pair.relation == "behind" else (second, first)
    overlap = 0.72 * front + 0.5 * back  # from middle to middle: somewhat less than half of the one behind is hidden
    lean = math.copysign(0.6, side)
    direction, distance = {
        "left of": ((-1.0, 0.0), float(apart)),
        "right of": ((1.0, 0.0), float(apart)),
        "above": ((0.0, -1.0), float(apart)),
        "below": ((0.0, 1.0), float(apart)),
        "behind": ((lean, -0.8), overlap),
        "in front of": ((-lean, 0.8), overlap),
        "inside": ((0.0, 0.0), 0.0),
    }[pair.relation]
    share = distance / 2 + (second - first) / 2 if distance >= apart else distance / 2  # centre the pair's box
    rest = distance - share
    return {
        pair.first: (direction[0] * share, direction[1] * share),
        pair.second: (-direction[0] * rest, -direction[1] * rest),
    }


def draw_picture(scene: Scene) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a scene; the same scene gives the same pixels."""
    canvas = Image.fromarray(_background(scene.background))
    placements = place(scene)
    for i in _painting_order(scene):
        thing, spot = scene.things[i], placements[i]
        corner = (spot.x - spot.radius - MARGIN, spot.y - spot.radius - MARGIN)
        body, outline, shadow = _masks(thing.shape, spot.radius, thing.tilt)
        colour = COLOURS[thing.colour]
        canvas.paste((60, 60, 80), (corner[0] + 1, corner[1] + 2), shadow)
        canvas.paste(colour, corner, body)
        if thing.texture != "plain":
            light = tuple(round(255 - 0.3 * (255 - channel)) for channel in colour)
            canvas.paste(light, corner, ImageChops.multiply(body, _pattern(thing.texture, spot.radius)))
        dark = tuple(round(0.62 * channel) for channel in colour)
        canvas.paste(dark, corner, outline)
    return np.array(canvas)


def _painting_order(scene: Scene) -> list[int]:
    """Positions of the things from back to front."""
    depth = [0] * len(scene.things)
    for pair in scene.pairs:
        depth[pair.first] = {"behind": -1, "in front of": 1, "inside": 1}.get(pair.relation, 0)
    return sorted(range(len(depth)), key=lambda i: (depth[i], i))


@lru_cache(maxsize=8)
def _background(number: int) -> UInt8[np.ndarray, "H W 3"]:
    """A pale colour that darkens a little downwards."""
    fade = np.linspace(1.0, 0.95, CANVAS)[:, None, None]
    rows = np.asarray(BACKGROUND_COLOURS[number])[None, None, :] * fade
    return np.broadcast_to(rows, (CANVAS, CANVAS, 3)).round().astype(np.uint8)


def _polygon(shape: str) -> list[tuple[float, float]]:
    """Corner points of a shape in -1..1, y downwards."""
    if shape in ("circle", "ring"):
        return _round_points(64, (0.95,))
    if shape == "star":
        return _round_points(10, (1.0, 0.44))
    if shape == "triangle":
        return [(0.0, -0.95), (0.98, 0.78), (-0.98, 0.78)]
    if shape == "diamond":
        return [(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)]
    if shape == "heart":
        turns = [2 * math.pi * k / 60 for k in range(60)]
        curve = [(math.sin(t) ** 3, math.cos(t) - 0.385 * math.cos(2 * t) - 0.154 * math.cos(3 * t)) for t in turns]
        return [(0.98 * x, -0.76 * y - 0.13) for x, y in curve]
    if shape == "cross":
        quarter = [(-0.34, -0.95), (0.34, -0.95), (0.34, -0.34)]
        return [_turn(point, 90.0 * k) for k in range(4) for point in quarter]
    return [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]


def _round_points(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Points around the middle, starting at the top, at distances that take turns."""
    angles = [2 * math.pi * k / count for k in range(count)]
    return [(radii[k % len(radii)] * math.sin(a), -radii[k % len(radii)] * math.cos(a)) for k, a in enumerate(angles)]


def _turn(point: tuple[float, float], degrees: float) -> tuple[float, float]:
    """Turn a point around the middle."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * point[0] - s * point[1], s * point[0] + c * point[1]


@lru_cache(maxsize=512)
def _masks(shape: str, radius: int, tilt: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Masks of the body, its outline and its shadow, each ``2 * (radius + MARGIN)`` pixels wide."""
    middle = (radius + MARGIN) * OVERSAMPLING
    scale = radius * OVERSAMPLING
    large = Image.new("L", (2 * middle, 2 * middle), 0)
    pen = ImageDraw.Draw(large)
    corners = [_turn(point, float(tilt)) for point in _polygon(shape)]
    pen.polygon([(middle + scale * x, middle + scale * y) for x, y in corners], fill=255)
    if shape == "ring":
        hole = 0.5 * scale
        pen.ellipse((middle - hole, middle - hole, middle + hole, middle + hole), fill=0)
    inner = large.filter(ImageFilter.MinFilter(2 * OVERSAMPLING + 1))
    body, outline = (image.reduce(OVERSAMPLING) for image in (large, ImageChops.subtract(large, inner)))
    shadow = body.filter(ImageFilter.GaussianBlur(1.6)).point([round(0.35 * level) for level in range(256)])
    return body, outline, shadow


@lru_cache(maxsize=64)
def _pattern(texture: str, radius: int) -> Image.Image:
    """Where a texture is light: slanting stripes, a lattice of dots or a chess board, coarser on small things."""
    step = max(0.55, 8.0 / radius)
    side = 2 * (radius + MARGIN) * OVERSAMPLING
    y, x = np.mgrid[:side, :side] / (radius * OVERSAMPLING) - (radius + MARGIN) / radius  # -1..1 across the thing
    if texture == "striped":
        light = np.sin(2 * math.pi * (x + y) / (1.2 * step)) > 0
    elif texture == "dotted":
        light = np.hypot((x / step + 0.5) % 1 - 0.5, (y / step + 0.5) % 1 - 0.5) < 0.32
    else:
        light = (np.floor(x / (0.8 * step) + 0.5) + np.floor(y / (0.8 * step) + 0.5)) % 2 > 0
    return Image.fromarray((255 * light).astype(np.uint8)).reduce(OVERSAMPLING)
