"""Rank correlation against SciPy, and the bootstrap that counts every item once."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from patchword.errors import ScoreError
from patchword.evaluate.spearman import average_ranks, bootstrap_picks, correlate, spearman


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_equals_scipy_with_and_without_ties(levels: int) -> None:
    draw = np.random.default_rng(levels)
    a, b = draw.integers(0, levels, (2, 400))
    np.testing.assert_array_equal(average_ranks(a), rankdata(a))
    assert spearman(a, b) == pytest.approx(float(spearmanr(a, b).statistic), abs=1e-12)


def test_a_constant_list_has_no_correlation() -> None:
    assert np.isnan(spearman(np.ones(5), np.arange(5)))


def test_a_round_draws_half_of_the_items_and_one_row_of_each() -> None:
    first = [f"q{k % 21}" for k in range(100)]
    picks = bootstrap_picks(first, 30, seed=5)
    assert picks.shape == (30, 10)
    for one in picks:
        assert len({first[row] for row in one}) == 10
    assert len({int(row) for row in picks.reshape(-1)}) > 90  # every row has its chance
    np.testing.assert_array_equal(picks, bootstrap_picks(first, 30, seed=5))
    assert not np.array_equal(picks, bootstrap_picks(first, 30, seed=6))


def test_every_row_of_an_item_is_drawn_alike_often() -> None:
    first = ["a"] * 4 + ["b", "c", "d"]
    picks = bootstrap_picks(first, 4000, seed=0)
    counts = np.bincount(picks.reshape(-1), minlength=7)[:4]
    assert counts.min() > 0.8 * counts.mean()


def test_the_rounds_are_drawn_from_all_halves_with_one_row_of_each_item() -> None:
    """The mean over many rounds is that over every half of the items and every choice of a row of each."""
    rows_of = [[0], [1, 2, 3], [4, 5], [6], [7, 8], [9, 10, 11]]
    first = [f"q{item}" for item, rows in enumerate(rows_of) for _ in rows]
    draw = np.random.default_rng(1)
    human, model = draw.integers(0, 6, 12).astype(float), draw.normal(size=12)
    human += np.arange(12) * 1e-3  # no half is constant, so that every rho is defined
    halves = []
    for half in combinations(range(6), 3):
        choices = [list(rows) for rows in product(*(rows_of[item] for item in half))]
        halves.append(np.mean([spearmanr(model[rows], human[rows]).statistic for rows in choices]))
    found = correlate(model, human, bootstrap_picks(first, 5_000, seed=0), queries=6)
    assert found.mean == pytest.approx(float(np.mean(halves)), abs=4 * found.std / 5_000**0.5)
    assert found.std > 0.3  # so the bound above is no wide one


def test_the_mean_agrees_with_the_truth_and_constant_models_are_undefined() -> None:
    draw = np.random.default_rng(0)
    first = [str(k // 2) for k in range(2000)]
    human = draw.normal(size=2000)
    model = human + draw.normal(size=2000)
    picks = bootstrap_picks(first, 50, seed=0)
    found = correlate(model, human, picks, queries=1000)
    assert found.mean == pytest.approx(found.all_rows, abs=0.02)
    assert found.is_defined
    assert found.to_json()["rounds"] == 50
    constant = correlate(np.zeros(2000), human, picks, queries=1000)
    assert not constant.is_defined
    assert constant.to_json()["rho"] is None


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ScoreError, match="3 different items"):
        bootstrap_picks(["a", "b", "c"], 10, seed=0)
