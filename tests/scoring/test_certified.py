"""The certified mode: its bounds hold for every float32 score, and its ranks are the float32 ranks, ties included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import chan, lengths, owners, tied_sets, unit_sets, vse

from patchword.errors import ScoreError
from patchword.methods.base import Method
from patchword.methods.chan import Chan
from patchword.scoring import certified, hard_screen, hard_tiles
from patchword.scoring.bounds import NoScreen, Screen
from patchword.scoring.hard_bounds import Pool
from patchword.scoring.hard_screen import HardScreen, eight_bits_are_exact
from patchword.scoring.hard_tiles import HardTiles
from patchword.scoring.matrix import open_screen, score_matrix
from patchword.scoring.ranks import StreamedRanks, ranks
from patchword.scoring.short_vectors import Shortening, directions, shorten
from patchword.types import Encoded

pytestmark = pytest.mark.integration

POOLINGS = ("mean", "sum", "max", "lse")
Trained = tuple[Method, Encoded, Encoded, np.ndarray]


def same(found: StreamedRanks, wanted: StreamedRanks) -> None:
    for direction in ("i2t", "t2i"):
        for part in ("greater", "equal", "positives"):
            ours, theirs = (getattr(getattr(one, direction), part) for one in (found, wanted))
            np.testing.assert_array_equal(ours, theirs, f"{direction} {part}")


def both(method: Method, images: Encoded, captions: Encoded, truth: Any) -> StreamedRanks:
    """The certified ranks, after they were found equal to the float32 ones."""
    found = ranks(method, images, captions, truth, precision="certified")
    same(found, ranks(method, images, captions, truth))
    return found


def always(patch: pytest.MonkeyPatch, width: int, whole: bool = True, exact: bool = False) -> None:
    """Use one screen whatever it costs."""

    def choose(images: Encoded, captions: Encoded, pool: Pool, judge: Any) -> Screen:
        dims = images.vectors.shape[1]
        basis = directions(images.vectors, captions.vectors)[:, dims - width :] if width < dims else None
        return HardScreen(images, captions, pool, Shortening(basis, exact), Shortening(None) if whole else None)

    patch.setattr(hard_screen, "choose_screen", choose)


def values_of(draw: Any, sizes: torch.Tensor, dims: int) -> Encoded:
    """Sets of one of many kinds: even, tied, of low rank, of very different lengths, with zeros and repeats."""
    kind = draw(st.sampled_from(["unit", "tied", "low rank", "uneven", "huge", "tiny", "zeros", "repeated"]))
    seed = draw(st.integers(0, 10**6))
    sets = tied_sets(sizes, dims, seed) if kind == "tied" else unit_sets(sizes, dims, seed)
    v, generator = sets.vectors, torch.Generator().manual_seed(seed)
    if kind == "low rank":
        v = v[:, :2] @ torch.randn(2, dims, generator=generator) + 1e-3 * v
    if kind == "uneven":
        v = v * torch.randn(len(v), 1, generator=generator).mul(4).exp()
    if kind in ("huge", "tiny"):
        v = v * (3e11 if kind == "huge" else 3e-12)
    if kind == "zeros":
        v = v * (torch.rand(len(v), 1, generator=generator) < 0.6)
    if kind == "repeated":
        v = v[torch.randint(0, len(v), (len(v),), generator=generator) // 3]
    return Encoded(v.contiguous(), sizes)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_score_leaves_its_bounds(data: st.DataObject) -> None:
    draw = data.draw
    dims, pooling = draw(st.sampled_from([2, 3, 8, 24])), draw(st.sampled_from(POOLINGS))
    seed = draw(st.integers(0, 10**6))
    images = values_of(draw, lengths(draw(st.integers(1, 7)), 6, seed), dims)
    captions = values_of(draw, lengths(draw(st.integers(1, 20)), 9, seed + 1), dims)
    temperature = draw(st.sampled_from([0.1, 3.0]))
    tiles = HardTiles(images, captions, pooling, temperature)
    scores = torch.cat(
        [torch.cat([tiles.tile(r, c) for c in range(tiles.columns)], 1) for r in range(tiles.rows)]
    ).double()
    width, exact = draw(st.integers(1, dims)), draw(st.booleans())
    basis = directions(images.vectors, captions.vectors)[:, :width] if width < dims else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_screen, "_PATCHES", draw(st.sampled_from([1, 7, 576])))
        patch.setattr(hard_screen, "_WORDS", draw(st.sampled_from([1, 7, 1024])))
        pool = Pool(pooling, temperature)
        screen = HardScreen(images, captions, pool, Shortening(basis, exact), Shortening(None))
        low, high = screen.strip(slice(0, len(images)))
        in_order = scores[:, screen.captions]
        assert (low.double() <= in_order).all()
        assert (in_order <= high.double()).all()
        for image in range(len(images)):
            some = torch.arange(len(captions))[:: 1 + image]
            narrowed = screen.closer(image, some)
            assert narrowed is not None
            assert (narrowed[0].double() <= scores[image, some]).all()
            assert (scores[image, some] <= narrowed[1].double()).all()
            again, distance = screen.again(image, some)
            assert ((again.double() - scores[image, some]).abs() <= distance.double()).all()


def test_bounds_are_not_wider_than_they_need_to_be() -> None:
    """With whole vectors of 8 bits a mean of unit products is known to about 0.02, and to 1e-4 again in float32."""
    images, captions = unit_sets([36] * 6, 256, 0), unit_sets([12] * 9, 256, 1)
    screen = HardScreen(images, captions, Pool("mean", 0.1), Shortening(None))
    low, high = screen.strip(slice(0, 6))
    assert (high - low).max() < 0.04
    assert screen.again(0, torch.arange(9))[1].max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_short_vectors_obey_their_definition(data: st.DataObject) -> None:
    dims, width = 12, data.draw(st.integers(1, 11))
    sizes = lengths(6, 5, data.draw(st.integers(0, 99)))
    v = values_of(data.draw, sizes, dims).vectors
    w = values_of(data.draw, sizes, dims).vectors
    short = Shortening(directions(v, w)[:, dims - width :], data.draw(st.booleans()))
    a, b = shorten(v, short, sizes), shorten(w, short, torch.ones(len(w), dtype=torch.long))
    exact = v.double() @ w.double().T
    scale = a.scales[:, None].double() * b.scales.double()
    product = scale * (a.integers.double() @ b.integers.double().T)
    error = (
        a.lengths.double()[:, None] * b.errors.double() + a.errors.double()[:, None] * (b.lengths + b.errors).double()
    )
    assert (exact <= product + error).all()
    assert (exact >= product - error - 2 * a.lost.double()[:, None] * b.lost.double()).all()
    assert a.scales.split(sizes.tolist())[0].unique().numel() == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_ranks_of_a_trained_model(trained: Trained, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = both(*trained)
    finally:
        torch.set_num_threads(before)
    assert found.screened is not None
    assert found.screened.about.startswith("int8 products of")
    assert found.screened.pairs == 80 * 400
    assert 0 < found.screened.again < 0.1 * found.screened.pairs
    assert found.screened.near < found.screened.again
    assert 0 < found.screened.share < 0.6
    assert np.median(found.t2i.pessimistic) < 20  # it has learned something


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("width", "whole", "exact"), [(24, True, False), (24, False, False), (64, False, False), (24, False, True)]
)
def test_every_screen_gives_the_same_ranks(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, pooling: str, width: int, whole: bool, exact: bool
) -> None:
    method, images, captions, truth = trained
    pooled = Chan(method.config.model_copy(update={"pooling": pooling}))
    always(monkeypatch, width, whole, exact)
    found = both(pooled, images.slice(0, 40), captions.slice(0, 200), truth[:200])
    assert found.screened is not None
    assert (found.screened.closer > 0) == whole
    assert 0 < found.screened.again < 0.5 * found.screened.pairs


@pytest.mark.parametrize("pooling", POOLINGS)
def test_ranks_of_a_random_model(monkeypatch: pytest.MonkeyPatch, pooling: str) -> None:
    images, captions = unit_sets(lengths(20, 8, 0), 16, 0), unit_sets(lengths(60, 12, 1), 16, 1)
    found = both(chan(pooling), images, captions, owners(20, 60))
    assert found.screened is not None
    always(monkeypatch, 8)
    both(chan(pooling), images, captions, owners(20, 60))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_of_anything(data: st.DataObject) -> None:
    draw = data.draw
    pooling = draw(st.sampled_from(POOLINGS))
    seed, dims = draw(st.integers(0, 10**6)), draw(st.sampled_from([3, 8]))
    n = draw(st.integers(1, 9))
    m = n + draw(st.integers(0, 15))
    images, captions = values_of(draw, lengths(n, 4, seed), dims), values_of(draw, lengths(m, 7, seed + 1), dims)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_tiles, "_PATCHES", 1 + seed % 9)
        patch.setattr(hard_tiles, "_WORDS", 1 + seed % 13)
        if draw(st.booleans()):
            patch.setattr(certified, "_TOO_MANY", 2.0)  # never give up on a unit
        if draw(st.booleans()):
            always(patch, 1 + seed % dims, draw(st.booleans()), draw(st.booleans()))
        both(chan(pooling), images, captions, owners(n, m, seed))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_near_ties_made_by_hand(trained: Trained, monkeypatch: pytest.MonkeyPatch, pooling: str) -> None:
    """Wrong captions that differ from a right one in the last bit of one number, or not at all, or in word order."""
    method, images, captions, _ = trained
    monkeypatch.setattr(certified, "_TOO_MANY", 2.0)
    always(monkeypatch, 24)
    right = captions.select(torch.arange(0, 100, 5))  # one caption of each of 20 images
    parts = [right]
    for kind in ("same", "up", "down", "turned"):
        v = right.vectors.clone()
        rows = right.offsets[:-1]
        if kind in ("up", "down"):
            v[rows, 3] = torch.nextafter(v[rows, 3], torch.tensor(torch.inf if kind == "up" else -torch.inf))
        if kind == "turned":
            v = torch.cat([part.flip(0) for part in v.split(right.lengths.tolist())])
        parts.append(Encoded(v, right.lengths))
    everything = Encoded.concat(parts)
    truth = np.concatenate([np.arange(20), *[(np.arange(20) + k) % 20 for k in (1, 7, 11, 13)]])
    pooled = Chan(method.config.model_copy(update={"pooling": pooling}))
    found = both(pooled, images.slice(0, 20), everything, truth)
    assert found.screened is not None
    assert found.screened.near >= 20 * 3  # a right caption's four likes touch its boundary
    assert found.i2t.equal.sum() >= 10


def test_equal_scores_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "_TOO_MANY", 2.0)
    always(monkeypatch, 4)
    one = unit_sets([3], 8, 0)
    images, captions = Encoded.concat([one] * 5), Encoded.concat([one] * 11)
    found = both(chan(), images, captions, owners(5, 11))
    assert (found.i2t.equal + found.i2t.positives == 11).all()
    assert found.screened is not None
    assert found.screened.near == 5 * 11 - 11


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1.0, 1e11, 1e18])
def test_lengths_for_which_float32_is_too_small_are_not_screened(trained: Trained, scale: float) -> None:
    method, images, captions, truth = trained
    images = Encoded(images.vectors[: 20 * 36] * scale, images.lengths[:20])
    found = both(method, images, captions.slice(0, 100), truth[:100])
    assert found.screened is not None
    assert found.screened.about.startswith("every pair: the largest number of a vector") == (scale in (1e-30, 1e18))


def test_a_screen_that_costs_more_than_it_saves_is_not_used() -> None:
    images, captions = unit_sets([4] * 30, 64, 0), unit_sets([5] * 60, 64, 1)
    found = both(chan(), images, captions, owners(30, 60))
    assert found.screened is not None
    assert found.screened.about.startswith("every pair: bounds would leave so many open")


def test_a_unit_with_too_many_open_pairs_is_scored_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, 2)
    images, captions = unit_sets([4] * 30, 64, 0), unit_sets([5] * 60, 64, 1)
    found = both(chan(), images, captions, owners(30, 60))
    assert found.screened is not None
    assert found.screened.tiled >= 30 * 60
    assert found.screened.again == 0


def test_without_exact_products_of_8_bits_short_float32_vectors_are_used(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_screen, "eight_bits_are_exact", lambda: False)
    monkeypatch.setattr(hard_screen, "_WORTH", 9.0)  # it does not pay for so few numbers
    found = both(*trained)
    assert found.screened is not None
    assert found.screened.about.startswith("float32 products of")


def test_products_of_8_bits_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert eight_bits_are_exact()  # so it is on every processor that the project was tested on
    multiply = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: multiply(a, b).clamp(-32768, 32767))
    assert not eight_bits_are_exact()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_float32_that_may_be_rounded_to_less_is_not_screened(trained: Trained, precision: str) -> None:
    method, images, captions, _ = trained
    try:
        torch.set_float32_matmul_precision(precision)
        screen = open_screen(method, images, captions, lambda *_: 0.0)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert isinstance(screen, NoScreen)
    assert "round float32" in screen.about


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (chan("softmax"), "with softmax pooling a score may fall"),
        (chan(coding="tha"), "coding vha with masked padding only"),
        (chan(padding="reference"), "coding vha with masked padding only"),
        (vse(), "every item is one vector"),
    ],
)
def test_methods_without_bounds_say_so_in_one_line(method: Method, why: str) -> None:
    images, captions = unit_sets([1] * 4, 8, 0), unit_sets([1] * 6, 8, 1)
    with pytest.raises(
        ScoreError, match=f"{method.name} has no certified mode: .*{why}.*Use precision float32"
    ) as caught:
        ranks(method, images, captions, owners(4, 6), precision="certified")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["spread", "of_word"])
def test_the_tests_above_would_notice_bounds_that_are_too_narrow(part: str) -> None:
    images, captions = unit_sets([5] * 8, 24, 0), unit_sets(lengths(30, 6, 1), 24, 1)
    scores = score_matrix(chan(), images, captions)
    screen = HardScreen(images, captions, Pool("mean", 0.1), Shortening(None))
    screen._columns = [replace(own, **{part: 0.1 * getattr(own, part)}) for own in screen._columns]
    low, high = screen.strip(slice(0, 8))
    in_order = scores[:, screen.captions]
    assert not bool(((low <= in_order) & (in_order <= high)).all())
