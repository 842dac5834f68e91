"""Ranks of single queries: folds, the best right and wrong answers, and the file of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import noisy_scores, queries_in

from patchword.errors import ScoreError
from patchword.evaluate.folds import recall_by_fold
from patchword.evaluate.queries import METRICS, check_same_queries, contrasts, write_queries
from patchword.evaluate.ranks import rank_scores
from patchword.evaluate.recall import recall_report

OWNER = np.repeat(np.arange(12), 2)
SCORES = noisy_scores(OWNER, 12, strength=0.7)


@pytest.mark.parametrize("folds", [1, 3])
def test_metrics_are_those_of_the_table(folds: int) -> None:
    queries = queries_in(SCORES, OWNER, folds=folds)
    table = recall_by_fold(SCORES, OWNER, folds).mean.pessimistic
    expected = [*table.i2t.numbers[:3], *table.t2i.numbers[:3], table.rsum]
    np.testing.assert_allclose(queries.metrics(), expected, rtol=1e-12)
    assert len(METRICS) == 7
    assert np.unique(queries.fold).tolist() == list(range(folds))


def test_without_folds_they_are_the_ranks_of_the_whole() -> None:
    queries, ranks = queries_in(SCORES, OWNER), rank_scores(SCORES, OWNER)
    np.testing.assert_array_equal(queries.i2t.pessimistic, ranks.i2t.pessimistic)
    np.testing.assert_array_equal(queries.t2i.pessimistic, ranks.t2i.pessimistic)
    assert queries.metrics()[-1] == pytest.approx(recall_report(ranks).pessimistic.rsum)


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
@pytest.mark.parametrize("folds", [1, 3])
def test_the_best_right_and_wrong_answers(folds: int, chunk: int) -> None:
    queries = queries_in(SCORES, OWNER, folds=folds)
    i2t, t2i = contrasts(SCORES, queries, chunk_cells=chunk)
    size = 12 // folds
    for image in range(12):
        inside = OWNER // size == image // size
        wrong = np.where(inside & (image != OWNER), SCORES[image], -np.inf)
        assert int(i2t.wrong[image]) == int(wrong.argmax())
        assert OWNER[i2t.right[image]] == image
    for caption in range(24):
        image = OWNER[caption]
        rows = np.arange(12)
        wrong = np.where((rows // size == image // size) & (rows != image), SCORES[:, caption], -np.inf)
        assert int(t2i.wrong[caption]) == int(wrong.argmax())
        assert t2i.right_score[caption] == SCORES[image, caption]


def test_the_file_has_a_line_for_every_query(tmp_path: Path) -> None:
    queries = queries_in(SCORES, OWNER)
    ids, captions = [f"im{k}" for k in range(12)], [f"größe {k}" for k in range(24)]
    path = write_queries(tmp_path / "sub" / "q.jsonl", SCORES, queries, image_ids=ids, captions=captions)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["direction"] for line in lines] == ["i2t"] * 12 + ["t2i"] * 24
    one = lines[12 + 5]
    assert (one["query"], one["image_id"], one["caption"]) == (5, "im2", "größe 5")
    assert one["rank"] == int(queries.t2i.pessimistic[5]) + 1
    assert one["best_right"] == {"index": 2, "score": float(SCORES[2, 5]), "image_id": "im2"}
    assert (one["best_wrong"]["score"] > one["best_right"]["score"]) == (one["rank"] > 1)
    with pytest.raises(ScoreError, match=r"ends in \.jsonl"):
        write_queries(tmp_path / "q.json", SCORES, queries)


def test_ranks_alone_have_no_answers(tmp_path: Path) -> None:
    queries = queries_in(SCORES, OWNER, folds=3)
    ids, captions = [f"im{k}" for k in range(12)], [f"caption {k}" for k in range(24)]
    kept, alone = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (
            write_queries(tmp_path / "a.jsonl", SCORES, queries, image_ids=ids, captions=captions),
            write_queries(tmp_path / "b.jsonl", None, queries, image_ids=ids, captions=captions),
        )
    )
    assert alone == [{key: line[key] for key in line if not key.startswith("best_")} for line in kept]
    assert any("best_wrong" in line for line in kept)


def test_one_image_alone_has_no_wrong_answer(tmp_path: Path) -> None:
    scores = np.array([[0.1, 0.2]])
    queries = queries_in(scores, np.array([0, 0]))
    lines = write_queries(tmp_path / "q.jsonl", scores, queries).read_text(encoding="utf-8").splitlines()
    assert all("best_wrong" not in json.loads(line) for line in lines)


def test_other_rows_are_not_compared() -> None:
    first = queries_in(SCORES, OWNER)
    with pytest.raises(ScoreError, match="'b' has 6 images and 12 captions in other places than 'a'"):
        check_same_queries([first, queries_in(SCORES[:6, :12], OWNER[:12])], ["a", "b"])
    with pytest.raises(ScoreError, match="Expected the same split and folds"):
        check_same_queries([first, queries_in(SCORES, OWNER, folds=3)], ["a", "b"])
