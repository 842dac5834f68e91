"""PMRP against a plain computation, and images without any object."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_toys import noisy_scores

from patchword.errors import DataError, ScoreError
from patchword.evaluate.pmrp import (
    Instances,
    evaluate_pmrp,
    find_instances,
    kind_distances,
    read_instances,
    require_instances,
)

KINDS = {"1": {1, 2}, "2": {1, 2}, "3": {1}, "4": {1, 2, 3, 4, 5}, "5": {9}}
IDS = ["1", "2", "3", "4", "5", "6"]  # 6 holds nothing
OWNER = np.repeat(np.arange(6), 2)


@pytest.fixture
def instances() -> Instances:
    return Instances({name: frozenset(kinds) for name, kinds in KINDS.items()}, {n: len(k) for n, k in KINDS.items()})


def brute(row: np.ndarray, query: str, pool: list[str], zeta: int) -> float:
    right = np.array([name in KINDS and len(KINDS[query] ^ KINDS[name]) <= zeta for name in pool])
    first = np.argsort(-row)[: right.sum()]
    return float(right[first].mean())


def test_equals_a_plain_computation(instances: Instances) -> None:
    scores = noisy_scores(OWNER, 6, strength=0.5)
    found = evaluate_pmrp(scores, OWNER, IDS, instances)
    captions = [IDS[k] for k in OWNER]
    for zeta in (0, 1, 2):
        i2t = [brute(row, name, captions, zeta) for row, name in zip(scores, IDS, strict=True) if name in KINDS]
        t2i = [brute(row, name, IDS, zeta) for row, name in zip(scores.T, captions, strict=True) if name in KINDS]
        assert found.r_precision[zeta]["i2t"] == pytest.approx(np.mean(i2t))
        assert found.r_precision[zeta]["t2i"] == pytest.approx(np.mean(t2i))
    assert found.queries == {"i2t": 5, "t2i": 10}
    assert found.without == ("6",)
    report = found.report()
    for way in ("i2t", "t2i"):
        for name, row in {**{str(zeta): found.r_precision[zeta] for zeta in (0, 1, 2)}, "mean": found.mean}.items():
            low, high = report.numbers["intervals"][way][name]
            assert low < row[way] < high
            assert f"{100 * low:.1f} to {100 * high:.1f}" in report.table()
    assert report.name == "pmrp (partial)"
    assert "1 images without any annotated object ('6')" in report.table()
    json.dumps(report.to_json(), allow_nan=False)


def test_ties_at_the_border_are_bounded(instances: Instances) -> None:
    worst = evaluate_pmrp(np.zeros((6, 12)), OWNER, IDS, instances, zetas=[0])
    best = evaluate_pmrp(np.zeros((6, 12)), OWNER, IDS, instances, zetas=[0], ties="optimistic")
    assert worst.mean["i2t"] == 0.0
    assert best.mean["i2t"] == 1.0


def test_distances() -> None:
    distance = kind_distances(IDS, {name: frozenset(kinds) for name, kinds in KINDS.items()})
    assert distance[0].tolist() == [0, 0, 1, 3, 3, -1]
    assert (distance == distance.T).all()


def test_instances_are_read_and_found(tmp_path: Path, instances: Instances) -> None:
    rows = [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 1}, {"image_id": 8, "category_id": 90}]
    path = tmp_path / "annotations" / "instances_val2014.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"annotations": rows}), encoding="utf-8")
    assert find_instances(tmp_path) == path
    assert find_instances(None) is None
    found = read_instances(path)
    assert found.kinds == {"7": frozenset({1}), "8": frozenset({90})}
    assert found.counts == {"7": 2, "8": 1}
    listed = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 9}]
    path.write_text(json.dumps({"images": listed, "annotations": rows}), encoding="utf-8")
    assert read_instances(path).counts == {"7": 2, "8": 1, "9": 0}
    assert require_instances(path) == require_instances(tmp_path) == path
    with pytest.raises(DataError, match=r"has no 'instances_val2014\.json'"):
        require_instances(tmp_path / "elsewhere")
    path.write_text(json.dumps({"annotations": [{"image_id": 7, "category_id": "cat"}]}), encoding="utf-8")
    with pytest.raises(DataError, match="annotation 0: category_id is 'cat'"):
        read_instances(path)
    with pytest.raises(ScoreError, match="None of the 2 images has an annotated object"):
        evaluate_pmrp(np.eye(2), np.arange(2), ["a", "b"], instances)
    with pytest.raises(ScoreError, match="not finite"):
        evaluate_pmrp(np.full((6, 12), np.inf), OWNER, IDS, instances)
