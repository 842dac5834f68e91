"""Families of scenes: a scene, its near twins in the same split, and what is said of each of them.

Family f of a split is drawn from (seed, split, f) alone, so image k of a split does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from patchword.data.scenes_draw import CANVAS, draw_picture, place
from patchword.data.scenes_language import Caption, Negative, describe, is_true, negate
from patchword.data.scenes_regions import propose_boxes, region_vectors
from patchword.data.scenes_world import Difference, Scene, draw_scene, draw_twins

SPLITS = ("train", "dev", "test")
CAPTIONS_PER_IMAGE = 5
FEWEST_TELLING = 2  # captions of an image that are false of each of its twins, at least
TRIES = 8  # of captions for one scene before the family is drawn again


@dataclass(frozen=True)
class Member:
    """One image of a family.

    Attributes:
        image_id: ``{split}_{family}_{member}``; member 0 is the scene that the twins differ from.
        family: number of the family in its split.
        scene: what the picture shows.
        difference: how it differs from member 0 (None for member 0 itself).
        captions: five true captions.
        negatives: for each caption, the same made false in one place.
        seeds: where boxes and noise of this image come from.
    """

    image_id: str
    family: int
    scene: Scene
    difference: Difference | None
    captions: tuple[Caption, ...]
    negatives: tuple[Negative, ...]
    seeds: tuple[int, ...]


def draw_family(seed: int, split: str, family: int) -> list[Member]:
    """Draw a scene with one to three twins and their captions.

    Each caption is true of its image, and at least two of the five are false of any other member of the family, even
    in a generous reading.
    """
    seeds = (seed, SPLITS.index(split), family)
    generator = np.random.default_rng(seeds)
    while True:
        base = draw_scene(generator)
        twins = draw_twins(base, generator, int(generator.integers(1, 4)))
        points = [difference for _, difference in twins]
        scenes = [base, *(twin for twin, _ in twins)]
        wanted = [points, *([point] for point in points)]
        texts = [_captions(scene, scenes, places, generator) for scene, places in zip(scenes, wanted, strict=True)]
        spoken = [captions for captions in texts if captions is not None]
        if len(spoken) == len(scenes):
            break
    return [
        Member(
            image_id=f"{split}_{family:05d}_{k}",
            family=family,
            scene=scene,
            difference=points[k - 1] if k else None,
            captions=tuple(caption for caption, _ in spoken[k]),
            negatives=tuple(negative for _, negative in spoken[k]),
            seeds=(*seeds, k + 1),
        )
        for k, scene in enumerate(scenes)
    ]


def _captions(
    scene: Scene, family: Sequence[Scene], points: Sequence[Difference], generator: np.random.Generator
) -> list[tuple[Caption, Negative]] | None:
    """Five captions with negatives that speak of the points and tell the scene from its twins; None: none found."""
    share = 3 if len(points) < 3 else 2
    for _ in range(TRIES):
        wanted: list[list[Difference]] = [[] for _ in range(CAPTIONS_PER_IMAGE)]
        for k, point in enumerate(list(points) * share):
            wanted[k % CAPTIONS_PER_IMAGE].append(point)
        order = generator.permutation(CAPTIONS_PER_IMAGE).tolist()
        captions = describe(scene, [wanted[k] for k in order], generator)
        if len({caption.text for caption in captions}) < CAPTIONS_PER_IMAGE:
            continue
        others = [other for other in family if other is not scene]
        if any(
            sum(not is_true(caption, other, generous=True) for caption in captions) < FEWEST_TELLING for other in others
        ):
            continue
        negatives = [negate(caption, scene, generator) for caption in captions]
        found = [
            (caption, negative) for caption, negative in zip(captions, negatives, strict=True) if negative is not None
        ]
        if len(found) == CAPTIONS_PER_IMAGE:
            return found
    return None


@dataclass(frozen=True)
class View:
    """What is seen of one image: pixels ``(H, W, 3)``, region boxes ``(R, 4)`` in 0..1, region vectors ``(R, F)``."""

    picture: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "R 4"]
    vectors: Float32[np.ndarray, "R F"]


def view_member(member: Member, *, regions: int) -> View:
    """Draw the picture of a member of a family and describe its regions."""
    picture = draw_picture(member.scene)
    generator = np.random.default_rng(member.seeds)
    boxes = propose_boxes(member.scene, place(member.scene), generator, regions=regions, canvas=CANVAS)
    noise = np.random.default_rng((*member.seeds, 1))  # apart, so that vectors can be made again from pixels and boxes
    return View(picture, boxes, region_vectors(picture, boxes, noise))
