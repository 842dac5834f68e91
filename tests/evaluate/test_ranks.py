"""Ranks by counting: a plain loop, a plain sort and the laws that any evaluator must obey."""

import numpy as np
import pytest
import torch

from patchword.errors import ScoreError
from patchword.evaluate.matrix import find_non_finite, refuse_non_finite
from patchword.evaluate.ranks import Ranks, rank_scores
from patchword.scoring.truth import RightPairs


def by_loop(scores: np.ndarray, relevance: np.ndarray) -> list[tuple[int, int, int]]:
    """g, e, m of every row, as the definition reads."""
    triples = []
    for row, right in zip(scores.tolist(), relevance.tolist(), strict=True):
        best = max(s for s, r in zip(row, right, strict=True) if r)
        wrong = [s for s, r in zip(row, right, strict=True) if not r]
        mine = [s for s, r in zip(row, right, strict=True) if r]
        triples.append((sum(s > best for s in wrong), wrong.count(best), mine.count(best)))
    return triples


def triples(ranks: Ranks) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """g, e, m of both directions."""
    found = []
    for part in (ranks.i2t, ranks.t2i):
        found.append(list(zip(part.greater.tolist(), part.equal.tolist(), part.positives.tolist(), strict=True)))
    return found[0], found[1]


def uneven_owner(rng: np.random.Generator, n_images: int, n_captions: int) -> np.ndarray:
    """Every image has at least one caption, in any order."""
    return rng.permutation(np.concatenate([np.arange(n_images), rng.integers(0, n_images, n_captions - n_images)]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize("chunk_cells", [1, 60, 10**6])
def test_equals_the_definition(dtype: type, levels: int, chunk_cells: int) -> None:
    rng = np.random.default_rng(levels)
    scores = (rng.integers(0, levels, (17, 60)) / 8).astype(dtype)
    relevance = uneven_owner(rng, 17, 60) == np.arange(17)[:, None]
    relevance |= rng.random(relevance.shape) < 0.05
    found = triples(rank_scores(scores, relevance, chunk_cells=chunk_cells))
    assert found == (by_loop(scores, relevance), by_loop(scores.T, relevance.T))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_and_numpy_agree(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(12, 36, generator=generator).to(dtype)
    owner = np.arange(36) // 3
    assert triples(rank_scores(scores, owner)) == triples(rank_scores(scores.double().numpy(), owner))


def test_float64_is_not_rounded() -> None:
    scores = np.full((2, 2), 0.5)
    scores[0, 0] += 1e-12
    assert rank_scores(scores, np.array([0, 1])).i2t.tied == 1
    assert rank_scores(scores.astype(np.float32), np.array([0, 1])).i2t.tied == 2


def test_equals_a_sort_without_ties() -> None:
    rng = np.random.default_rng(3)
    scores = rng.permutation(30 * 150).reshape(30, 150).astype(np.float64)
    ranks = rank_scores(scores, np.arange(150) // 5)
    for i in range(30):
        order = np.argsort(-scores[i])
        assert ranks.i2t.pessimistic[i] == np.flatnonzero(order // 5 == i)[0]
    for j in range(150):
        assert ranks.t2i.pessimistic[j] == np.flatnonzero(np.argsort(-scores[:, j]) == j // 5)[0]
    assert ranks.i2t.tied == ranks.t2i.tied == 0
    assert np.array_equal(ranks.i2t.expected, ranks.i2t.optimistic)


def test_more_rows_than_a_byte_counts() -> None:
    scores = np.ones((700, 700), dtype=np.float32)
    ranks = rank_scores(scores, np.arange(700))
    assert (ranks.i2t.pessimistic == 699).all()
    assert (ranks.t2i.pessimistic == 699).all()


def test_order_of_captions_and_images_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    scores, owner = rng.integers(0, 9, (10, 40)).astype(np.float32), uneven_owner(rng, 10, 40)
    plain = rank_scores(scores, owner)
    columns, rows = rng.permutation(40), rng.permutation(10)
    place = np.empty(10, dtype=np.int64)
    place[rows] = np.arange(10)
    moved = rank_scores(scores[rows][:, columns], place[owner[columns]])
    assert np.array_equal(moved.i2t.pessimistic, plain.i2t.pessimistic[rows])
    assert np.array_equal(moved.t2i.pessimistic, plain.t2i.pessimistic[columns])


def test_doubling_the_scores_changes_nothing() -> None:
    scores = np.random.default_rng(6).integers(0, 9, (10, 40)).astype(np.float32)
    owner = np.arange(40) // 4
    assert triples(rank_scores(scores * 2, owner)) == triples(rank_scores(scores, owner))


def test_pairs_in_any_order_with_repetitions() -> None:
    listed = RightPairs.of((np.array([1, 0, 1, 1]), np.array([2, 0, 1, 2])), 2, 3)
    images, captions = listed.arrays
    assert images.tolist() == listed.images.tolist() == [0, 1, 1]
    assert captions.tolist() == listed.captions.tolist() == [0, 1, 2]
    assert np.shares_memory(images, listed.images.numpy())
    assert listed.per_image().tolist() == [1, 2]
    assert listed.per_caption().tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_refused(value: float) -> None:
    scores = np.zeros((4, 8))
    scores[2, 3] = scores[3, 0] = value
    with pytest.raises(ScoreError, match=r"^2 of 32 scores are not finite .*row 2, column 3: .*inf|nan"):
        rank_scores(scores, np.arange(8) // 2)


def test_nan_at_the_positives_does_not_win() -> None:
    scores = np.zeros((4, 4))
    np.fill_diagonal(scores, np.nan)
    with pytest.raises(ScoreError, match=r"^4 of 16 scores are not finite \(4 NaN, 0 \+inf, 0 -inf\)"):
        rank_scores(scores, np.arange(4))


def test_pruned_pairs_rank_last_when_allowed() -> None:
    scores = np.array([[0.5, -np.inf, 0.7], [-np.inf, 0.1, 0.2]])
    relevance = np.array([[True, False, False], [False, True, True]])
    ranks = rank_scores(scores, relevance, allow_pruned=True)
    assert ranks.pruned == 2
    assert ranks.i2t.pessimistic.tolist() == [1, 0]
    with pytest.raises(ScoreError, match="allow_pruned=True"):
        rank_scores(scores, relevance)
    scores[0, 0] = -np.inf
    with pytest.raises(ScoreError, match=r"1 right pairs have the score -inf .*row 0, column 0"):
        rank_scores(scores, relevance, allow_pruned=True)
    scores[0, 1] = np.nan
    with pytest.raises(ScoreError, match="not finite"):
        rank_scores(scores, relevance, allow_pruned=True)


def test_non_finite_report_does_not_depend_on_the_chunk() -> None:
    scores = torch.zeros(5, 7)
    scores[1, 6], scores[4, 0], scores[4, 1] = torch.inf, -torch.inf, -torch.inf
    found = [find_non_finite(scores, chunk_cells=cells) for cells in (1, 14, 1000)]
    assert found[0] == found[1] == found[2]
    assert found[0].total == 3
    assert found[0].first == (1, 6, np.inf)
    assert refuse_non_finite(torch.zeros(2, 2)).total == 0


def test_ground_truth_that_does_not_fit() -> None:
    scores = np.zeros((3, 4))
    with pytest.raises(ScoreError, match=r"1 of 3 images have no right answer, the first is image 1"):
        rank_scores(scores, np.array([0, 0, 2, 2]))
    with pytest.raises(ScoreError, match="pair 3 of the ground truth names image 3, but there are 3 images"):
        rank_scores(scores, np.array([0, 1, 2, 3]))
    with pytest.raises(ScoreError, match="pair 0 of the ground truth names image -1"):
        rank_scores(scores, np.array([-1, 1, 2, 0]))
    with pytest.raises(ScoreError, match="3 x 4 but the ground truth has 3 images and 5 captions"):
        rank_scores(scores, np.array([0, 1, 2, 0, 0]))
    with pytest.raises(ScoreError, match="1 of 4 captions have no right answer, the first is caption 3"):
        RightPairs.of(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=bool), 3, 4)
    with pytest.raises(ScoreError, match="ground truth has 2 images"):
        rank_scores(scores, RightPairs.of(np.array([0, 1, 1, 1]), 2, 4))


def test_not_a_matrix_of_numbers() -> None:
    with pytest.raises(ScoreError, match=r"shape \(0, 3\)"):
        rank_scores(np.zeros((0, 3)), np.array([0, 0, 0]))
    with pytest.raises(ScoreError, match="dtype bool"):
        rank_scores(np.zeros((1, 2), dtype=bool), np.array([0, 0]))
