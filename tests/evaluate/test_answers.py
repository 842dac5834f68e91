"""Lists of right answers: against a plain sort, with ties, queries without an answer, and a set against itself."""

import numpy as np
import pytest
import torch

from patchword.errors import ScoreError
from patchword.evaluate.answers import Answers, columns_of, rank_answers, rows_of


def lists_of(relevance: np.ndarray) -> Answers:
    """Answers from a relevance matrix, rows as queries."""
    queries, candidates = np.nonzero(relevance)
    return Answers.from_pairs(queries, candidates, *relevance.shape)


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    """Scores without ties, negative ones among them; some queries have no right answer."""
    draw = np.random.default_rng(3)
    relevance = draw.random((30, 40)) < 0.1
    relevance[[2, 7]] = False
    return draw.permutation(1200).reshape(30, 40) / 600 - 1.0, relevance


def by_sorting(row: np.ndarray, right: np.ndarray, listed: int) -> tuple[int, float, float]:
    """Rank of the best right answer, mAP@R and R-precision."""
    hits = right[np.argsort(-row)]
    first = hits[:listed]
    precision = np.cumsum(first) / np.arange(1, len(first) + 1)
    return int(np.argmax(hits)), float((precision * first).sum() / listed), float(first.sum() / listed)


@pytest.mark.parametrize("chunk", [1, 77, 10**6])
def test_both_directions_equal_a_plain_sort(case: tuple[np.ndarray, np.ndarray], chunk: int) -> None:
    scores, relevance = case
    for s, r, blocks in (
        (scores, relevance, rows_of(scores, chunk_cells=chunk)),
        (scores.T, relevance.T, columns_of(scores, chunk_cells=chunk)),
        (scores.T, relevance.T, columns_of(torch.from_numpy(scores), chunk_cells=chunk)),
    ):
        found = rank_answers(blocks, lists_of(r), precision=True)
        asked = np.flatnonzero(r.any(1))
        expected = [by_sorting(s[q], r[q], int(r[q].sum())) for q in asked]
        assert found.asked.tolist() == asked.tolist()
        assert found.ranks.pessimistic.tolist() == [e[0] for e in expected]
        assert found.map_at_r is not None
        assert found.r_precision is not None
        np.testing.assert_allclose(found.map_at_r, [e[1] for e in expected], rtol=1e-12)
        np.testing.assert_allclose(found.r_precision, [e[2] for e in expected], rtol=1e-12)


def test_answers_outside_the_gallery_stay_in_r(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = case
    beyond = np.arange(30) % 3
    queries, candidates = np.nonzero(relevance)
    answers = Answers.from_pairs(queries, candidates, 30, 40, beyond)
    found = rank_answers(rows_of(scores), answers, precision=True)
    expected = [by_sorting(scores[q], relevance[q], int(relevance[q].sum() + beyond[q])) for q in found.asked]
    assert found.map_at_r is not None
    np.testing.assert_allclose(found.map_at_r, [e[1] for e in expected], rtol=1e-12)


def test_queries_without_an_answer_are_left_out_or_missed(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = case
    found = rank_answers(rows_of(scores), lists_of(relevance))
    asked = len(found.asked)
    assert {2, 7}.isdisjoint(found.asked.tolist())
    assert asked < 30
    assert found.recall(1, misses=30 - asked) == pytest.approx(found.recall(1) * asked / 30)
    assert found.to_json(misses=30 - asked)["queries"] == 30


def test_a_query_is_no_candidate_for_itself_even_when_all_others_are_negative() -> None:
    scores = np.full((4, 4), -0.5)
    np.fill_diagonal(scores, 1.0)
    scores[0, 1] = -0.1
    scores[2, 3] = -0.9
    pairs = np.array([0, 2, 2]), np.array([1, 3, 2])  # the last one is the query itself and does not count
    answers = Answers.from_pairs(*pairs, 4, 4)
    found = rank_answers(rows_of(scores), answers, is_same_set=True, precision=True)
    assert found.asked.tolist() == [0, 2]
    assert found.ranks.pessimistic.tolist() == [0, 2]
    assert found.map_at_r is not None
    assert found.map_at_r.tolist() == [1.0, 0.0]
    # Overwriting the diagonal by 0, as the reference does, would put the query first here.
    zeroed = scores.copy()
    np.fill_diagonal(zeroed, 0.0)
    assert rank_answers(rows_of(zeroed), answers).ranks.pessimistic.tolist() != found.ranks.pessimistic.tolist()


def test_constant_scores_get_nothing_and_the_ties_are_counted() -> None:
    answers = Answers.from_ids({"a": ["x"], "b": ["y", "z"]}, ["a", "b"], ["x", "y", "z", "w"])
    found = rank_answers(rows_of(np.zeros((2, 4))), answers, precision=True)
    assert [found.recall(1), found.recall(1, ties="optimistic")] == [0.0, 100.0]
    assert found.ranks.tied == 2
    assert found.r_precision is not None
    assert found.r_precision.tolist() == [0.0, 0.0]


def test_reversed_and_joined_lists() -> None:
    a = Answers.from_ids({"q": ["x", "x", "y"]}, ["q", "r"], ["x", "y"])
    assert a.counts.tolist() == [2, 0]
    assert a.reversed().queries.tolist() == [0, 1]
    b = Answers.from_ids({"r": ["y", "gone"]}, ["q", "r"], ["x", "y"])
    assert a.joined(b).listed.tolist() == [2, 2]


def test_what_can_not_be_ranked_is_refused() -> None:
    answers = Answers.from_ids({"a": ["x"]}, ["a", "b"], ["x", "y"])
    bad = np.array([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(ScoreError, match=r"my scores: 1 of 4 scores of a block .* row 1, column 0: nan"):
        rank_answers(rows_of(bad), answers, what="my scores")
    with pytest.raises(ScoreError, match="none of the 2 queries has a right answer"):
        rank_answers(rows_of(np.zeros((2, 2))), Answers.from_ids({"z": ["x"]}, ["a", "b"], ["x", "y"]))
    with pytest.raises(ScoreError, match="1 rows of scores for 2 queries"):
        rank_answers(rows_of(np.zeros((1, 2))), answers)
    with pytest.raises(ScoreError, match=r"a block of \(2, 3\) at row 0"):
        rank_answers(rows_of(np.zeros((2, 3))), answers)
