"""The world of the scenes: coloured things in four cells, how they stand to each other, and near twins of a scene.

A scene is a description only; ``scenes_draw`` turns it into pixels and ``scenes_language`` into words. The picture is
cut into 2 x 2 cells. A cell holds one thing, or a *pair* of things in one relation, so that changing the relation of a
pair changes nothing else. Things in two cells of one row or column are left of or above each other; things in diagonal
cells have no relation that anyone states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
    "size": ("small", "medium", "large"),
    "texture": ("plain", "striped", "dotted", "checked"),
}
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "behind": "in front of",
    "in front of": "behind",
    "inside": "around",
    "around": "inside",
}
DIRECTIONS = ("left of", "right of", "above", "below")
OVERLAPS = ("behind", "in front of", "inside")
PAIR_RELATIONS = (*DIRECTIONS, *OVERLAPS)
ROOMY_SHAPES = ("circle", "square", "ring", "heart")  # another thing is seen whole inside a large one of these
DIFFERENCE_KINDS = ("relation", "colour", "shape", "texture", "size")
DIFFERENCE_ODDS = (0.32, 0.24, 0.16, 0.16, 0.12)
THINGS_ODDS = (0.1, 0.25, 0.3, 0.35)  # of 3, 4, 5 and 6 things
BACKGROUNDS = 6
TILTS = (-10, -5, 0, 5, 10)  # degrees

Item = TypeVar("Item")


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``cell`` is 0..3 (row by row), ``tilt`` in degrees is never spoken of."""

    shape: str
    colour: str
    size: str
    texture: str
    cell: int
    tilt: int

    def value(self, attribute: str) -> str:
        """The value of one of the four attributes."""
        return str(getattr(self, attribute))


@dataclass(frozen=True)
class Pair:
    """Two things of one cell: ``first`` is ``relation`` ``second`` (positions in ``Scene.things``)."""

    first: int
    second: int
    relation: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        things: 3 to 6 things, no two of one shape and colour.
        pairs: the things that share a cell, each thing in one pair at most.
        shifts: for each of the four cells, how far its content is moved off the middle, in -1..1 of the free room.
        background: number of the background, 0..5.
    """

    things: tuple[Thing, ...]
    pairs: tuple[Pair, ...]
    shifts: tuple[tuple[float, float], ...]
    background: int


@dataclass(frozen=True)
class Difference:
    """The one thing in which two scenes differ: ``kind`` is an attribute or ``relation``; one or two things."""

    kind: str
    things: tuple[int, ...]
    before: str
    after: str


def pick(generator: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of the items, each equally likely."""
    return items[int(generator.integers(len(items)))]


def relation_between(scene: Scene, first: int, second: int) -> str | None:
    """How thing ``first`` stands to thing ``second``; None where nothing is stated (diagonal cells).

    Example:
        >>> ball, star = Thing("circle", "red", "small", "plain", 0, 0), Thing("star", "blue", "large", "plain", 1, 0)
        >>> relation_between(Scene((ball, star), (), ((0.0, 0.0),) * 4, 0), 0, 1)
        'left of'
    """
    for pair in scene.pairs:
        if (pair.first, pair.second) == (first, second):
            return pair.relation
        if (pair.second, pair.first) == (first, second):
            return OPPOSITE[pair.relation]
    row, column = divmod(scene.things[first].cell, 2)
    other_row, other_column = divmod(scene.things[second].cell, 2)
    if row == other_row and column != other_column:
        return "left of" if column < other_column else "right of"
    if column == other_column and row != other_row:
        return "above" if row < other_row else "below"
    return None


def may_hold(scene: Scene, relation: str, first: int, second: int) -> bool:
    """Whether someone looking at the picture might call thing ``first`` ``relation`` thing ``second``.

    More generous than ``relation_between``: things in diagonal cells stand in both directions, things in one row may be
    drawn a little higher or lower, and of things that overlap any direction may be said.
    """
    stated = relation_between(scene, first, second)
    if relation not in DIRECTIONS or stated == relation:
        return stated == relation
    row, column = divmod(scene.things[first].cell, 2)
    other_row, other_column = divmod(scene.things[second].cell, 2)
    if (row, column) == (other_row, other_column):
        return stated not in DIRECTIONS
    return {
        "left of": column <= other_column,
        "right of": column >= other_column,
        "above": row <= other_row,
        "below": row >= other_row,
    }[relation]


def is_possible(scene: Scene) -> bool:
    """Whether a scene can be drawn so that everything in it can be seen and named."""
    if len({(thing.shape, thing.colour) for thing in scene.things}) < len(scene.things):
        return False
    for pair in scene.pairs:
        first, second = scene.things[pair.first], scene.things[pair.second]
        overlap = pair.relation in OVERLAPS
        if overlap and first.colour == second.colour:
            return False
        if not overlap and first.size == second.size == "large":
            return False  # two large things do not fit beside each other
        front = second if pair.relation == "behind" else first
        if pair.relation in ("behind", "in front of") and front.shape == "ring":
            return False  # a ring hides nothing
        roomy = (first.size, second.size) == ("small", "large") and second.shape in ROOMY_SHAPES
        if pair.relation == "inside" and not roomy:
            return False
    return True


def draw_scene(generator: np.random.Generator) -> Scene:
    """Draw a scene. Few colours and shapes for many things, so that what belongs to what matters."""
    while True:
        n_things = 3 + int(generator.choice(4, p=THINGS_ODDS))
        n_pairs = int(generator.integers(max(1, n_things - 4), n_things // 2 + 1))
        cells = generator.permutation(4)[: n_things - n_pairs].tolist()
        cells += cells[:n_pairs]  # thing i and thing i + groups share a cell
        palette = [ATTRIBUTES["colour"][i] for i in generator.permutation(8)[:4]]
        shapes = [ATTRIBUTES["shape"][i] for i in generator.permutation(8)[:4]]
        pairs = tuple(Pair(i, i + n_things - n_pairs, pick(generator, PAIR_RELATIONS)) for i in range(n_pairs))
        things = [_draw_thing(generator, palette, shapes, cell) for cell in cells]
        for pair in pairs:
            if pair.relation == "inside":  # otherwise far rarer than the other relations
                things[pair.first] = replace(things[pair.first], size="small")
                things[pair.second] = replace(things[pair.second], size="large", shape=pick(generator, ROOMY_SHAPES))
        shifts = tuple((float(x), float(y)) for x, y in generator.uniform(-1, 1, (4, 2)))
        scene = Scene(tuple(things), pairs, shifts, int(generator.integers(BACKGROUNDS)))
        if is_possible(scene):
            return scene


def _draw_thing(generator: np.random.Generator, palette: Sequence[str], shapes: Sequence[str], cell: int) -> Thing:
    """A thing of one of the given colours and shapes."""
    size, texture = pick(generator, ATTRIBUTES["size"]), pick(generator, ATTRIBUTES["texture"])
    return Thing(pick(generator, shapes), pick(generator, palette), size, texture, cell, pick(generator, TILTS))


def draw_twins(scene: Scene, generator: np.random.Generator, count: int) -> list[tuple[Scene, Difference]]:
    """Draw scenes that differ from ``scene`` in one attribute or one relation, each in another place."""
    twins: list[tuple[Scene, Difference]] = []
    while len(twins) < count:
        kind = str(generator.choice(DIFFERENCE_KINDS, p=DIFFERENCE_ODDS))
        change = _change_relation(scene, generator) if kind == "relation" else _change_attribute(scene, generator, kind)
        twin, difference = change
        taken = any((old.kind, old.things) == (difference.kind, difference.things) for _, old in twins)
        if is_possible(twin) and not taken:
            twins.append((twin, difference))
    return twins


def _change_relation(scene: Scene, generator: np.random.Generator) -> tuple[Scene, Difference]:
    """Give one pair another relation, more often than not the opposite one.

    A direction stays a direction: what is behind may well be above, too.
    """
    k = int(generator.integers(len(scene.pairs)))
    pair = scene.pairs[k]
    alike = set(DIRECTIONS if pair.relation in DIRECTIONS else OVERLAPS)
    if generator.random() < 0.5 and pair.relation != "inside":
        after = OPPOSITE[pair.relation]
    else:
        after = pick(generator, sorted(alike - {pair.relation}))
    pairs = (*scene.pairs[:k], replace(pair, relation=after), *scene.pairs[k + 1 :])
    return replace(scene, pairs=pairs), Difference("relation", (pair.first, pair.second), pair.relation, after)


def _change_attribute(scene: Scene, generator: np.random.Generator, kind: str) -> tuple[Scene, Difference]:
    """Give one thing another value, more often than not one that another thing of the scene has.

    With such a value the picture still shows all the same words, only bound to other things.
    """
    i = int(generator.integers(len(scene.things)))
    before = scene.things[i].value(kind)
    present = sorted({thing.value(kind) for thing in scene.things} - {before})
    absent = [value for value in ATTRIBUTES[kind] if value != before]
    after = pick(generator, present if present and generator.random() < 0.7 else absent)
    thing = replace(scene.things[i], **{kind: after})  # type: ignore[arg-type]  # kind names a field of text
    things = (*scene.things[:i], thing, *scene.things[i + 1 :])
    return replace(scene, things=things), Difference(kind, (i,), before, after)


def differences(scene: Scene, other: Scene) -> list[Difference]:
    """Everything in which two scenes of equally many things differ: attributes, then relations of two things."""
    found = [
        Difference(kind, (i,), a.value(kind), b.value(kind))
        for i, (a, b) in enumerate(zip(scene.things, other.things, strict=True))
        for kind in ATTRIBUTES
        if a.value(kind) != b.value(kind)
    ]
    for i in range(len(scene.things)):
        for j in range(i + 1, len(scene.things)):
            before, after = relation_between(scene, i, j), relation_between(other, i, j)
            if before != after:
                found.append(Difference("relation", (i, j), before or "", after or ""))
    return found
