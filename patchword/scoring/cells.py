"""Single scores of the grid: each one through the tile it belongs to, so that its bits are those of the matrix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchword.scoring.tiles import Tiles


class Cells:
    """Scores of listed pairs.

    Args:
        tiles: the grid.
        memory: bytes of tiles that are kept for being asked again.
    """

    def __init__(self, tiles: Tiles, memory: int) -> None:
        self.tiles, self._room = tiles, memory
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._lock = threading.Lock()
        count = len(tiles.captions)
        self._place = torch.empty(count, dtype=torch.long)
        self._place[tiles.captions] = torch.arange(count)
        self._row = _block_of(tiles.image_cuts)
        self._column = _block_of(tiles.caption_cuts)

    @cached_property
    def sizes(self) -> Int[Tensor, " T"]:
        """How many pairs each tile has, in the order of their numbers."""
        heights, widths = (torch.tensor(cuts).diff() for cuts in (self.tiles.image_cuts, self.tiles.caption_cuts))
        return (heights[:, None] * widths).reshape(-1)

    def tile(self, row: int, column: int, *, keep: bool = False) -> Float[Tensor, "n m"]:
        """Scores of one tile, on the CPU; with ``keep`` it is remembered as long as there is room."""
        kept = self._kept.get((row, column))
        if kept is not None:
            return kept
        made = self.tiles.tile(row, column).cpu()
        if keep:
            with self._lock:
                if self._room >= made.numel() * made.element_size():
                    self._room -= made.numel() * made.element_size()
                    self._kept[row, column] = made
        return made

    def values(
        self, images: Int[Tensor, " P"], captions: Int[Tensor, " P"], *, kept: Callable[[int], None] | None = None
    ) -> Float[Tensor, " P"]:
        """Scores of pairs, through their tiles.

        Args:
            images, captions: of each pair.
            kept: these tiles are remembered as far as there is room, and this is told how many pairs each of them has.
        """
        found, block = torch.empty(len(images)), self.blocks(images, captions)
        order = torch.argsort(block, stable=True)
        numbers, counts = torch.unique_consecutive(block[order], return_counts=True)
        for number, chosen in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            row, column = divmod(number, self.tiles.columns)
            is_new = (row, column) not in self._kept
            tile = self.tile(row, column, keep=kept is not None)
            if kept is not None and is_new and (row, column) in self._kept:
                kept(tile.numel())
            across = self._place[captions[chosen]] - self.tiles.caption_cuts[column]
            found[chosen] = tile[images[chosen] - self.tiles.image_cuts[row], across]
        return found

    def blocks(self, images: Int[Tensor, " P"], captions: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
        """Number of the tile of each pair: row by row, from left to right."""
        return self._row[images] * self.tiles.columns + self._column[self._place[captions]]

    def kept_pairs(self, rows: range, columns: range | None = None) -> int:
        """How many pairs of some neighbouring tiles (of whole rows) are remembered."""
        columns = range(self.tiles.columns) if columns is None else columns
        tiles = (self._kept.get((row, column)) for row in rows for column in columns)
        return sum(tile.numel() for tile in tiles if tile is not None)

    def group(self, row: int, columns: range) -> Float[Tensor, "n m"]:
        """Scores of neighbouring tiles of a row, side by side, with those that are kept."""
        if len(columns) == 1:
            return self.tile(row, columns[0])
        return torch.cat([self.tile(row, column) for column in columns], dim=1)


def _block_of(cuts: Sequence[int]) -> Int[Tensor, " n"]:
    """Number of the block that each item lies in."""
    ends = torch.tensor(cuts)
    sizes = ends[1:] - ends[:-1]
    return torch.arange(len(sizes)).repeat_interleave(sizes)
