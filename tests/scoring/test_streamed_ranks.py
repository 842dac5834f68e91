"""Ranks that are counted while tiles go by, against the ranks of the whole matrix."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import METHODS, OTHERS, chan, owners, sets_for, unit_sets, vse

from patchword.errors import ScoreError
from patchword.evaluate.ranks import rank_scores
from patchword.scoring import cells, counts, hard_tiles, matrix
from patchword.scoring import ranks as ranks_module
from patchword.scoring.matrix import MEMORY, open_tiles, score_matrix
from patchword.scoring.ranks import StreamedRanks, ranks
from patchword.scoring.truth import RightPairs
from patchword.types import Encoded


def same_ranks(found: StreamedRanks, wanted: Any) -> None:
    """Equal integers in both directions; ``wanted`` comes from either evaluator."""
    for direction in ("i2t", "t2i"):
        for part in ("greater", "equal", "positives"):
            ours = getattr(getattr(found, direction), part)
            assert ours.dtype == np.int64
            np.testing.assert_array_equal(ours, getattr(getattr(wanted, direction), part), f"{direction} {part}")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that small sets have many of them."""
    monkeypatch.setattr(hard_tiles, "_PATCHES", 5)
    monkeypatch.setattr(hard_tiles, "_WORDS", 7)
    monkeypatch.setattr(matrix, "_MOST", (3, 4))
    monkeypatch.setattr(counts, "_GROUP", 6)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_equal_to_the_ranks_of_the_matrix(name: str, tied: bool) -> None:
    method = METHODS[name]
    images, captions = sets_for(method, 17, 41, tied=tied)
    truth = owners(17, 41)
    found = ranks(method, images, captions, truth)
    wanted = rank_scores(score_matrix(method, images, captions), truth)
    same_ranks(found, wanted)
    assert (wanted.t2i.tied > 5) == tied  # so that ties are counted at all
    np.testing.assert_array_equal(found.t2i.pessimistic, wanted.t2i.pessimistic)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.booleans(), st.integers(0, 10**6))
def test_any_sizes(images: int, more: int, tied: bool, seed: int) -> None:
    a, b = sets_for(METHODS["chan"], images, images + more, seed=seed, tied=tied)
    truth = owners(images, images + more, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_tiles, "_PATCHES", 1 + seed % 9)
        patch.setattr(hard_tiles, "_WORDS", 1 + seed % 11)
        same_ranks(ranks(METHODS["chan"], a, b, truth), rank_scores(score_matrix(METHODS["chan"], a, b), truth))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("name", ["chan", "vse_inf"])
def test_an_image_and_a_caption_may_have_many_right_answers(name: str) -> None:
    method = METHODS[name]
    images, captions = sets_for(method, 9, 20, tied=True)
    relevance = np.random.default_rng(0).random((9, 20)) < 0.3
    relevance[np.arange(20) % 9, np.arange(20)] = True
    wanted = rank_scores(score_matrix(method, images, captions), relevance)
    rows, columns = relevance.nonzero()
    again = np.concatenate([rows, rows[:3]]), np.concatenate([columns, columns[:3]])  # a pair listed twice counts once
    same_ranks(ranks(method, images, captions, relevance), wanted)
    same_ranks(ranks(method, images, captions, again), wanted)
    assert wanted.t2i.positives.max() > 1


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("name", ["chan lse", "chan tha", "vse_inf"])
def test_memory_threads_and_model_objects_change_no_bit(name: str) -> None:
    method = METHODS[name]
    images, captions = sets_for(method, 17, 41)
    truth = torch.from_numpy(owners(17, 41))

    class Loaded:
        def __init__(self) -> None:
            self.method = method

    wanted, scores = ranks(method, images, captions, truth), score_matrix(method, images, captions)
    least = open_tiles(method, images, captions).tile_bytes
    before = torch.get_num_threads()
    for threads, memory in ((1, least), (2, least), (3, 3 * least)):
        try:
            torch.set_num_threads(threads)
            is_little = pytest.warns(UserWarning, match=r"1 of 2 cores are used.*Give --memory \d+MiB for all of them")
            with is_little if threads == 2 else nullcontext():
                same_ranks(ranks(Loaded(), images, captions, truth, memory=memory), wanted)
                assert torch.equal(score_matrix(Loaded(), images, captions, memory=memory), scores)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)


def test_tiles_of_right_pairs_are_not_computed_twice_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_MOST", (4, 8))
    method = vse()
    images, captions = sets_for(method, 16, 32)
    truth = np.repeat(np.arange(16), 2)
    asked: list[tuple[int, int]] = []
    tile = cells.Cells.tile

    def noting(self: cells.Cells, row: int, column: int, *, keep: bool = False) -> torch.Tensor:
        if (row, column) not in self._kept:
            asked.append((row, column))
        return tile(self, row, column, keep=keep)

    monkeypatch.setattr(cells.Cells, "tile", noting)
    ranks(method, images, captions, truth)
    assert sorted(asked) == [(r, c) for r in range(4) for c in range(4)]
    asked.clear()
    ranks(method, images, captions, truth, memory=open_tiles(method, images, captions).tile_bytes)  # half: for no tile
    assert len(asked) == 16 + 4


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("precision", ["float32", "certified"])
def test_progress_counts_every_pair_once_and_begins_with_the_right_pairs(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, captions = sets_for(METHODS["chan"], 30, 70)
    truth, counted, at_first = np.arange(70) * 30 // 70, [], []
    first_pass = ranks_module.find_boundaries

    def noting(*given: Any) -> Any:
        found = first_pass(*given)
        at_first.append(sum(counted))
        return found

    monkeypatch.setattr(ranks_module, "find_boundaries", noting)
    for memory in (MEMORY, open_tiles(METHODS["chan"], images, captions).tile_bytes):  # room for all, and for few
        counted.clear()
        ranks(METHODS["chan"], images, captions, truth, progress=counted.append, memory=memory, precision=precision)
        assert sum(counted) == 30 * 70
        assert 0 not in counted
    grid = cells.Cells(open_tiles(METHODS["chan"], images, captions), 0)
    of_right = grid.sizes[grid.blocks(torch.from_numpy(truth), torch.arange(70)).unique()].sum()
    assert at_first[0] == of_right
    assert 70 < of_right < 30 * 70 / 2
    assert 0 < at_first[1] < of_right


def test_progress_of_parts_that_are_there(tmp_path: Path) -> None:
    images, captions = sets_for(METHODS["vse_inf"], 30, 70)
    for left in ("right_*", "counts_*", "counts_00000*", "none"):  # what is computed again
        for part in tmp_path.glob(left):
            part.unlink()
        counted: list[int] = []
        ranks(METHODS["vse_inf"], images, captions, owners(30, 70), progress=counted.append, folder=tmp_path)
        assert sum(counted) == 30 * 70


@pytest.mark.parametrize(("value", "named"), [(torch.nan, "NaN"), (torch.inf, "+inf"), (-torch.inf, "-inf")])
@pytest.mark.parametrize("precision", ["float32", "certified"])
def test_scores_that_are_not_finite_are_refused(value: float, named: str, precision: Any) -> None:
    images, captions = sets_for(chan(), 6, 9)
    captions = Encoded(captions.vectors.clone(), captions.lengths)
    captions.vectors[captions.offsets[4]] = value
    with pytest.raises(ScoreError, match=r"scores are not finite so far.*caption 4") as caught:
        ranks(chan("sum"), images, captions, owners(6, 9), precision=precision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.array([0, 1]), "2 x 3 but the ground truth has 2 images and 2 captions"),
        (np.array([0, 1, 2]), "pair 2 of the ground truth names image 2, but there are 2 images"),
        (np.array([0, 0, 0]), "1 of 2 images have no right answer, the first is image 1"),
        ((np.array([0, 1]), np.array([0, 2])), "1 of 3 captions have no right answer, the first is caption 1"),
    ],
)
def test_ground_truth_that_does_not_fit_is_refused(truth: Any, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        ranks(vse(), unit_sets([1, 1], 4, 0), unit_sets([1, 1, 1], 4, 1), truth)


def test_too_little_memory_is_refused() -> None:
    images, captions = sets_for(chan(), 6, 9)
    with pytest.raises(
        ScoreError, match=r"budget of 10 bytes was given\. One tile .* takes [\d,]+: give at least that"
    ):
        ranks(chan(), images, captions, owners(6, 9), memory=10)


def test_a_matrix_has_no_certified_mode() -> None:
    images, captions = sets_for(chan(), 6, 9)
    with pytest.raises(ScoreError, match="nothing can be left out"):
        score_matrix(chan(), images, captions, precision="certified")


@pytest.mark.parametrize("n", [150, 333, 777])
def test_equal_images_score_equally_wherever_they_lie(n: int) -> None:
    """The last image is the first one again, in the last and smaller tile; so are their captions."""
    draw = torch.Generator().manual_seed(n)
    images = torch.nn.functional.normalize(torch.randn(n, 256, generator=draw))
    images[-1] = images[0]
    owner = torch.arange(5 * n) // 5
    captions = torch.nn.functional.normalize(images[owner] + 0.02 * torch.randn(5 * n, 256, generator=draw))
    captions[-1] = captions[0]
    sets = [Encoded(vectors, torch.ones(len(vectors), dtype=torch.long)) for vectors in (images, captions)]
    found = ranks(vse(), *sets, owner)
    twins = [*range(5), *range(5 * n - 5, 5 * n)]
    assert found.t2i.equal[twins].tolist() == [1] * 10
    assert found.t2i.greater[twins].tolist() == [0] * 10
    scores = score_matrix(vse(), *sets)
    assert torch.equal(scores[0], scores[-1])
    assert torch.equal(scores[:, 0], scores[:, -1])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", [*METHODS, *OTHERS])
def test_sets_of_another_precision_are_scored_in_float32(name: str, kind: torch.dtype) -> None:
    method = {**METHODS, **OTHERS}[name]
    truth = owners(17, 41)
    given = [Encoded(side.vectors.to(kind), side.lengths) for side in sets_for(method, 17, 41)]
    images, captions = (side.float() for side in given)
    wanted = score_matrix(method, images, captions)
    assert torch.equal(score_matrix(method, *given), wanted)
    assert torch.equal(score_matrix(method, *given, tile=(5, 7)), score_matrix(method, images, captions, tile=(5, 7)))
    same_ranks(ranks(method, *given, truth), rank_scores(wanted, truth))
    if name in ("chan", "chan lse"):
        same_ranks(ranks(method, *given, truth, precision="certified"), rank_scores(wanted, truth))


def test_sets_of_different_widths_and_tiles_without_pairs_are_refused() -> None:
    images, captions = unit_sets([2, 1], 8, 0), unit_sets([3, 1, 2], 16, 1)
    for call in (
        lambda: score_matrix(chan(), images, captions),
        lambda: score_matrix(chan(), images, captions, tile=(1, 1)),
        lambda: ranks(chan(), images, captions, torch.tensor([0, 1, 1])),
    ):
        with pytest.raises(ScoreError, match=r"images have width 8, those of the captions 16\. Expected the same"):
            call()
    with pytest.raises(ScoreError, match=r"tiles of 0 x 5 were asked for\. Expected at least 1 x 1"):
        score_matrix(chan(), images, unit_sets([3, 1], 8, 1), tile=(0, 5))


def test_truth_may_come_as_lists() -> None:
    owner = owners(5, 9)
    wanted, taken = RightPairs.of(owner, 5, 9), (owner.tolist(), list(range(9)))
    for found in (RightPairs.of(owner.tolist(), 5, 9), RightPairs.of(taken, 5, 9)):
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.captions, wanted.captions)
    with pytest.raises(ScoreError, match="pairs of 9 images and 8 captions"):
        RightPairs.of((owner, np.arange(8)), 5, 9)
