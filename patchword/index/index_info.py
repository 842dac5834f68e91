"""What an open index says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds.

    Attributes:
        images, captions: how many.
        model, method: label and name.
        columns: that a filter may name, with their types.
        generation: grows with every change.
        backend: of the shortlist.
        shortlist: what its vectors are.
        is_calibrated: whether hits have a fitted probability.
        has_captions: whether captions can be found.
        bytes: on the disk: ``images``, ``captions``, ``catalog``, ``shortlist``.
    """

    images: int
    captions: int
    model: str
    method: str
    columns: dict[str, str]
    generation: int
    backend: str
    shortlist: str
    is_calibrated: bool
    has_captions: bool
    bytes: dict[str, int]
