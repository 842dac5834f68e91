"""Intervals and paired tests: against exact enumeration, and on runs that do and do not differ."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from evaluate_toys import noisy_scores, queries_in
from scipy.stats import bootstrap

from patchword.errors import ScoreError
from patchword.evaluate.compare import holm
from patchword.evaluate.queries import METRICS, Queries
from patchword.evaluate.significance import bootstrap_intervals, mean_intervals, paired_test, resampled
from patchword.scoring.query_ranks import QueryRanks

OWNER = np.repeat(np.arange(60), 5)


def run(strength: float, seed: int, owner: np.ndarray = OWNER, folds: int = 1) -> Queries:
    return queries_in(noisy_scores(owner, int(owner.max()) + 1, strength=strength, seed=seed), owner, folds=folds)


def test_an_image_is_drawn_with_all_its_captions() -> None:
    queries = run(0.6, 0, np.repeat(np.arange(4), [1, 2, 3, 6]))
    hits, counts = queries.hits(), queries.captions_per_image
    drawn = np.concatenate(list(resampled([queries], 3, seed=7)), axis=1)[0]
    draw = np.random.default_rng(7)
    for chosen, found in zip(draw.integers(0, 4, (3, 4)), drawn, strict=True):
        i2t = 100 * hits[chosen, :3].mean(0)
        t2i = 100 * hits[chosen, 3:].sum(0) / counts[chosen].sum()
        np.testing.assert_allclose(found, [*i2t, *t2i, i2t.sum() + t2i.sum()], rtol=1e-12)


def test_folds_are_drawn_apart() -> None:
    queries = run(0.6, 0, folds=4)
    drawn = np.concatenate(list(resampled([queries], 300, seed=0)), axis=1)[0]
    assert drawn.mean(0) == pytest.approx(queries.metrics(), abs=1.0)


def test_the_interval_holds_the_number_and_grows_with_the_level() -> None:
    queries = run(0.6, 1)
    wide, narrow = (bootstrap_intervals(queries, level=level) for level in (0.99, 0.5))
    for k, name in enumerate(METRICS):
        low, high = wide.of(name)
        assert low <= queries.metrics()[k] <= high
        assert low <= narrow.of(name)[0] <= narrow.of(name)[1] <= high
    assert bootstrap_intervals(queries).to_json() == bootstrap_intervals(queries).to_json()
    assert bootstrap_intervals(queries, seed=1).to_json() != bootstrap_intervals(queries).to_json()


def test_the_interval_has_the_width_of_the_binomial_where_captions_are_independent() -> None:
    owner = np.arange(400)
    queries = run(0.5, 2, owner)
    p = queries.metrics()[0] / 100
    low, high = bootstrap_intervals(queries, rounds=2000).of("i2t_r1")
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(p * (1 - p) / 400), rel=0.15)


def test_captions_that_move_together_widen_the_interval() -> None:
    """Five copies of one caption are no five queries: a bootstrap over captions would halve the interval."""
    owner, base = np.repeat(np.arange(100), 5), noisy_scores(np.arange(100), 100, strength=0.5)
    copies = queries_in(np.repeat(base, 5, axis=1), owner)
    single = queries_in(base, np.arange(100))
    low, high = bootstrap_intervals(copies).of("t2i_r1")
    a, b = bootstrap_intervals(single).of("t2i_r1")
    assert high - low == pytest.approx(b - a, rel=0.2)


def test_the_permutation_test_equals_all_swaps() -> None:
    owner = np.repeat(np.arange(8), 2)
    a, b = run(0.5, 3, owner), run(0.8, 4, owner)
    gaps = (a.hits() - b.hits()) / ([8] * 3 + [16] * 3)
    gaps = np.concatenate([gaps, gaps.sum(1, keepdims=True)], axis=1)
    swaps = np.array([np.abs(np.array(signs) @ gaps) for signs in product([-1, 1], repeat=8)])
    exact = (swaps >= np.abs(gaps.sum(0)) - 1e-12).mean(0)
    found = paired_test(a, b, swaps=20_000)
    np.testing.assert_allclose(found.p_permutation, exact, atol=0.02)


def exchanged(a: Queries, b: Queries, swap: np.ndarray) -> Queries:
    """Run A, with B's results for some images and all their captions."""
    sides = []
    for way, mask in (("i2t", swap), ("t2i", swap[a.owner])):
        one, other = getattr(a, way), getattr(b, way)
        parts = ("greater", "equal", "positives")
        sides.append(QueryRanks(*(np.where(mask, getattr(other, part), getattr(one, part)) for part in parts)))
    return replace(a, i2t=sides[0], t2i=sides[1])


def test_the_permutation_test_is_that_of_whole_evaluations_with_results_exchanged() -> None:
    """Folds of unequal numbers of captions: every exchange evaluated anew, without any shortcut."""
    owner = np.repeat(np.arange(8), [1, 2, 3, 1, 4, 1, 2, 2])
    a, b = run(0.5, 13, owner, folds=2), run(0.9, 14, owner, folds=2)
    found = np.abs(b.metrics() - a.metrics())
    as_large = np.zeros(7)
    for swap in product([False, True], repeat=8):
        gap = exchanged(a, b, np.array(swap)).metrics() - exchanged(b, a, np.array(swap)).metrics()
        as_large += np.abs(gap) >= found - 1e-9
    tested = paired_test(a, b, swaps=20_000)
    np.testing.assert_allclose(tested.difference, b.metrics() - a.metrics())
    np.testing.assert_allclose(tested.p_permutation, as_large / 2**8, atol=0.015)
    assert (tested.p_permutation < 0.9).any()


def test_the_interval_is_that_of_scipy() -> None:
    owner = np.repeat(np.arange(50), [1, 4] * 25)
    queries = run(0.6, 15, owner)
    hits, counts = queries.hits(), queries.captions_per_image.astype(float)

    def t2i_r1(found: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(100 * found.sum(axis) / sizes.sum(axis))

    options = {"paired": True, "vectorized": True, "n_resamples": 20_000, "method": "percentile"}
    theirs = bootstrap((hits[:, 3], counts), t2i_r1, rng=np.random.default_rng(0), **options).confidence_interval
    ours = bootstrap_intervals(queries, rounds=20_000).of("t2i_r1")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.5)


def test_holm_is_closed_testing_with_bonferroni() -> None:
    """The largest of the Bonferroni p values over all sets of hypotheses that hold the one asked for."""
    draw = np.random.default_rng(0)
    for n in (1, 2, 5):
        p = draw.random(n) ** 3
        sets = [np.array(chosen) for k in range(1, n + 1) for chosen in combinations(range(n), k)]
        closed = [max(min(1.0, len(one) * p[one].min()) for one in sets if k in one) for k in range(n)]
        np.testing.assert_allclose(holm(p), closed)


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    worse, better, like = run(0.4, 5), run(0.9, 6), run(0.4, 7)
    clear = paired_test(worse, better)
    assert clear.difference[-1] > 0
    assert clear.low[-1] > 0
    assert clear.p_permutation[-1] < 0.001
    assert clear.p_bootstrap[-1] < 0.01
    none = paired_test(worse, like)
    assert none.low[-1] < 0 < none.high[-1]
    assert none.p_permutation[-1] > 0.05
    back = paired_test(better, worse)
    np.testing.assert_allclose(back.difference, -clear.difference)


def test_a_run_does_not_differ_from_itself() -> None:
    same = paired_test(run(0.5, 8), run(0.5, 8))
    assert same.difference.tolist() == [0.0] * 7
    assert same.p_permutation.tolist() == [1.0] * 7
    assert same.p_bootstrap.tolist() == [1.0] * 7
    content = same.to_json()
    assert content["rsum"]["interval"] == [0.0, 0.0]


def test_false_alarms_come_as_often_as_they_should() -> None:
    owner = np.arange(80)
    alarms = [paired_test(run(0.5, s, owner), run(0.5, 100 + s, owner), rounds=50, swaps=200) for s in range(60)]
    share = np.mean([test.p_permutation[-1] < 0.05 for test in alarms])
    assert share <= 0.15


def test_other_queries_are_refused() -> None:
    with pytest.raises(ScoreError, match="in other places"):
        paired_test(run(0.5, 1), run(0.5, 1, np.repeat(np.arange(30), 5)))


def test_intervals_of_means_are_those_of_the_same_draws() -> None:
    """The numbers of a plain evaluation, by the function for protocols with numbers of their own."""
    owner = np.repeat(np.arange(40), [1, 4] * 20)
    queries = run(0.6, 16, owner)
    whole = bootstrap_intervals(queries)
    hits = {way: 100.0 * (getattr(queries, way).pessimistic < 1) for way in ("i2t", "t2i")}
    i2t = mean_intervals({"r1": hits["i2t"]}, np.arange(40))
    t2i = mean_intervals({"r1": hits["t2i"], "half": hits["t2i"] / 2}, owner)
    assert i2t.to_json()["r1"] == pytest.approx(whole.of("i2t_r1"))
    assert t2i.to_json()["r1"] == pytest.approx(whole.of("t2i_r1"))
    assert t2i.to_json()["half"] == pytest.approx(np.array(whole.of("t2i_r1")) / 2)
    assert t2i.to_json()["unit"] == whole.to_json()["unit"]


def test_images_without_a_query_are_not_drawn() -> None:
    values = np.array([100.0, 0.0, 100.0])
    few, all_of_them = (mean_intervals({"r1": values}, images) for images in (np.array([7, 90, 5]), np.arange(3)))
    assert few.low["r1"] == all_of_them.low["r1"] == 0.0
    assert mean_intervals({"r1": values}, np.zeros(3, dtype=int)).shown("r1") == "66.7 to 66.7"
    assert few.shown("map_at_r") == "-"


def test_numbers_of_some_queries_and_their_mean() -> None:
    """NaN is no query of a number; the mean of two numbers is that of the same resamples."""
    images, a, b = np.arange(60) // 2, np.tile([0.0, 100.0, 100.0, 100.0], 15), np.tile([100.0, 0.0], 30)
    here = np.arange(60) < 40
    parts = {"a": np.where(here, a, np.nan), "b": np.where(here, np.nan, b)}
    found = mean_intervals(parts, images, means={"mean": ["a", "b"]})
    assert found.low["a"] < 75.0 < found.high["a"]
    assert found.shown("b") == "50.0 to 50.0"  # every image has one hit of two
    assert found.low["mean"] == pytest.approx((found.low["a"] + 50.0) / 2)
    assert found.some("me", ("an", "at")).low == {"an": found.low["mean"]}
    one = mean_intervals({"all": a, "one": np.where(images == 0, a, np.nan)}, images)
    assert one.shown("one") == "50.0 to 50.0"  # most rounds lack the image
