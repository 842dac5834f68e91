"""What the encoders of every method give, as padded blocks: ``Encoded`` without dropping the padding, which depends on
the values of the lengths and can not be traced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from patchword.errors import ExportError
from patchword.methods.base import Method
from patchword.types import Captions, Encoded, Images, real_slots

Block = tuple[Float[Tensor, "N S D"], Int[Tensor, " N"]]
KNOWN_EXTRAS = ("clip", "adjacency")  # beginnings of the names of side inputs that are inputs of a graph


@dataclass(frozen=True)
class PaddedSets(Encoded):
    """Vector sets that still have their padding.

    Attributes:
        block: ``(N, S, D)``, of which ``vectors`` are all rows.
    """

    block: Tensor


@contextmanager
def keeping_padding() -> Iterator[None]:
    """While it lasts, ``Encoded.from_padded`` gives ``PaddedSets``."""
    original = Encoded.__dict__["from_padded"]

    def keep(padded: Tensor, lengths: Tensor) -> Encoded:
        return PaddedSets(padded.flatten(0, 1), lengths, padded)

    Encoded.from_padded = staticmethod(keep)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Encoded.from_padded = original  # type: ignore[method-assign]


def image_sets(method: Method, images: Images) -> Block:
    """The vector sets of a batch, zeros at padding, and their sizes."""
    block = method.image_block(images)
    if block is None:
        with keeping_padding():
            block = block_of(method, method.encode_images(images))
    return without_padding(*block)


def caption_sets(method: Method, captions: Captions) -> Block:
    """As for images."""
    block = method.caption_block(captions)
    if block is None:
        with keeping_padding():
            block = block_of(method, method.encode_captions(captions))
    return without_padding(*block)


def block_of(method: Method, found: Encoded) -> Block:
    """The block that sets were made of, or one vector per item.

    Raises:
        ExportError: the sets were made in another way.
    """
    if isinstance(found, PaddedSets):
        return found.block, found.lengths
    if method.shortlist == "own":
        return found.vectors[:, None], found.lengths
    raise ExportError(
        f"{method.label} can not be exported: its sets do not come from Encoded.from_padded. Expected that, or "
        "`image_block` and `caption_block` of the method (patchword/methods/base.py)."
    )


def without_padding(block: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Block:
    """The block with zeros at padding."""
    real = real_slots(lengths, block.shape[1])
    return block.masked_fill(~real[..., None], 0.0), lengths.clone()


def why_not(method: Method) -> str | None:
    """Why the encoders of a method can not stand alone in a file, as one sentence; None when they can."""
    if method.not_exported is not None:
        return method.not_exported
    for name in (*method.image_extras, *method.caption_extras):
        if not name.startswith(KNOWN_EXTRAS):
            return f"it reads `{name}` beside them. Expected only {' and '.join(KNOWN_EXTRAS)}"
    return None
