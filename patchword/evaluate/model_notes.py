"""What a reader has to know of a model whose numbers depend on more than its weights and the split."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from patchword.model import Model


@runtime_checkable
class HasVariants(Protocol):
    """A method that stands for several models, one for each seed."""

    @property
    def has_variants(self) -> bool:
        """Whether the seed changes the scores in this configuration."""
        ...

    @property
    def draw_images(self) -> int | None:
        """Images that are scored with one draw; None: all of them."""
        ...

    def variant(self, seed: int, shard: int = 0) -> AbstractContextManager[None]:
        """Be the model of this seed for a while, for the images of one shard."""
        ...


def model_notes(model: Model, batch: int) -> tuple[str, ...]:
    """Notes for an evaluation of a model: the batch that its vectors depend on, and that its scores are one draw.

    Args:
        model: that is evaluated.
        batch: items that were encoded at a time.
    """
    method, notes = model.method, []
    if method.reads_padding:
        notes.append(
            f"images and captions were encoded {batch:,} at a time, in the order of the file: the vectors of this "
            f"{method.name} depend on the padding of their batch"
        )
    if isinstance(method, HasVariants) and method.has_variants:
        notes.append(
            f"the scores of this {method.name} hold a part that is drawn at random, and these are of one draw: "
            "--banks 5 gives the mean and the deviation over five"
        )
    return tuple(notes)
