"""General relevance against two published libraries and a plain loop."""

import importlib
import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from patchword.errors import ScoreError
from patchword.evaluate.answers import Answers, rank_answers, rows_of
from patchword.evaluate.relevance import relevance_report


@pytest.fixture(scope="module")
def ranx() -> Any:
    """The library; like the next one it takes seconds to import, so it is not imported where no test asks for it."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # it would compile for half a minute what takes milliseconds here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both import other packages that warn about themselves
        return importlib.import_module("ranx")


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    """The functions of the library for retrieval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchmetrics.functional.retrieval")


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    relevance = rng.random((25, 60)) < 0.12
    relevance[np.arange(60) % 25, np.arange(60)] = True
    scores = rng.permutation(25 * 60).reshape(25, 60) / 1500 + 0.3001 * relevance  # no two alike
    return scores, relevance


def by_loop(row: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """mAP@R and R-precision of one query from a plain sort."""
    order, total = np.argsort(-row), int(right.sum())
    hits = right[order][:total]
    precision = [hits[: k + 1].mean() for k in range(total)]
    return float(np.dot(precision, hits) / total), float(hits.mean())


def test_equals_a_plain_loop(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = case
    report = relevance_report(scores, relevance)
    for found, s, r in ((report.i2t, scores, relevance), (report.t2i, scores.T, relevance.T)):
        expected = np.mean([by_loop(row, right) for row, right in zip(s, r, strict=True)], axis=0)
        np.testing.assert_allclose([found.map_at_r, found.r_precision], expected, rtol=1e-12)


def test_equals_torchmetrics(case: tuple[np.ndarray, np.ndarray], torchmetrics: Any) -> None:
    scores, relevance = case
    report = relevance_report(scores, relevance)
    for found, s, r in ((report.i2t, scores, relevance), (report.t2i, scores.T, relevance.T)):
        rows = [(torch.tensor(row), torch.tensor(right)) for row, right in zip(s, r, strict=True)]
        for k in (1, 5, 10):
            hits = [float(torchmetrics.retrieval_hit_rate(row, right, top_k=k)) for row, right in rows]
            assert found.hit[k] == pytest.approx(np.mean(hits))
        assert found.r_precision == pytest.approx(
            np.mean([float(torchmetrics.retrieval_r_precision(*row)) for row in rows])
        )


@pytest.mark.filterwarnings("ignore:unsafe cast from uint64 to int64")  # inside ranx
def test_equals_ranx(case: tuple[np.ndarray, np.ndarray], ranx: Any) -> None:
    scores, relevance = case
    report = relevance_report(scores, relevance)
    qrels = {f"q{i}": {f"d{j}": 1 for j in np.flatnonzero(right)} for i, right in enumerate(relevance)}
    run = {f"q{i}": {f"d{j}": float(x) for j, x in enumerate(row)} for i, row in enumerate(scores)}
    found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), ["hit_rate@1", "hit_rate@5", "r-precision"])
    assert found["hit_rate@1"] == pytest.approx(report.i2t.hit[1])
    assert found["hit_rate@5"] == pytest.approx(report.i2t.hit[5])
    assert found["r-precision"] == pytest.approx(report.i2t.r_precision)
    # ranx cuts average precision at one depth for all queries, so mAP@R is asked for one query at a time.
    one_by_one = [
        ranx.evaluate(ranx.Qrels({q: docs}), ranx.Run({q: run[q]}), f"map@{len(docs)}") for q, docs in qrels.items()
    ]
    assert report.i2t.map_at_r == pytest.approx(np.mean(one_by_one))


def random_qrels(seed: int) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Scores without ties and lists of right answers; some queries have none, some answers are in no gallery."""
    rng = np.random.default_rng(seed)
    lists = {f"q{i}": [f"d{j}" for j in rng.choice(45, rng.integers(0, 6), replace=False)] for i in range(30)}
    return rng.permutation(30 * 40).reshape(30, 40) / 1200, lists


@pytest.mark.filterwarnings("ignore:unsafe cast from uint64 to int64")  # inside ranx
def test_lists_of_right_answers_equal_ranx_and_torchmetrics(ranx: Any, torchmetrics: Any) -> None:
    scores, lists = random_qrels(5)
    queries, docs = [f"q{i}" for i in range(30)], [f"d{j}" for j in range(40)]
    answers = Answers.from_ids(lists, queries, docs)
    assert 0 < len(np.flatnonzero(answers.counts)) < 30
    assert answers.unreachable.sum() > 0
    found = rank_answers(rows_of(scores), answers, precision=True)
    asked = [queries[k] for k in found.asked]
    qrels = ranx.Qrels({q: dict.fromkeys(lists[q], 1) for q in asked})
    run = ranx.Run({q: dict(zip(docs, scores[int(q[1:])].tolist(), strict=True)) for q in asked})
    theirs = ranx.evaluate(qrels, run, ["hit_rate@1", "hit_rate@5", "r-precision"])
    assert found.recall(1) == pytest.approx(100 * theirs["hit_rate@1"])
    assert found.recall(5) == pytest.approx(100 * theirs["hit_rate@5"])
    assert found.r_precision is not None
    assert found.r_precision.mean() == pytest.approx(theirs["r-precision"])
    for k in (1, 5, 10):
        right = [torch.tensor([doc in lists[q] for doc in docs]) for q in asked]
        rows = [torch.tensor(scores[int(q[1:])]) for q in asked]
        hits = [float(torchmetrics.retrieval_hit_rate(row, one, top_k=k)) for row, one in zip(rows, right, strict=True)]
        assert found.recall(k) == pytest.approx(100 * np.mean(hits))


def test_one_right_answer_makes_all_three_agree() -> None:
    scores = np.random.default_rng(12).random((20, 20))
    report = relevance_report(scores, np.arange(20))
    assert report.i2t.hit[1] == report.i2t.map_at_r == report.i2t.r_precision


def test_chunks_and_torch_change_nothing(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = case
    whole = relevance_report(scores, relevance)
    assert relevance_report(scores, relevance, chunk_cells=1) == whole
    assert relevance_report(torch.as_tensor(scores), relevance, chunk_cells=77) == whole


def test_ties_bound_each_other() -> None:
    constant, relevance = np.ones((4, 8)), np.repeat(np.eye(4, dtype=bool), 2, axis=1)
    worst = relevance_report(constant, relevance)
    best = relevance_report(constant, relevance, ties="optimistic")
    assert (worst.i2t.map_at_r, worst.i2t.hit[1], worst.i2t.tied) == (0.0, 0.0, 4)
    assert (best.i2t.map_at_r, best.i2t.r_precision, best.t2i.hit[1]) == (1.0, 1.0, 1.0)


def test_refuses_what_can_not_be_ranked() -> None:
    scores, relevance = np.zeros((2, 2)), np.eye(2, dtype=bool)
    scores[0, 1] = np.nan
    with pytest.raises(ScoreError, match="not finite"):
        relevance_report(scores, relevance)
    with pytest.raises(ScoreError, match="1 of 2 images have no right answer"):
        relevance_report(np.zeros((2, 2)), np.array([[True, True], [False, False]]))
