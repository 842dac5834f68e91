"""What the encoders of every method give, as padded blocks: ``Encoded`` without dropping the padding, which depends on
the values of the lengths and can not be traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.layers.normalise import unit
from patchword.layers.region_context import unit_or_zero
from patchword.methods.base import Method
from patchword.types import Captions, Encoded, Images, real_slots

Block = tuple[Float[Tensor, "N S D"], Int[Tensor, " N"]]


def chan_images(method: Any, images: Images) -> Block:
    """One vector per patch."""
    patches, lengths = method.image(images)
    return (unit(patches) if method.config.unit_patches else patches), lengths


def chan_captions(method: Any, captions: Captions) -> Block:
    """One vector per token."""
    words = method.text(captions.tokens, captions.lengths)
    return (unit(words) if method.config.unit_words else words), captions.lengths


def esl_images(method: Any, images: Images) -> Block:
    """One row per patch: its levels, each multiplied by the form of its level."""
    patches, lengths = method.image(images)
    return method.forms(method.patch_levels(patches)), lengths


def esl_captions(method: Any, captions: Captions) -> Block:
    """One row per token: its levels."""
    words = method.text(captions.tokens, captions.lengths)
    return torch.cat(method.word_levels(words), dim=-1), captions.lengths


def scta_images(method: Any, images: Images) -> Block:
    """One vector per token, as projected."""
    tokens, lengths = method.image(images)
    return tokens, lengths


def scta_captions(method: Any, captions: Captions) -> Block:
    """One vector per token, as many as count in evaluation."""
    return method.text(captions.tokens, captions.lengths), captions.lengths.clamp(max=method.config.word_limit)


def cefg_images(method: Any, images: Images) -> Block:
    """The pooled vector, then the context vectors."""
    found = method.image(images, images.extra[method.image_extras[0]])
    return torch.cat([found.overall[:, None], found.context], 1), found.lengths + 1


def cefg_captions(method: Any, captions: Captions) -> Block:
    """The pooled vector, then the words."""
    words = method.text(captions.tokens, captions.lengths)
    words = unit_or_zero(words) if method.config.unit_words else words
    real = real_slots(captions.lengths, words.shape[1])
    return torch.cat([method.text_pool(words, real)[:, None], words], 1), captions.lengths + 1


def clip_images(method: Any, images: Images) -> Block:
    """One vector per patch."""
    patches, lengths = method.image.patches(images)
    return unit(patches), lengths


def clip_captions(method: Any, captions: Captions) -> Block:
    """One vector per token behind the marks at the start."""
    first = method.config.text.start_marks
    words = method.text.words(captions.tokens, captions.lengths)[:, first:]
    return unit(words), captions.lengths - first


def one_vector(encoded: Encoded) -> Block:
    """The sets of items that are one vector each."""
    return encoded.vectors[:, None], encoded.lengths


# Methods whose items are sets of vectors; those with one vector per item need nothing here.
SETS: dict[str, tuple[Callable[[Any, Images], Block], Callable[[Any, Captions], Block]]] = {
    "chan": (chan_images, chan_captions),
    "esl": (esl_images, esl_captions),
    "scta": (scta_images, scta_captions),
    "laps": (scta_images, scta_captions),
    "cefg": (cefg_images, cefg_captions),
    "clip": (clip_images, clip_captions),
}


def is_one_vector(method: Method) -> bool:
    """Whether every item of a method is one vector."""
    return method.shortlist == "own"


def image_sets(method: Method, images: Images) -> Block:
    """The vector sets of a batch, zeros at padding, and their sizes."""
    found = one_vector(method.encode_images(images)) if is_one_vector(method) else SETS[method.name][0](method, images)
    return without_padding(*found)


def caption_sets(method: Method, captions: Captions) -> Block:
    """As for images."""
    found = (
        one_vector(method.encode_captions(captions))
        if is_one_vector(method)
        else SETS[method.name][1](method, captions)
    )
    return without_padding(*found)


def without_padding(block: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Block:
    """The block with zeros at padding."""
    real = real_slots(lengths, block.shape[1])
    return block.masked_fill(~real[..., None], 0.0), lengths.clone()


def why_not(method: Any) -> str | None:
    """Why the encoders of a method can not stand alone in a file, as one sentence; None when they can."""
    if method.mixes_batch:
        return (
            "its images see the others of their batch (model.context: transformer), so that an image alone has no "
            "encoding of its own"
        )
    if method.name == "cefg" and method.config.amr != "none":
        return f"the graph of every caption is read one caption at a time (model.amr: {method.config.amr})"
    if method.name == "clip" and method.config.image.kind == "siglip2":
        return "NaFlex resizes its position table for the shape of every picture"
    if not is_one_vector(method) and method.name not in SETS:
        return "patchword/export/sets.py does not know the vector sets of this method"
    return None
