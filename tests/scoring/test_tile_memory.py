"""Tiles take the memory that they are charged for, so that as many cores work as the memory allows."""

from __future__ import annotations

import pytest
import torch
from condensed_toys import made
from made_sets import BASE, unit_sets
from test_certified_memory import Held

from patchword.methods.base import Method
from patchword.methods.esl import Esl, EslConfig
from patchword.scoring.matrix import open_tiles
from patchword.scoring.tiles import most_rows

WIDTH = 224


def method_of(name: str) -> Method:
    if name == "esl":  # levels of 128, 64 and 32
        return Esl(EslConfig.model_validate({**BASE, "joint_dim": 128, "levels": 3})).eval()
    return made(name, width=WIDTH)


@pytest.mark.parametrize("name", ["esl", "scta", "laps"])
def test_a_long_caption_is_charged_once(name: str) -> None:
    """A column is charged for its words, not for as many as the longest caption has in each of its captions."""
    method = method_of(name)
    words = torch.arange(1400) % 7 + 6
    words[3] = 120
    images, captions = unit_sets([12] * 2, WIDTH, 0), unit_sets(words, WIDTH, 1)
    tiles = open_tiles(method, images, captions)
    assert tiles.columns == 2
    with torch.no_grad(), Held() as held:
        for column in (0, 1, 0):
            tiles.tile(0, column)
    assert held.peak < tiles.tile_bytes
    assert tiles.tile_bytes < 4 * held.peak
    assert tiles.tile_bytes < 1024 * 120 * WIDTH * 4 / 2


def test_rows_of_the_fullest_column() -> None:
    assert most_rows(torch.tensor([3, 9, 3, 1, 1]), 2) == 12  # 1 1, 3 3, and 9 with the 3 before it
    assert most_rows(torch.tensor([2, 2]), 5) == 4
    assert most_rows(torch.tensor([], dtype=torch.long), 5) == 0
