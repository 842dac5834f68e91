"""What a reader has to know of a model whose numbers depend on more than its weights and the pictures and texts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from patchword.data.stand_ins import stand_ins_of
from patchword.data.table import Split
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


def stand_in_notes(model: Model, split: Split) -> tuple[str, ...]:
    """What stands in for side inputs of the split that the method reads.

    Raises:
        DataError: the note beside the stand-ins is damaged.
    """
    reads_clip = "clip" in (*model.method.image_extras, *model.method.caption_extras)
    found = stand_ins_of(split) if reads_clip else None
    return () if found is None else (found.sentence(),)


def input_notes(model: Model, split: Split, batch: int) -> tuple[str, ...]:
    """Notes on what was encoded: stand-ins for side inputs, and the batch where vectors depend on it.

    Args:
        model: that is evaluated.
        split: that it is evaluated on.
        batch: items that were encoded at a time.
    """
    notes = stand_in_notes(model, split)
    if not model.method.reads_padding:
        return notes
    return (
        *notes,
        f"images and captions were encoded {batch:,} at a time, in the order of the file: the vectors of this "
        f"{model.method.name} depend on the padding of their batch",
    )


def model_notes(model: Model, split: Split, batch: int) -> tuple[str, ...]:
    """Notes for an evaluation of a model: those on what was encoded, and that its scores are one draw."""
    method, notes = model.method, [*input_notes(model, split, batch)]
    if isinstance(method, HasVariants) and method.has_variants:
        notes.append(
            f"the scores of this {method.name} hold a part that is drawn at random, and these are of one draw: "
            "--banks 5 gives the mean and the deviation over five"
        )
    return tuple(notes)
