"""Golden cases of the evaluation pass, and one changed value makes them fail."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from patchword.errors import DataError
from patchword.evaluate.eccv import EccvAnnotations, evaluate_eccv
from patchword.evaluate.gallery import Gallery
from patchword.evaluate.spearman import bootstrap_picks
from patchword.parity import evaluation_lists
from patchword.parity.cases import Case, Ledger, leaves, read_case
from patchword.parity.evaluation import compare, compare_protocol

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parent.parent / "golden"
EVALUATION = sorted((GOLDEN / "evaluation").glob("case[1-8]*.json"))
INPUTS = ("sims", "relevance", "caption_owner", "image_embeddings", "caption_embeddings", "model", "human", "picks")
PROTOCOL = GOLDEN / "vse_infinity" / "case4.json"


def ledger_of(case: Case) -> Ledger:
    """Compare a case by the function for its method."""
    return compare_protocol(case) if case.fields["method"] == "vse_infinity" else compare(case)


def with_leaf(fields: dict[str, Any], path: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of the fields with one leaf changed."""
    changed = copy.deepcopy(fields)
    *parents, last = path.split(".")
    inner: Any = changed
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    key = int(last) if isinstance(inner, list) else last
    inner[key] = change(inner[key])
    return changed


def nudge(value: Any) -> Any:
    """The value, or the last number of a list, moved by 1e-3."""
    if isinstance(value, list):
        return [*value[:-1], nudge(value[-1])]
    return value + 1e-3 if isinstance(value, int | float) else f"{value}1"


def test_all_cases_are_here() -> None:
    assert len(EVALUATION) == 7


@pytest.mark.parametrize("path", [*EVALUATION, PROTOCOL], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_case_passes_and_nothing_is_left_over(path: Path) -> None:
    ledger = ledger_of(read_case(path))
    assert [row for row in ledger.rows if not row.passed] == []
    assert ledger.passed
    assert ledger.not_compared == []


@pytest.mark.parametrize("path", [*EVALUATION, PROTOCOL], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_number_of_a_golden_case_counts(path: Path) -> None:
    """One number of every row is changed at a time, and each of these rows must miss it."""
    case = read_case(path)
    numbers: dict[str, list[str]] = {row.name: [] for row in ledger_of(case).rows}
    for name, _ in leaves(case.fields):
        row = next((row for row in numbers if name == row or name.startswith(f"{row}.")), None)
        if row is not None and not name.endswith(".must"):  # a demand in words
            numbers[row].append(name)
    assert sum(map(len, numbers.values())) > 1
    for chosen in zip_longest(*numbers.values()):
        fields = case.fields
        for name in filter(None, chosen):
            fields = with_leaf(fields, name, nudge)
        passed = {row.name: row.passed for row in ledger_of(replace(case, fields=fields)).rows}
        unnoticed = [name for row, name in zip(numbers, chosen, strict=True) if name and passed[row]]
        assert not unnoticed


@pytest.mark.parametrize("path", [*EVALUATION, PROTOCOL], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_expected_tensor_of_a_golden_case_counts(path: Path) -> None:
    case = read_case(path)
    for name, tensor in case.tensors.items():
        if name in INPUTS or (name.startswith("sims_") and name != "sims_mean"):
            continue  # inputs: what follows from them is what is compared
        for cell in (0, -1):
            changed = tensor.double().clone()
            changed.view(-1)[cell] += 1e-3
            assert not ledger_of(replace(case, tensors={**case.tensors, name: changed})).passed, name


@pytest.mark.parametrize(("name", "left_over"), [("sims_0", "case4_ensemble"), ("sims_1", "case4_ensemble")])
def test_members_of_an_ensemble_are_compared_through_their_mean(name: str, left_over: str) -> None:
    case = read_case(GOLDEN / "evaluation" / f"{left_over}.json")
    changed = case.tensors[name].clone()
    changed[0, 0] += 1e-3
    assert not compare(replace(case, tensors={**case.tensors, name: changed})).passed


def test_wrong_input_scores_are_noticed() -> None:
    for path in EVALUATION:
        case = read_case(path)
        wrong = {name: tensor.flip(1) for name, tensor in case.tensors.items() if name.startswith("sims")}
        sims = wrong or {name: t.flip(0) for name, t in case.tensors.items() if name in ("image_embeddings", "model")}
        assert not compare(replace(case, tensors={**case.tensors, **sims})).passed


def test_a_matrix_that_must_raise_but_is_fine_fails() -> None:
    case = read_case(GOLDEN / "evaluation" / "case3_ties.json")
    healed = {**case.tensors, "sims_nan_all": torch.rand(24, 120, dtype=torch.float64)}
    rows = {row.name: row.passed for row in compare(replace(case, tensors=healed)).rows}
    assert rows["expected.nan_all.must"] is False
    assert rows["expected.nan_positives.must"] is True


def test_a_number_we_do_not_know_is_listed_as_not_compared() -> None:
    case = read_case(GOLDEN / "evaluation" / "case1_recall.json")
    ledger = compare(replace(case, fields=with_leaf(case.fields, "expected.i2t", lambda d: {**d, "r50": 100.0})))
    assert ledger.not_compared == ["expected.i2t.r50"]
    assert ledger.passed


def eccv_case(n: int, *, ties: bool) -> Case:
    """A sibling of the ECCV case over another gallery, whose ids are not known: what needs no ids is compared."""
    rng = np.random.default_rng(n)
    images = rng.integers(-9, 10, (n, 3)) if ties else rng.integers(-(10**6), 10**6, (n, 12))
    captions = np.repeat(images, 5, axis=0) + rng.integers(-3, 4, (5 * n, images.shape[1])) * (1 if ties else 10**5)
    scores = images.astype(np.float64) @ captions.astype(np.float64).T
    expected, owner = {}, np.arange(5 * n) // 5
    right = owner == np.arange(n)[:, None]
    for k in (1, 5, 10):
        by_way = {}
        for way, s, r in (("i2t", scores, right), ("t2i", scores.T, right.T)):
            best = np.where(r, s, -np.inf).max(1)
            ranks = (np.where(r, -np.inf, s) > best[:, None]).sum(1)  # ties won: the reference may have broken them so
            by_way[way] = float((ranks < k).mean())
        expected[f"coco_5k_r{k}"] = by_way
        expected[f"coco_1k_r{k}"] = dict(by_way)  # one fold holds everything here
        expected[f"eccv_r{k}"] = {"i2t": 0.5, "t2i": 0.5}
    adjacent = {
        way: sum(int((np.diff(np.sort(row)) == 0).sum()) for row in s)
        for way, s in (("i2t", scores), ("t2i", scores.T))
    }
    tensors = {"image_int": torch.as_tensor(images).int(), "caption_int": torch.as_tensor(captions).int()}
    fields = {"method": "evaluation", "kind": "eccv_coco5k", "ties_adjacent": adjacent, "expected": expected}
    return Case(Path("sibling.json"), fields, tensors)


@pytest.mark.parametrize("ties", [False, True])
def test_eccv_without_known_ids_compares_the_rest(ties: bool) -> None:
    case = eccv_case(40, ties=ties)
    ledger = compare(case)
    assert [row for row in ledger.rows if not row.passed] == []
    assert len(ledger.rows) == 14
    assert [name for name in ledger.not_compared if not name.startswith("expected.eccv_r")] == []
    assert all("25,000 caption ids for 200 captions" in name for name in ledger.not_compared)
    for name in ("expected.coco_5k_r1.i2t", "expected.coco_1k_r5.t2i", "ties_adjacent.i2t"):
        bad = replace(case, fields=with_leaf(case.fields, name, lambda value: value - 0.5))
        assert not compare(bad).passed, name


def test_eccv_numbers_need_the_real_gallery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    n = 40
    case = eccv_case(n, ties=False)
    images, captions = [str(k) for k in range(n)], [str(1000 + k) for k in range(5 * n)]
    i2t = {images[k]: captions[5 * k : 5 * k + 7] for k in range(0, n, 2)}
    t2i = {captions[k]: [images[k // 5], images[(k + 9) % n]] for k in range(0, 5 * n, 3)}
    image_of = {name: images[k // 5] for k, name in enumerate(captions)}
    annotations = EccvAnnotations(i2t, t2i, i2t, t2i, image_of, tmp_path)
    np.save(tmp_path / "coco_test_ids.npy", np.arange(1000, 1000 + 5 * n))
    monkeypatch.setattr(evaluation_lists, "read_eccv", lambda: annotations)
    scores = (case.tensors["image_int"].double() @ case.tensors["caption_int"].double().T).numpy()
    gallery = Gallery(tuple(images), tuple(captions), np.arange(5 * n) // 5)
    ranks = evaluate_eccv(scores, gallery, annotations).ranks["eccv"]
    expected = {f"{name}_r1": {way: one.recall(1) / 100 for way, one in ranks.items()} for name in ("eccv", "cxc")}
    for name, part in (("eccv_map_at_r", "map_at_r"), ("eccv_rprecision", "r_precision")):
        expected[name] = {way: float(getattr(one, part).mean()) for way, one in ranks.items()}
    case = replace(case, fields={**case.fields, "expected": expected})
    ledger = compare(case)
    assert ledger.passed
    assert ledger.not_compared == []
    for name, _ in leaves(expected, "expected"):
        assert not compare(replace(case, fields=with_leaf(case.fields, name, nudge))).passed, name


def test_correlation_with_rows_checks_the_picks() -> None:
    rng = np.random.default_rng(0)
    first = [f"q{k % 30}" for k in range(100)]
    model, human = rng.normal(size=100), rng.normal(size=100)
    picks = bootstrap_picks(first, 6, seed=3)
    rounds = [spearmanr(model[one], human[one]).statistic for one in picks]
    tensors = {name: torch.as_tensor(np.asarray(value)) for name, value in {
        "model": model, "human": human, "picks": picks, "bootstrap_rho": rounds}.items()}  # fmt: skip
    fields = {
        "method": "evaluation",
        "kind": "cxc_spearman",
        "task": "sis",
        "split": "val",
        "rows": [[name, f"o{k}", "x"] for k, name in enumerate(first)],
        "bootstraps": 6,
        "expected": {"bootstrap_mean": float(np.mean(rounds)), "bootstrap_std_ddof1": float(np.std(rounds, ddof=1))},
    }
    case = Case(Path("sibling.json"), fields, tensors)
    ledger = compare(case)
    assert [row for row in ledger.rows if not row.passed] == []
    assert ledger.not_compared == []
    doubled = tensors["picks"].clone()
    doubled[0, 0] = doubled[0, 1]
    assert "picks" in [
        row.name for row in compare(replace(case, tensors={**tensors, "picks": doubled})).rows if not row.passed
    ]
    for name in ("bootstraps", "expected.bootstrap_mean", "expected.bootstrap_std_ddof1"):
        assert not compare(replace(case, fields=with_leaf(fields, name, nudge))).passed, name


def test_a_case_that_lacks_something_says_what() -> None:
    with pytest.raises(DataError, match="unknown kind 'recal' of evaluation case"):
        compare(Case(Path("x.json"), {"method": "evaluation", "kind": "recal"}, {}))
    with pytest.raises(DataError, match="has no tensor `sims`"):
        compare(Case(Path("x.json"), {"method": "evaluation", "kind": "recall"}, {}))
    with pytest.raises(DataError, match="lacks the field 'folds'"):
        compare(Case(Path("x.json"), {"method": "evaluation", "kind": "fold", "images": 2}, {"sims": torch.eye(2)}))
    with pytest.raises(DataError, match=r"no tensor named sims_\*"):
        compare_protocol(Case(Path("x.json"), {"method": "vse_infinity"}, {}))
    fields = {"method": "vse_infinity", "metrics": {"b": {}}}
    with pytest.raises(DataError, match="metrics of `b` but no tensor `sims_b`"):
        compare_protocol(Case(Path("x.json"), fields, {"sims_a": torch.eye(2)}))


def by_sorting(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of both directions as the reference finds them: positions in a sorted row or column."""
    n, m = scores.shape
    i2t = [int(np.flatnonzero(np.argsort(row)[::-1] // (m // n) == i)[0]) for i, row in enumerate(scores)]
    t2i = [int(np.flatnonzero(np.argsort(scores[:, j])[::-1] == j // (m // n))[0]) for j in range(m)]
    return np.array(i2t), np.array(t2i)


def numbers_of(ranks: np.ndarray) -> list[float]:
    """R@1, R@5, R@10, medR, meanR."""
    recalls = [100.0 * float(np.mean(ranks < k)) for k in (1, 5, 10)]
    return [*recalls, float(np.floor(np.median(ranks)) + 1), float(ranks.mean() + 1)]


def protocol_case(n: int, folds: int, *, rounded: bool) -> Case:
    """A sibling of the golden protocol case: another size, three models, another number of folds, ties if rounded."""
    rng = np.random.default_rng(n)
    tensors, metrics = {}, {}
    for name in "abc":
        scores = rng.normal(size=(n, 5 * n)) + 2.0 * (np.arange(5 * n) // 5 == np.arange(n)[:, None])
        tensors[f"sims_{name}"] = torch.as_tensor(np.round(scores, 1) if rounded else scores)
    matrices = {name.removeprefix("sims_"): tensor.numpy() for name, tensor in tensors.items()}
    matrices["ensemble"] = np.mean(list(matrices.values()), axis=0)
    for name, scores in matrices.items():
        size = n // folds
        blocks = [scores[i * size : i * size + size, 5 * i * size : 5 * (i + 1) * size] for i in range(folds)]
        for key, parts in ((name, [scores]), (f"{name}_fold{folds}", blocks)):
            ranks = [by_sorting(part) for part in parts]
            i2t, t2i = (np.mean([numbers_of(pair[d]) for pair in ranks], axis=0).tolist() for d in (0, 1))
            metrics[key] = {"i2t": i2t, "t2i": t2i, "rsum": sum(i2t[:3]) + sum(t2i[:3])}
    for direction, ranks in zip(("i2t", "t2i"), by_sorting(matrices["b"]), strict=True):
        tensors[f"{direction}_ranks_b"] = torch.as_tensor(ranks, dtype=torch.float64)
    fields = {"method": "vse_infinity", "kind": "evaluation protocol", "metrics": metrics}
    return Case(Path("sibling.json"), fields, tensors)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("n", "folds"), [(20, 4), (33, 3), (48, 2)])
def test_siblings_of_other_sizes_with_and_without_ties(n: int, folds: int, rounded: bool) -> None:
    case = protocol_case(n, folds, rounded=rounded)
    ledger = compare_protocol(case)
    assert [row for row in ledger.rows if not row.passed] == []
    assert ledger.not_compared == []
    assert any("ties" in row.note for row in ledger.rows) == rounded
    for name, _ in leaves(case.fields["metrics"], "metrics"):
        changed = replace(case, fields=with_leaf(case.fields, name, nudge))
        assert not compare_protocol(changed).passed, f"{name} was changed and nobody noticed"


def test_a_sibling_with_three_members_and_three_folds() -> None:
    rng = np.random.default_rng(1)
    members = [
        rng.random((12, 36)).astype(np.float32) + np.repeat(np.eye(12, dtype=np.float32), 3, 1) / 3 for _ in "abc"
    ]
    mean = np.mean(members, axis=0)

    def table(scores: np.ndarray) -> dict[str, Any]:
        i2t, t2i = (numbers_of(ranks) for ranks in by_sorting(scores))
        names = ("r1", "r5", "r10", "medr", "meanr")
        means = {"i2t_mean_recall": np.mean(i2t[:3]), "t2i_mean_recall": np.mean(t2i[:3])}
        parts = {"i2t": dict(zip(names, i2t, strict=True)), "t2i": dict(zip(names, t2i, strict=True))}
        return {**parts, **means, "rsum": sum(i2t[:3]) + sum(t2i[:3])}

    def row(scores: np.ndarray) -> list[float]:
        i2t, t2i = (numbers_of(ranks) for ranks in by_sorting(scores))
        return [*i2t, *t2i, float(np.mean(i2t[:3])), float(np.mean(t2i[:3])), sum(i2t[:3]) + sum(t2i[:3])]

    fields = {
        "method": "evaluation",
        "kind": "ensemble",
        "images": 12,
        "members": 3,
        "expected": table(mean),
        "per_member": [table(member) for member in members],
        "expected_fold3_mean": np.mean(
            [row(mean[4 * i : 4 * i + 4, 12 * i : 12 * i + 12]) for i in range(3)], 0
        ).tolist(),
    }
    tensors = {f"sims_{k}": torch.as_tensor(member) for k, member in enumerate(members)}
    case = Case(Path("sibling.json"), fields, {**tensors, "sims_mean": torch.as_tensor(mean)})
    ledger = compare(case)
    assert [r for r in ledger.rows if not r.passed] == []
    assert ledger.not_compared == []
    assert not compare(replace(case, fields=with_leaf(fields, "expected_fold3_mean", nudge))).passed
    assert not compare(replace(case, fields=with_leaf(fields, "members", lambda _: 2))).passed
