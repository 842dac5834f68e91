"""Open a split for a model: what a search and an evaluation do first."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from patchword.data.open import first_captions, open_split
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.model import Model

COCO_CAPTIONS = 5  # of an image, in all published tables


def open_for(
    model: Model,
    data: Path | str,
    split: str,
    *,
    name: str | None = None,
    limit: int | None = None,
    skip_broken: bool = False,
) -> Split:
    """Open a split as a model was trained on it: its kind of images, columns, captions per image and broken pictures.

    Of COCO's images the first five captions are kept, which published tables are made of, unless the model was trained
    with another number: ten of its 5,000 test images have a sixth one. A note says how many were left out.
    """
    images = "features" if model.method.reads == "regions" else "pictures"
    per_image = model.about.get("captions_per_image")
    skips = skip_broken or bool(model.about.get("skip_broken", False))
    how: dict[str, Any] = {"captions_per_image": per_image, "skip_broken": skips}
    opened = None
    if columns := model.about.get("columns"):
        with suppress(ConfigError):  # data of another form, which has no such columns
            opened = open_split(data, split, name=name, images=images, limit=limit, columns=columns, **how)
    opened = opened or open_split(data, split, name=name, images=images, limit=limit, **how)
    return first_captions(opened, COCO_CAPTIONS) if opened.dataset == "coco" and per_image is None else opened
