"""Bounds are held for as many pairs at a time as the memory allows, and the results do not depend on how many."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from patchword.methods.base import Method
from patchword.scoring import certified, hard_screen, hard_tiles
from patchword.scoring.cells import Cells
from patchword.scoring.certified import PAIR_BYTES, count_screened
from patchword.scoring.certified_top_k import top_screened
from patchword.scoring.counts import count_tiles
from patchword.scoring.hard_bounds import Pool
from patchword.scoring.hard_screen import HardScreen
from patchword.scoring.jobs import Job
from patchword.scoring.matrix import open_tiles
from patchword.scoring.ranks import find_boundaries
from patchword.scoring.short_vectors import Shortening, directions
from patchword.scoring.top_k import top_k
from patchword.scoring.truth import RightPairs
from patchword.types import Encoded

Trained = tuple[Method, Encoded, Encoded, np.ndarray]
ENOUGH, LITTLE = 1 << 40, 32_000


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is entered, and are still there.

    Attributes:
        peak: most bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._users: dict[int, int] = {}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for made in tree_leaves(found):
            if not isinstance(made, torch.Tensor):
                continue
            storage = made.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._users and key in given:
                continue  # a view of what was there before
            self._now += 0 if self._users.get(key) else size
            self._users[key] = self._users.get(key, 0) + 1
            weakref.finalize(made, self._let_go, key, size)
        self.peak = max(self.peak, self._now)
        return found

    def _let_go(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._now -= size


def screened(trained: Trained) -> tuple[HardScreen, Cells, Encoded, Encoded, torch.Tensor]:
    """40 images and 1,200 captions, six of which are much alike."""
    method, images, captions, truth = trained
    images, captions, truth = images.slice(0, 40), captions.slice(0, 200), truth[:200]
    draw = torch.Generator().manual_seed(0)
    many = Encoded.concat([captions] * 6)
    captions = Encoded(many.vectors + 0.05 * torch.randn(many.vectors.shape, generator=draw), many.lengths)
    basis = directions(images.vectors, captions.vectors)[:, 32:]
    screen = HardScreen(images, captions, Pool("mean", 0.1), Shortening(basis), Shortening(None))
    return screen, Cells(open_tiles(method, images, captions), 0), images, captions, torch.from_numpy(truth).repeat(6)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products so small that what they take does not matter beside the bounds."""
    for module, words in ((hard_screen, 256), (hard_tiles, 128)):
        monkeypatch.setattr(module, "_PATCHES", 36)
        monkeypatch.setattr(module, "_WORDS", words)
    monkeypatch.setattr(certified, "_TOO_MANY", 0.99)


@pytest.mark.integration
@pytest.mark.usefixtures("narrow")
def test_ranks(trained: Trained) -> None:
    screen, cells, _, _, owner = screened(trained)
    units = [range(cells.tiles.rows)]
    boundaries = find_boundaries(Job("right"), cells, RightPairs.of(owner, 40, 1200), units)
    wanted = count_tiles(Job("counts"), cells, boundaries, units, 0)
    peaks = {}
    for memory in (ENOUGH, LITTLE):
        counted: list[int] = []
        with Held() as held:
            found = count_screened(
                Job("counts", progress=counted.append), screen, cells, boundaries, units, memory, unit=0
            )
        for name in ("i2t", "t2i"):
            assert torch.equal(found[name], wanted[name])
        assert 0 < found["screened"][1] < 40 * 1200 // 2  # by bounds, not by scoring all
        assert sum(counted) == 40 * 1200 - cells.kept_pairs(units[0])  # those were counted with the right pairs
        peaks[memory] = held.peak
    assert peaks[ENOUGH] > 40 * 1200 * 12  # two bounds and a boundary of each pair
    assert peaks[ENOUGH] < 40 * 1200 * PAIR_BYTES
    fixed = 2 * 8 * 1200 * 2 + cells.tiles.tile_bytes  # two counts of each caption, and the tiles of near ties
    assert peaks[LITTLE] < LITTLE + fixed
    assert LITTLE + fixed < 40 * 1200 * 12 / 2  # so that the line above says something


@pytest.mark.integration
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("by_image", [True, False])
def test_top_k(trained: Trained, by_image: bool) -> None:
    _, cells, images, captions, _ = screened(trained)
    screen = HardScreen(images, captions, Pool("mean", 0.1), Shortening(None))  # narrow bounds: few pairs are left
    columns = range(len(screen.caption_cuts) - 1)
    wanted = top_k(trained[0], images, captions, 2, queries="images" if by_image else "captions").items
    peaks = {}
    for memory in (ENOUGH, LITTLE):
        queries = slice(0, 40 if by_image else 1200)
        with Held() as held:
            found = top_screened(Job("top"), screen, cells, 2, by_image, memory, columns, queries)
        assert torch.equal(found["items"], wanted if by_image else wanted[screen.captions])
        peaks[memory] = held.peak
    assert peaks[ENOUGH] > 40 * 1200 * 8
    # Two of 1,200 captions are few pairs, two of 40 images are many in themselves.
    assert peaks[LITTLE] < peaks[ENOUGH] / (4 if by_image else 1.2)


@pytest.mark.parametrize("captions", [1, 40, 55, 10_000])
def test_blocks_cover_every_pair_once(trained: Trained, captions: int) -> None:
    screen = screened(trained)[0]
    for cells in (1, captions * 7, 1 << 30):
        seen = torch.zeros(40, len(screen.captions), dtype=torch.long)
        for images, columns in screen.parts(slice(3, 35), cells):
            first, last = screen.caption_cuts[columns.start], screen.caption_cuts[columns.stop]
            assert (images.stop - images.start) * (last - first) <= cells or len(columns) == 1
            seen[images, first:last] += 1
        assert bool((seen[3:35] == 1).all())
        assert int(seen.sum()) == 32 * len(screen.captions)
