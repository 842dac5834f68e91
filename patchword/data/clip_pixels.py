"""From a picture to the input of a CLIP, SigLIP or SigLIP 2 vision model, exactly as transformers' Pil transform does.

NaFlex models (``siglip2``) take flattened patches and the shape of their grid. To stay one tensor per picture, the
shape travels as a first row: row 0 is (height, width, 0, ...), the other rows are patches, zero-padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from patchword.data.clip_files import FAMILIES
from patchword.data.pictures import Picture
from patchword.errors import ConfigError


@dataclass(frozen=True)
class ClipTransform:
    """The picture transform of a checkpoint; training flips half of the pictures.

    Attributes:
        family: one of ``FAMILIES``.
        settings: of transformers' transform.
    """

    family: str
    settings: Mapping[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """A worker makes the transform again."""
        return {"family": self.family, "settings": dict(self.settings)}

    @cached_property
    def transform(self) -> Any:
        """transformers' transform.

        Raises:
            ConfigError: the settings describe none.
        """
        import transformers

        try:
            return getattr(transformers, FAMILIES[self.family].transform)(**self.settings)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the `transform` of a {self.family} model is wrong: {reason}.") from None

    def __call__(self, picture: Picture, draw: np.random.Generator | None = None) -> Float[Tensor, "*shape"]:
        """Pixels ``(3, S, S)``, or for NaFlex ``(1 + P, F)`` with the shape of the grid in the first row."""
        if draw is not None and draw.random() < 0.5:
            picture = picture[:, ::-1]
        found = self.transform(Image.fromarray(np.ascontiguousarray(picture)), return_tensors="pt")
        values: Tensor = found["pixel_values"][0].float()
        if self.family != "siglip2":
            return values
        first = torch.zeros(1, values.shape[1])
        first[0, :2] = found["spatial_shapes"][0]
        return torch.cat([first, values])

    def shown(self, height: int, width: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in 0..1 of the part of a picture that the pixels show: less than all after a centre crop.

        Example:
            >>> sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
            >>> ClipTransform("clip", sizes).shown(8, 16)
            (0.25, 0.0, 0.75, 1.0)
        """
        transform = self.transform
        if not getattr(transform, "do_center_crop", False):
            return 0.0, 0.0, 1.0, 1.0
        size, crop = dict(transform.size), dict(transform.crop_size)
        if not transform.do_resize:
            resized = (height, width)
        elif size.get("shortest_edge"):
            short, long = min(height, width), max(height, width)
            other = int(size["shortest_edge"] * long / short)
            resized = (size["shortest_edge"], other) if height <= width else (other, size["shortest_edge"])
        else:
            resized = (size["height"], size["width"])
        y, x = (
            ((have - want) // 2 / have, want / have)
            for have, want in zip(resized, (crop["height"], crop["width"]), strict=True)
        )
        return (max(0.0, x[0]), max(0.0, y[0]), min(1.0, x[0] + x[1]), min(1.0, y[0] + y[1]))


def place_boxes(boxes: Float[Tensor, "R 4"], transform: object, height: int, width: int) -> Float[Tensor, "R 4"]:
    """Boxes in 0..1 of what the pixels show, as boxes in 0..1 of the whole picture of this size."""
    if not isinstance(transform, ClipTransform):
        return boxes
    x1, y1, x2, y2 = transform.shown(height, width)
    return boxes * torch.tensor([x2 - x1, y2 - y1] * 2) + torch.tensor([x1, y1] * 2)


def split_shapes(values: Float[Tensor, "B P1 F"]) -> tuple[Float[Tensor, "B P F"], Int[Tensor, "B 2"]]:
    """Patches and grid shapes (height, width) of a NaFlex batch."""
    return values[:, 1:], values[:, 0, :2].round().long()


def grid(height: int, width: int) -> Float[Tensor, "R 4"]:
    """Boxes x1, y1, x2, y2 in 0..1 of the cells of a grid, row by row.

    Example:
        >>> grid(1, 2).tolist()
        [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    rows, columns = (
        t.flatten().float() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    return torch.stack([columns / width, rows / height, (columns + 1) / width, (rows + 1) / height], dim=1)
