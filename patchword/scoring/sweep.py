"""Going through all pairs of two sets without ever holding their scores: what ``ranks`` and ``top_k`` begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from patchword.methods.base import Method
from patchword.scoring.bounds import Judge, NoScreen, Screen
from patchword.scoring.jobs import Job, Progress
from patchword.scoring.matrix import (
    HasMethod,
    check_memory,
    float_sets,
    grid_of,
    method_of,
    open_job,
    open_screen,
    open_tiles,
    require_one_of,
)
from patchword.scoring.tiles import Tiles
from patchword.types import Encoded

Precision = Literal["float32", "certified"]


@dataclass(frozen=True)
class Sweep:
    """All pairs of two sets, their grid of tiles, and what may be held of it.

    Attributes:
        method: scores.
        images, captions: N and M float32 vector sets.
        precision: ``float32`` scores every pair, ``certified`` those that bounds leave open.
        tiles: the grid.
        memory: bytes that may be held besides the sets.
        at_a_time: most tiles that may be computed at a time.
    """

    method: Method
    images: Encoded
    captions: Encoded
    precision: Precision
    tiles: Tiles
    memory: int
    at_a_time: int

    @classmethod
    def open(
        cls,
        model: Method | HasMethod,
        images: Encoded,
        captions: Encoded,
        *,
        precision: Precision,
        memory: int,
    ) -> Sweep:
        """Lay the grid.

        Args:
            model: a model or a method, in evaluation mode.
            images, captions, precision, memory: see the attributes; the sets may be of another precision.

        Raises:
            ScoreError: the precision is unknown, the sets have different widths, or the memory is too small.
        """
        require_one_of("precision", precision, ("float32", "certified"))
        method = method_of(model)
        images, captions = float_sets(images, captions)
        tiles = open_tiles(method, images, captions)
        at_a_time = check_memory(tiles, memory, images.vectors.device)
        return cls(method, images, captions, precision, tiles, memory, at_a_time)

    def place(self, folder: Path | str | None, *grid: Tensor, **what: str | int) -> Path | None:
        """The folder of finished parts, made or checked; None keeps nothing.

        Args:
            folder: its name.
            grid: cuts and orders that divide the work, beside those of the tiles.
            what: is computed of the pairs, and for which question; the folder of another one is refused.

        Raises:
            ScoreError: it belongs to another job.
        """
        divided, asked = [*grid_of(self.tiles), *grid], {"precision": self.precision, **what}
        return open_job(folder, self.method, self.images, self.captions, divided, **asked)

    def job(self, name: str, place: Path | None, progress: Progress | None = None) -> Job:
        """A part of the work, whose units keep within the memory."""
        return Job(name, place, progress, self.at_a_time)

    def screen(self, judge: Judge) -> Screen | NoScreen | None:
        """Bounds of all scores, or why they do not pay for these sets; None in float32, which needs none.

        Raises:
            ScoreError: the method has no certified mode.
        """
        return open_screen(self.method, self.images, self.captions, judge) if self.precision == "certified" else None

    @property
    def bounds_memory(self) -> int:
        """Bytes that one thread may spend on bounds: a quarter is for all of them, the rest is for tiles."""
        return self.memory // 4 // max(1, min(torch.get_num_threads(), self.at_a_time))
