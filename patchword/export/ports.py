"""What goes into and comes out of the two graphs: names, types, shapes, meaning; and made-up batches of that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchword.encoders.patches import pixel_transform
from patchword.export.sets import Block, caption_sets, image_sets
from patchword.methods.base import Method
from patchword.model import word_rows
from patchword.types import Captions, Images, real_slots

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: of its numbers.
        shape: of every axis the size, or a name where any size will do.
        meaning: what it holds.
    """

    name: str
    dtype: Literal["float32", "int64", "bool"]
    shape: Shape
    meaning: str


class ImageGraph(nn.Module):
    """The image encoder as a function of plain tensors.

    Args:
        method: as it is, or in the form that can be traced.
    """

    file, items, axis = "images.onnx", "images", "regions"

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.is_regions = method.reads == "regions"

    @property
    def most(self) -> int | None:
        """Most regions of an image; None without a limit."""
        found: int | None = getattr(self.method.config, "regions", None)
        return found

    @property
    def inputs(self) -> list[Port]:
        """Features and their number, or pixels; then the side inputs of the method."""
        config: Any = self.method.config
        if self.is_regions:
            ports = [
                Port(
                    "features",
                    "float32",
                    ("images", "regions", config.image.width),
                    "region features, 0 at padding",
                ),
                Port("lengths", "int64", ("images",), "regions of each image, at least 1"),
            ]
        else:
            size = picture_size(self.method)
            ports = [Port("pixels", "float32", ("images", 3, size, size), "pictures as `pixels` describes them")]
        for name in self.method.image_extras:
            if name == "clip":
                ports.append(Port(name, "float32", ("images", config.clip_dim), "CLIP's global vector of each image"))
            else:
                meaning = "[n, r, s]: whether region s is a neighbour of region r (itself included); False at padding"
                ports.append(Port(name, "bool", ("images", "regions", "regions"), meaning))
        return ports

    def batch(self, *tensors: Tensor) -> Images:
        """The tensors of ``inputs`` as a batch."""
        first = 2 if self.is_regions else 1
        extra = dict(zip(self.method.image_extras, tensors[first:], strict=True))
        return Images(tensors[0], tensors[1] if self.is_regions else None, None, extra)

    def forward(self, *tensors: Tensor) -> Block:
        """Vector sets and their sizes."""
        return image_sets(self.method, self.batch(*tensors))

    def draw(self, lengths: Sequence[int], seed: int) -> list[Tensor]:
        """A random batch: ``inputs`` of as many images, of which the longest fills its row."""
        draw = torch.Generator().manual_seed(seed)
        count, size = len(lengths), max(lengths)
        found: list[Tensor] = []
        for port in self.inputs:
            shape = [n if isinstance(n, int) else {"images": count, "regions": size}[n] for n in port.shape]
            if port.name == "lengths":
                found.append(torch.tensor(lengths))
            elif port.dtype == "bool":
                found.append((torch.rand(*shape, generator=draw) < 2 / size) | torch.eye(size, dtype=torch.bool))
            else:
                found.append(torch.randn(*shape, generator=draw))
        if self.is_regions:
            found[0] = found[0] * real_slots(found[1], size)[..., None]
        return found


class CaptionGraph(nn.Module):
    """The text encoder as a function of plain tensors."""

    file, items, axis = "captions.onnx", "captions", "words"

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    @property
    def most(self) -> int | None:
        """Most tokens of a caption; None without a limit."""
        text: Any = self.method.text
        found: int | None = getattr(text, "max_tokens", None) or getattr(text, "context", None)
        return found

    @property
    def inputs(self) -> list[Port]:
        """Token ids and their number; then the side inputs of the method."""
        ports = [
            Port("tokens", "int64", ("captions", "words"), "token ids, the special ones included, 0 at padding"),
            Port("lengths", "int64", ("captions",), "tokens of each caption, at least 1"),
        ]
        for name in self.method.caption_extras:
            width = self.method.config.clip_dim
            ports.append(Port(name, "float32", ("captions", width), "CLIP's global vector of each caption"))
        return ports

    def batch(self, *tensors: Tensor) -> Captions:
        """The tensors of ``inputs`` as a batch."""
        return Captions(tensors[0], tensors[1], dict(zip(self.method.caption_extras, tensors[2:], strict=True)))

    def forward(self, *tensors: Tensor) -> Block:
        """Vector sets and their sizes."""
        return caption_sets(self.method, self.batch(*tensors))

    def draw(self, lengths: Sequence[int], seed: int) -> list[Tensor]:
        """A random batch: ``inputs`` of as many captions, of which the longest fills its row."""
        draw = torch.Generator().manual_seed(seed)
        count, size = len(lengths), max(lengths)
        rows = word_rows(self.method) or int(self.method.config.text.arch["vocab_size"])
        sizes: Int[Tensor, " N"] = torch.tensor(lengths)
        tokens = torch.randint(1, rows, (count, size), generator=draw) * real_slots(sizes, size)
        extra: list[Float[Tensor, "N F"]] = [
            torch.randn(count, int(port.shape[1]), generator=draw) for port in self.inputs[2:]
        ]
        return [tokens, sizes, *extra]


def picture_size(method: Method) -> int:
    """Side of the square pixels that a picture tower reads."""
    image: Any = method.config.image
    if hasattr(image, "pixel_transform"):
        return int(image.arch["image_size"])
    transform: Any = pixel_transform(image)
    return int(transform.size)
