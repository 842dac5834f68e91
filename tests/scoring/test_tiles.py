"""The grid of tiles, and CHAN's own tiles against its readable formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import METHODS, chan, lengths, sets_for, unit_sets, vse

from patchword.methods import METHODS as ALL
from patchword.methods import READY_MADE
from patchword.methods.chan import pool_codes
from patchword.scoring import hard_tiles, matrix
from patchword.scoring.cells import Cells
from patchword.scoring.hard_tiles import HardTiles
from patchword.scoring.matrix import _FAST, Forms, open_tiles, pair_scores, score_matrix
from patchword.scoring.pooled_words import WordSlots, pool_words
from patchword.scoring.tiles import PairTiles, cuts_by_rows, groups_of
from patchword.types import Encoded

POOLINGS = ("mean", "sum", "max", "lse", "softmax")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_chan_tiles_are_the_readable_formula_whatever_their_size(data: st.DataObject) -> None:
    draw = data.draw
    seed, pooling = draw(st.integers(0, 10**6)), draw(st.sampled_from(POOLINGS))
    regions = draw(st.sampled_from([lengths(9, 7, seed), torch.full((9,), 4)]))
    images, captions = unit_sets(regions, 8, seed), unit_sets(lengths(17, 12, seed + 1), 8, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_tiles, "_PATCHES", draw(st.integers(1, 30)))
        patch.setattr(hard_tiles, "_WORDS", draw(st.integers(1, 40)))
        patch.setattr(hard_tiles, "_WIDE", draw(st.sampled_from([4, 640])))
        found = score_matrix(chan(pooling), images, captions)
    torch.testing.assert_close(found, chan(pooling).score(images, captions), atol=1e-5, rtol=1e-5)


def test_words_of_the_next_tile_do_not_reach_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product goes on into the next captions; their numbers, NaN included, must stay out."""
    monkeypatch.setattr(hard_tiles, "_WORDS", 8)
    monkeypatch.setattr(hard_tiles, "_WIDE", 1)
    images, captions = unit_sets([3] * 4, 8, 0), unit_sets([5, 2, 4, 4, 1], 8, 1)
    wanted = chan().score(images, captions)
    captions.vectors[7:] = torch.nan
    found = score_matrix(chan(), images, captions)
    assert open_tiles(chan(), images, captions).caption_cuts == [0, 2, 4, 5]
    torch.testing.assert_close(found[:, :2], wanted[:, :2])
    assert found[:, 2:].isnan().all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_words_are_those_of_the_readable_pooling(pooling: str) -> None:
    sizes = lengths(7, 6, 3)
    codes = torch.randn(3, int(sizes.sum()), generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(3, 7, int(sizes.max()))
    real = torch.arange(padded.shape[2]) < sizes[:, None]
    padded[:, real] = codes
    wanted = pool_codes(padded, real.expand(3, -1, -1), pooling, 0.3)
    torch.testing.assert_close(pool_words(codes, WordSlots.of(sizes), pooling, 0.3), wanted)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20), st.integers(1, 12))
def test_cuts_and_groups_cover_everything_once(sizes: list[int], most: int, group: int) -> None:
    cuts = cuts_by_rows(torch.tensor(sizes), most)
    assert (cuts[0], cuts[-1]) == (0, len(sizes))
    for first, last in pairwise(cuts):
        assert first < last
        assert last - first == 1 or sum(sizes[first:last]) <= most
    groups = groups_of(cuts, group)
    assert [block for one in groups for block in one] == list(range(len(cuts) - 1))
    assert all(cuts[one.stop] - cuts[one.start] >= group for one in groups[:-1])


def test_captions_share_a_tile_with_others_of_their_length_nearby() -> None:
    sets = unit_sets(lengths(100, 20, 0), 4, 0)
    tiles = PairTiles(chan().score, unit_sets([2] * 3, 4, 1), sets, (2, 5), 0)
    assert sorted(tiles.captions.tolist()) == list(range(100))
    for first in range(0, 100, 20):
        window = tiles.captions[first : first + 20]
        assert sorted(window.tolist()) == list(range(first, first + 20))
        assert (sets.lengths[window].diff() >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_cell_is_the_same_bits_as_in_the_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_tiles, "_WORDS", 11)
    monkeypatch.setattr(hard_tiles, "_PATCHES", 7)
    monkeypatch.setattr(matrix, "_MOST", (3, 4))
    images, captions = sets_for(METHODS[name], 13, 37)
    scores = score_matrix(METHODS[name], images, captions)
    draw = np.random.default_rng(0)
    rows, columns = torch.from_numpy(draw.integers(0, 13, 50)), torch.from_numpy(draw.integers(0, 37, 50))
    cells = Cells(open_tiles(METHODS[name], images, captions), 0)
    assert torch.equal(cells.values(rows, columns), scores[rows, columns])
    assert int(cells.sizes.sum()) == 13 * 37


def test_forms_that_a_method_lacks_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    images, captions = sets_for(chan(), 5, 7)
    wanted = chan().score(images, captions)
    pairs = Forms(pairs="patchword.scoring.hard_assignment:chan_scores")
    for entry in (Forms(), pairs, Forms(tiles="patchword.scoring.hard_tiles:chan_tiles")):
        monkeypatch.setitem(_FAST, "chan", entry)
        torch.testing.assert_close(pair_scores(chan(), images, captions), wanted)
        torch.testing.assert_close(score_matrix(chan(), images, captions), wanted)
        kind = HardTiles if entry.tiles else PairTiles
        assert type(open_tiles(chan(), images, captions)) is kind


def test_the_table_names_methods_that_exist() -> None:
    assert set(_FAST) <= {*ALL, *READY_MADE}


def test_nothing_is_scored_for_no_captions() -> None:
    one = unit_sets([1] * 4, 8, 0)
    none = Encoded(torch.empty(0, 8), torch.empty(0, dtype=torch.long))
    assert score_matrix(vse(), one, none).shape == (4, 0)
    assert score_matrix(vse(), none, one).shape == (0, 4)
    assert score_matrix(chan(), one, none).shape == (4, 0)
