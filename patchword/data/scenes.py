"""Scenes: an embedded data set of drawn pictures with captions, for demos, tests and quick comparisons of methods.

Every picture has near twins in its split that differ in one attribute or one relation, so a model must know which word
belongs to which thing. What is written looks like real data on disk: a SCAN ``precomp`` folder with boxes, picture
files and ``captions.jsonl``. The world is in ``scenes_world``, its pixels in ``scenes_draw``, its regions in
``scenes_regions``, its sentences in ``scenes_language`` and its families in ``scenes_family``. See docs/scenes.md.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from patchword.data.scenes_draw import CANVAS, place
from patchword.data.scenes_family import CAPTIONS_PER_IMAGE, SPLITS, Member, View, draw_family, view_member
from patchword.data.scenes_language import PHRASES, WORDS
from patchword.data.scenes_regions import FEWEST_REGIONS, REGION_WIDTH
from patchword.data.scenes_world import ATTRIBUTES, Scene
from patchword.errors import ConfigError, DataError
from patchword.threads import one_core

VERSION = 1  # of the generator: raised whenever the same seed gives other data
PRECOMP = "scenes_precomp"


@dataclass(frozen=True)
class SceneSizes:
    """Number of images of each split."""

    train: int = 2000
    dev: int = 250
    test: int = 500


def write_scenes(
    folder: Path | str,
    *,
    train: int = 2000,
    dev: int = 250,
    test: int = 500,
    seed: int = 0,
    pictures: bool = True,
    regions: int = 36,
) -> Path:
    """Write the scenes data set into a new folder; return at once where the same is already there.

    Args:
        folder: where to write; absent or empty. It appears complete or not at all.
        train: images of the training split, five captions each; ``dev`` and ``test`` likewise.
        dev: see ``train``.
        test: see ``train``.
        seed: another seed gives other scenes. Image k of a split depends on the seed only, not on the sizes.
        pictures: write ``images/*.png`` and ``captions.jsonl`` too.
        regions: boxes and vectors of an image.

    Returns:
        ``folder``: pictures and captions; its ``scenes_precomp`` is the folder for ``read_precomp``.

    Raises:
        ConfigError: a number is out of range.
        DataError: the folder holds something else.
    """
    folder, sizes = Path(folder), SceneSizes(train, dev, test)
    _check(sizes, seed, regions)
    card = _card(sizes, seed, pictures, regions)
    if _is_there(folder, card):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process of the same number
    try:
        (partial / PRECOMP).mkdir(parents=True)
        with ExitStack() as files:
            files.enter_context(one_core())  # the products are too small to share
            listing = None
            if pictures:
                (partial / "images").mkdir()
                listing = files.enter_context(_open(partial / "captions.jsonl"))
            for split in SPLITS:
                _write_split(partial, split, asdict(sizes)[split], seed, regions, listing)
        (partial / "scenes.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        _rename(partial, folder, card)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left of it after the renaming
    return folder


def _check(sizes: SceneSizes, seed: int, regions: int) -> None:
    """Refuse numbers that make no data set."""
    for name, size in asdict(sizes).items():
        if size < 1:
            raise ConfigError(f"`{name}` is {size}. Expected at least 1 image in every split of the scenes.")
    if seed < 0:
        raise ConfigError(f"`seed` is {seed}. Expected 0 or more.")
    if not FEWEST_REGIONS <= regions <= 1000:
        raise ConfigError(f"`regions` is {regions}. Expected {FEWEST_REGIONS} to 1000 regions for each image.")


def _card(sizes: SceneSizes, seed: int, pictures: bool, regions: int) -> dict[str, object]:
    """What ``scenes.json`` says: everything that decides the data, and a summary of the grammar."""
    return {
        "generator": "patchword scenes",
        "version": VERSION,
        "seed": seed,
        "sizes": asdict(sizes),
        "regions": regions,
        "pictures": pictures,
        "captions_per_image": CAPTIONS_PER_IMAGE,
        "region_width": REGION_WIDTH,
        "picture_size": [CANVAS, CANVAS],
        "grammar": {"attributes": {k: list(v) for k, v in ATTRIBUTES.items()}, "words": WORDS, "phrases": PHRASES},
    }


def _is_there(folder: Path, card: dict[str, object]) -> bool:
    """Whether the folder already holds these scenes; False when it is absent or empty.

    Raises:
        DataError: it holds something else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"'{folder}' is a file. Expected a new folder for the scenes. Choose another folder.")
    if not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("generator") != card["generator"]:
        raise DataError(
            f"'{folder}' holds other files and no scenes. Expected an absent or empty folder. Choose another folder."
        )
    keys = ("version", "seed", "sizes", "regions")
    if any(found.get(key) != card[key] for key in keys) or bool(card["pictures"]) > bool(found.get("pictures")):
        shown = [", ".join(f"{key} {it.get(key)}" for key in (*keys, "pictures")) for it in (found, card)]
        raise DataError(
            f"'{folder}' holds other scenes: {shown[0]}. Expected {shown[1]}. Choose another folder or delete this one."
        )
    return True


def _rename(partial: Path, folder: Path, card: dict[str, object]) -> None:
    """Put the finished folder in place; fine when another process has just put the same there."""
    try:
        partial.rename(folder)
    except OSError:
        if not _is_there(folder, card):
            raise


def _open(path: Path) -> TextIO:
    """Open a text file for writing, UTF-8 and LF everywhere."""
    return path.open("w", encoding="utf-8", newline="\n")


def members(seed: int, split: str) -> Iterator[Member]:
    """The images of a split without end: family after family, each scene followed by its twins."""
    for family in count():
        yield from draw_family(seed, split, family)


def _write_split(folder: Path, split: str, size: int, seed: int, regions: int, listing: TextIO | None) -> None:
    """Write one split, an image at a time; pictures only where there is a listing for them."""
    stem = str(folder / PRECOMP / split)
    vectors = np.lib.format.open_memmap(f"{stem}_ims.npy", "w+", np.float32, (size, regions, REGION_WIDTH))
    boxes = np.lib.format.open_memmap(f"{stem}_boxes.npy", "w+", np.float32, (size, regions, 4))
    objects = np.zeros(size, dtype=np.int64)
    with ExitStack() as files:
        captions, ids, negatives = (
            files.enter_context(_open(Path(f"{stem}_{name}"))) for name in ("caps.txt", "ids.txt", "negatives.jsonl")
        )
        for row, member in enumerate(islice(members(seed, split), size)):
            view = view_member(member, regions=regions)
            vectors[row], boxes[row], objects[row] = view.vectors, view.boxes, len(member.scene.things)
            ids.write(f"{member.image_id}\n")
            captions.writelines(f"{caption.text}\n" for caption in member.captions)
            negatives.writelines(f"{json.dumps(line)}\n" for line in _negative_lines(member))
            if listing is not None:
                listing.write(json.dumps(_write_picture(folder, split, member, view)) + "\n")
    vectors.flush()
    boxes.flush()
    np.save(f"{stem}_ims_objects.npy", objects)


def _negative_lines(member: Member) -> Iterator[dict[str, object]]:
    """One record for each caption: the caption, the same made false in one place, and what was exchanged."""
    for k, (caption, negative) in enumerate(zip(member.captions, member.negatives, strict=True)):
        yield {
            "id": member.image_id,
            "caption_index": k,
            "caption": caption.text,
            "negative": negative.caption.text,
            "differs": negative.kind,
            "from": negative.before,
            "to": negative.after,
        }


def _write_picture(folder: Path, split: str, member: Member, view: View) -> dict[str, object]:
    """Write the picture file of an image and return its record for ``captions.jsonl``."""
    name = f"images/{member.image_id}.png"
    Image.fromarray(view.picture).save(folder / name, compress_level=4)
    return {
        "image": name,
        "id": member.image_id,
        "source": "scenes",
        "split": split,
        "width": CANVAS,
        "height": CANVAS,
        "captions": [caption.text for caption in member.captions],
        "family": member.family,
        "difference": None if member.difference is None else asdict(member.difference),
        "things": _things(member.scene),
        "pairs": [[pair.first, pair.relation, pair.second] for pair in member.scene.pairs],
    }


def _things(scene: Scene) -> list[dict[str, object]]:
    """The things of a scene with their attributes and boxes (x1, y1, x2, y2 in 0..1)."""
    return [
        {**{kind: thing.value(kind) for kind in ATTRIBUTES}, "box": [side / CANVAS for side in spot.box]}
        for thing, spot in zip(scene.things, place(scene), strict=True)
    ]
