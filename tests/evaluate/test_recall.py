"""Recall, folds and chance: against a plain loop, and ties against chance itself."""

import numpy as np
import pytest
import torch

from patchword.errors import ScoreError
from patchword.evaluate.folds import fold_parts, recall_by_fold
from patchword.evaluate.ranks import rank_scores
from patchword.evaluate.recall import COLUMNS, chance, hit_probability, recall_report
from patchword.scoring.query_ranks import QueryRanks


def test_without_ties_all_three_agree_with_a_sort() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((40, 200)) + 0.9 * (np.arange(200) // 5 == np.arange(40)[:, None])
    report = recall_report(rank_scores(scores, np.arange(200) // 5))
    i2t = np.array([np.flatnonzero(np.argsort(-row) // 5 == i)[0] for i, row in enumerate(scores)])
    t2i = np.array([np.flatnonzero(np.argsort(-scores[:, j]) == j // 5)[0] for j in range(200)])
    expected = []
    for ranks in (i2t, t2i):
        expected += [100 * np.mean(ranks < k) for k in (1, 5, 10)]
        expected += [np.floor(np.median(ranks)) + 1, ranks.mean() + 1]
    means = [np.mean(expected[:3]), np.mean(expected[5:8]), sum(expected[:3]) + sum(expected[5:8])]
    np.testing.assert_allclose(report.pessimistic.columns, [*expected, *means], rtol=1e-12)
    np.testing.assert_array_equal(report.optimistic.columns, report.pessimistic.columns)
    medians = [COLUMNS.index("i2t_medr"), COLUMNS.index("t2i_medr")]
    others = np.delete(np.arange(13), medians)
    np.testing.assert_allclose(report.expected.columns[others], report.pessimistic.columns[others], rtol=1e-12)
    assert report.expected.i2t.medr is None
    assert not report.ties_matter


def test_an_even_median_is_floored() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 0.0]])  # ranks of the images: 0 and 1
    assert recall_report(rank_scores(scores, np.array([0, 1]))).pessimistic.i2t.medr == 1.0


def test_constant_scores_are_no_success() -> None:
    report = recall_report(rank_scores(np.ones((100, 500), dtype=np.float32), np.arange(500) // 5))
    assert report.pessimistic.rsum == 0
    assert report.optimistic.rsum == 600
    assert report.ties_matter
    assert (report.tied_i2t, report.tied_t2i) == (100, 500)
    assert report.expected.rsum == pytest.approx(chance(np.arange(500) // 5).rsum)


def test_equal_rows_tie_all_images() -> None:
    rng = np.random.default_rng(1)
    scores = np.repeat(rng.random((1, 60)), 20, axis=0)  # every image looks alike
    report = recall_report(rank_scores(scores, np.arange(60) // 3))
    assert report.tied_t2i == 60
    assert report.pessimistic.t2i.r10 == 0
    assert report.expected.t2i.r1 == pytest.approx(5.0)


def test_expected_recall_is_the_mean_over_random_tie_breaking() -> None:
    rng = np.random.default_rng(2)
    scores, owner = rng.integers(0, 4, (9, 27)).astype(np.float64), np.arange(27) // 3
    report = recall_report(rank_scores(scores, owner))
    tables = []
    for _ in range(1500):
        broken = scores + 0.5 * rng.random(scores.shape)  # levels are 1 apart
        tables.append(recall_report(rank_scores(broken, owner)).pessimistic.columns)
    mean, error = np.mean(tables, axis=0), np.std(tables, axis=0) / np.sqrt(len(tables))
    known = [k for k, name in enumerate(COLUMNS) if not name.endswith("medr")]
    assert (np.abs(mean - report.expected.columns)[known] <= 4.5 * error[known] + 1e-9).all()
    assert report.pessimistic.rsum < report.expected.rsum < report.optimistic.rsum


def test_hit_probability_at_the_edges() -> None:
    ranks = QueryRanks(np.array([0, 5, 4, 0]), np.array([0, 0, 3, 1]), np.array([1, 1, 1, 4]))
    np.testing.assert_allclose(hit_probability(ranks, 5), [1, 0, 0.25, 1])
    np.testing.assert_allclose(hit_probability(ranks, 1), [1, 0, 0, 0.8])


def test_chance_is_what_random_scores_get() -> None:
    rng = np.random.default_rng(3)
    owner = np.concatenate([np.arange(30), rng.integers(0, 30, 60)])
    sums = [recall_report(rank_scores(rng.random((30, 90)), owner)).pessimistic.rsum for _ in range(400)]
    assert abs(np.mean(sums) - chance(owner).rsum) < 4.5 * np.std(sums) / 20
    grouped = np.arange(100) // 5
    assert chance(grouped, folds=4).rsum == pytest.approx(chance(grouped[:25]).rsum)
    with pytest.raises(ScoreError, match="3 equal folds"):
        chance(grouped, folds=3)


def test_folds_are_diagonal_blocks_averaged() -> None:
    rng = np.random.default_rng(4)
    scores, owner = rng.random((20, 100)).astype(np.float32), np.arange(100) // 5
    found = recall_by_fold(scores, owner, 4)
    assert found.numbers.shape == (4, 13)
    for k in range(4):
        block = scores[5 * k : 5 * k + 5, 25 * k : 25 * k + 25]
        alone = recall_report(rank_scores(block, np.arange(25) // 5)).pessimistic.columns
        np.testing.assert_array_equal(found.numbers[k], alone)
    np.testing.assert_allclose(found.mean.pessimistic.columns, found.numbers.mean(axis=0), rtol=1e-12)


def test_folds_of_scattered_captions_and_torch_scores() -> None:
    rng = np.random.default_rng(5)
    scores, owner = rng.random((6, 18)), np.arange(18) // 3
    order = rng.permutation(18)
    plain = recall_by_fold(scores, owner, 2)
    moved = recall_by_fold(torch.as_tensor(scores[:, order]), owner[order], 2)
    np.testing.assert_array_equal(moved.numbers, plain.numbers)
    assert not isinstance(fold_parts(owner[order], 6, 2)[0][1], slice)


def test_folds_that_do_not_divide() -> None:
    with pytest.raises(ScoreError, match="6 images can not be cut into 4 equal folds"):
        recall_by_fold(np.zeros((6, 6)), np.arange(6), 4)
    with pytest.raises(ScoreError, match="ground truth has 6 images and 5 captions"):
        recall_by_fold(np.zeros((6, 6)), np.arange(5), 2)
