"""Golden cases of the evaluation: every number that the reference evaluators gave is computed again and compared.

What a case is comes from its field ``kind``; sizes, folds, members and the names of tie matrices are read from it. Its
expected numbers are matched leaf by leaf, so a number that we do not know how to compute stays "not compared".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from patchword.errors import DataError, ScoreError
from patchword.evaluate.ensemble import ensemble
from patchword.evaluate.folds import FoldReport, recall_by_fold
from patchword.evaluate.ranks import Ranks, rank_scores
from patchword.evaluate.recall import COLUMNS, RecallTable, recall_report
from patchword.evaluate.relevance import relevance_report
from patchword.evaluate.scores_file import SavedScores
from patchword.parity.cases import Case, Ledger, leaves
from patchword.parity.evaluation_lists import compare_cxc_retrieval, compare_cxc_spearman, compare_eccv
from patchword.scoring.query_ranks import QueryRanks


def compare(case: Case) -> Ledger:
    """Compare a case with ``method: evaluation``.

    Raises:
        DataError: unknown kind, or the case lacks what its kind needs.
    """
    kind = case.fields.get("kind", "")
    ledger = Ledger(case)
    if kind not in _KINDS:
        raise DataError(
            f"'{case.path}': unknown kind '{kind}' of evaluation case. Expected one of: {', '.join(_KINDS)}."
        )
    try:
        _KINDS[kind](ledger)
    except KeyError as error:
        raise DataError(f"'{case.path}' lacks the field {error}, which the kind '{kind}' needs.") from None
    return ledger


def compare_protocol(case: Case) -> Ledger:
    """Compare a case of VSE-infinity with ``kind: evaluation protocol``.

    It holds score matrices ``sims_X``, the ranks of some of them, and metrics named ``X``, ``X_foldK``, ``ensemble``
    and ``ensemble_foldK``. Where scores tie, the reference's order is arbitrary, so its numbers must lie between ours.

    Raises:
        DataError: the case holds no matrix, or names one that is missing.
    """
    ledger = Ledger(case)
    matrices = {name.removeprefix("sims_"): _matrix(ledger, name) for name in sorted(case.tensors) if _is_matrix(name)}
    if not matrices:
        raise DataError(f"'{case.path}' has no tensor named sims_*. Expected one score matrix a model.")
    matrices["ensemble"] = _mean_of(list(matrices.values()))
    for name, scores in matrices.items():
        ranks = rank_scores(scores, _owner(scores))
        for direction, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
            key = f"{direction}_ranks_{name}"
            if key in case.tensors:
                _between(ledger, key, found.optimistic, found.pessimistic, case.tensors[key].numpy(), 1.0)
    for name, expected in case.fields.get("metrics", {}).items():
        base, _, folds = name.partition("_fold")
        if base not in matrices:
            raise DataError(f"'{case.path}' has metrics of `{name}` but no tensor `sims_{base}`.")
        _compare_lists(ledger, f"metrics.{name}", matrices[base], int(folds or 1), expected)
    return ledger


def _compare_lists(
    ledger: Ledger, name: str, scores: Float[np.ndarray, "N M"], folds: int, expected: Mapping[str, Any]
) -> None:
    """Compare R@1, R@5, R@10, medR, meanR of both directions and rsum, which must be the sum of the six recalls."""
    report = recall_by_fold(scores, _owner(scores), folds).mean
    for direction, queries in (("i2t", scores.shape[0]), ("t2i", scores.shape[1])):
        low, high = (np.array(getattr(table, direction).numbers) for table in (report.pessimistic, report.optimistic))
        step = np.array([100 / queries] * 3 + [1 / folds, 1 / queries])
        _between(ledger, f"{name}.{direction}", low, high, np.array(expected[direction]), step)
    total = sum(expected["i2t"][:3]) + sum(expected["t2i"][:3])
    _close(ledger, f"{name}.rsum", total, expected["rsum"])


def _between(
    ledger: Ledger,
    name: str,
    one: Shaped[np.ndarray, " n"],
    other: Shaped[np.ndarray, " n"],
    expected: Shaped[np.ndarray, " n"],
    step: float | Float[np.ndarray, " n"],
) -> None:
    """Compare with the possible value (a multiple of ``step``) nearest to ``expected`` between our two bounds."""
    if expected.shape != one.shape:
        _close(ledger, name, one, expected)
        return
    low, high = np.minimum(one, other), np.maximum(one, other)
    found = np.where(low == high, low, np.clip(np.round(expected / step) * step, low, high))
    tied = int((low != high).sum())
    _close(ledger, name, found, expected, note=f"{tied} within the bounds of ties" if tied else "")


def _compare_recall(ledger: Ledger) -> None:
    """Kind recall and one_caption_per_image: ranks, best answers, metrics."""
    scores = _matrix(ledger, "sims")
    _compare_sizes(ledger, scores)
    ranks = rank_scores(scores, _owner(scores))
    _compare_ranks(ledger, ranks)
    _compare_tree(ledger, "expected", recall_report(ranks).pessimistic.to_json())


def _compare_fold(ledger: Ledger) -> None:
    """Kind fold: every fold, their mean, the whole, and what some scripts print under a wrong label."""
    scores, fields = _matrix(ledger, "sims"), ledger.case.fields
    _compare_sizes(ledger, scores)
    folds = int(fields["folds"])
    report = recall_by_fold(scores, _owner(scores), folds)
    ledger.exact("folds", len(report.folds), fields["folds"])
    ledger.exact("fold_images", len(scores) / folds, fields["fold_images"])
    ledger.exact("columns", list(COLUMNS), fields["columns"])
    _close(ledger, "per_fold", report.numbers, ledger.input("per_fold"))
    mean = report.mean.pessimistic.columns
    _compare_tree(ledger, "expected_mean", dict(zip(COLUMNS, mean.tolist(), strict=True)))
    _compare_tree(ledger, "expected_whole", recall_report(rank_scores(scores, _owner(scores))).pessimistic.to_json())
    # These scripts read wrong columns of the average: 6 x column 10 as rsum, columns 11 and 12 as mean recalls.
    misprints = {"rsum": 6 * mean[10], "average_i2t": mean[11], "average_t2i": mean[12]}
    for name, expected in fields.get("misprinted_by_reference", {}).items():
        for ending, found in misprints.items():
            if name.endswith(f"evalrank_{ending}"):
                path = f"misprinted_by_reference.{name}"
                _close(ledger, path, found, expected, note="wrong label in the reference, right number")


def _compare_ties(ledger: Ledger) -> None:
    """Kind ties: g, e, m and the three results of every matrix that can be ranked, an error for every other."""
    names = [name for name in sorted(ledger.case.tensors) if _is_matrix(name)]
    for name in names:
        scores, key = _matrix(ledger, name), name.removeprefix("sims_")
        expected = ledger.case.fields["expected"][key]
        if name == names[0]:
            _compare_sizes(ledger, scores)
        if "must" in expected:
            _compare_refusal(ledger, f"expected.{key}", scores, expected)
            continue
        ranks = rank_scores(scores, _owner(scores))
        for direction, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
            triple = np.stack([found.greater, found.equal, found.positives], axis=1)
            tensor = f"{direction}_greater_equal_positives_{key}"
            ledger.exact(tensor, triple.tolist(), ledger.input(tensor))
        report = recall_report(ranks)
        tied = {"i2t": report.tied_i2t, "t2i": report.tied_t2i}
        found_tree = {**report.to_json(), "queries_with_a_tie_at_the_best_positive": tied}
        _compare_tree(ledger, f"expected.{key}", found_tree)


def _compare_refusal(ledger: Ledger, path: str, scores: Float[np.ndarray, "N M"], expected: Mapping[str, Any]) -> None:
    """A matrix that must raise does, naming the count; what the reference said about it is derived for the record."""
    odd = ~np.isfinite(scores)
    try:
        rank_scores(scores, _owner(scores))
        said = ""
    except ScoreError as error:
        said = str(error)
    found = f"{int(odd.sum()):,} of" in said and "not finite" in said
    wanted = str(expected["must"]).startswith("raise")
    ledger.exact(f"{path}.must", found, wanted, note="refused with the count" if found else "")
    # A descending sort puts NaN and +inf first: replaced by one finite value above all, they get the same ranks.
    if not {"reference_result_in_percent", "if_accepted_pessimistic"} & set(expected) or np.isneginf(scores).any():
        return
    first = np.where(odd, 2 * np.abs(scores[~odd]).max(initial=0.0) + 1, scores)
    ranks = rank_scores(first, _owner(scores))
    tables = {"if_accepted_pessimistic": recall_report(ranks).pessimistic.to_json()}
    if not ranks.i2t.tied + ranks.t2i.tied:  # with ties the reference's order is arbitrary
        tables["reference_result_in_percent"] = tables["if_accepted_pessimistic"]
    for name in set(tables) & set(expected):
        _compare_tree(ledger, f"{path}.{name}", tables[name])


def _compare_ensemble(ledger: Ledger) -> None:
    """Kind ensemble: the mean matrix, the members, the whole, the folds, and the lines that the reference logged."""
    fields = ledger.case.fields
    names = [name for name in ledger.case.tensors if re.fullmatch(r"sims_\d+", name)]
    members = [_matrix(ledger, name) for name in sorted(names, key=lambda name: int(name.removeprefix("sims_")))]
    ledger.exact("members", len(members), fields["members"])
    mean = _mean_of(members)
    _compare_sizes(ledger, mean)
    ledger.close("sims_mean", mean, ledger.input("sims_mean"), atol=1e-6, rtol=1e-6)
    for k, member in enumerate(members):
        table = recall_report(rank_scores(member, _owner(member))).pessimistic
        _compare_tree(ledger, f"per_member.{k}", table.to_json())
    whole = recall_report(rank_scores(mean, _owner(mean))).pessimistic
    _compare_tree(ledger, "expected", whole.to_json())
    if "reference_log_whole" in fields:
        _compare_log(ledger, "reference_log_whole", _summary_lines(whole))
    for key in fields:
        if match := re.fullmatch(r"(expected|reference_log)_fold(\d+)(_mean)?", key):
            report = recall_by_fold(mean, _owner(mean), int(match[2]))
            if match[1] == "expected":
                _close(ledger, key, report.mean.pessimistic.columns, fields[key])
            else:
                _compare_log(ledger, key, _fold_lines(report))


def _compare_relevance(ledger: Ledger) -> None:
    """Kind general_relevance: hit@K, mAP@R and R-precision against a relevance matrix."""
    scores, relevance = _matrix(ledger, "sims"), ledger.input("relevance").bool().numpy()
    fields, owner = ledger.case.fields, ledger.input("caption_owner").numpy()
    ledger.exact("images", scores.shape[0], fields["images"])
    ledger.exact("captions", scores.shape[1], fields["captions"])
    own = bool(relevance[owner, np.arange(len(owner))].all())
    ledger.exact("caption_owner", own, True, note="every caption is relevant to its own image")
    cuts = sorted({int(match[1]) for name, _ in leaves(fields["expected"]) if (match := re.search(r"\.r(\d+)$", name))})
    _compare_tree(ledger, "expected", relevance_report(scores, relevance, k=cuts).to_json())


_KINDS: dict[str, Callable[[Ledger], None]] = {
    "recall": _compare_recall,
    "one_caption_per_image": _compare_recall,
    "fold": _compare_fold,
    "ties": _compare_ties,
    "ensemble": _compare_ensemble,
    "general_relevance": _compare_relevance,
    "cxc_retrieval": compare_cxc_retrieval,
    "cxc_spearman": compare_cxc_spearman,
    "eccv_coco5k": compare_eccv,
}


def _close(ledger: Ledger, name: str, found: Any, expected: Any, note: str = "") -> None:
    """Compare percentages and ranks, which are quotients of small integers in float64."""
    ledger.close(name, found, expected, atol=1e-7, rtol=1e-9, note=note)


def _is_matrix(name: str) -> bool:
    return name.startswith("sims_") and name != "sims_mean"


def _matrix(ledger: Ledger, name: str) -> Float[np.ndarray, "N M"]:
    """A score matrix of the case, in the dtype it was stored in."""
    scores: np.ndarray = ledger.input(name).numpy()
    return scores


def _owner(scores: Shaped[np.ndarray, "N M"]) -> Int[np.ndarray, " M"]:
    """Image of each caption in SCAN's order: j // (M / N)."""
    n_images, n_captions = scores.shape
    owner: np.ndarray = np.arange(n_captions) // (n_captions // n_images)
    return owner


def _mean_of(members: list[Float[np.ndarray, "N M"]]) -> Float[np.ndarray, "N M"]:
    """The mean matrix, made as ``patchword ensemble`` makes it."""
    if len(members) == 1:
        return members[0]
    return np.asarray(ensemble([SavedScores(scores, _owner(scores)) for scores in members]).scores)


def _compare_sizes(ledger: Ledger, scores: Float[np.ndarray, "N M"]) -> None:
    """Compare the sizes that the case states with those of its matrix."""
    n_images, n_captions = scores.shape
    for name, size in (("images", n_images), ("captions_per_image", n_captions / n_images)):
        if name in ledger.case.fields:
            ledger.exact(name, size, ledger.case.fields[name])


def _compare_ranks(ledger: Ledger, ranks: Ranks) -> None:
    """Compare 0-based ranks, and the best answer of every query where the case has it."""
    scores = _matrix(ledger, "sims")
    directions: tuple[tuple[str, QueryRanks, int], ...] = (("i2t", ranks.i2t, 1), ("t2i", ranks.t2i, 0))
    for direction, found, axis in directions:
        ledger.exact(f"{direction}_ranks", found.pessimistic.tolist(), ledger.input(f"{direction}_ranks"))
        if f"{direction}_top1" in ledger.case.tensors:
            ledger.exact(f"{direction}_top1", scores.argmax(axis=axis).tolist(), ledger.input(f"{direction}_top1"))


def _compare_tree(ledger: Ledger, path: str, found: Mapping[str, Any]) -> None:
    """Compare every number below ``path`` in the case with ours of the same name."""
    expected: Any = ledger.case.fields
    for key in path.split("."):
        expected = expected[int(key)] if isinstance(expected, list) else expected[key]
    ours = dict(leaves(found))
    for name, value in leaves(expected):
        if ours.get(name) is not None:
            _close(ledger, f"{path}.{name}", ours[name], value)


def _summary_lines(table: RecallTable) -> list[str]:
    """The lines that VSE-infinity logs about one evaluation, with numbers at full precision."""
    i2t, t2i = (" ".join(f"{x!r}" for x in part.numbers) for part in (table.i2t, table.t2i))
    return [
        f"rsum: {table.rsum!r}",
        f"Average i2t Recall: {table.i2t.mean_recall!r}",
        f"Image to text: {i2t}",
        f"Average t2i Recall: {table.t2i.mean_recall!r}",
        f"Text to image: {t2i}",
    ]


def _fold_lines(report: FoldReport) -> list[str]:
    """The lines that VSE-infinity logs about folds, with numbers at full precision."""
    lines = []
    for table in (fold.pessimistic for fold in report.folds):
        lines += [
            "Image to text: " + ", ".join(f"{x!r}" for x in table.i2t.numbers),
            "Text to image: " + ", ".join(f"{x!r}" for x in table.t2i.numbers),
            f"rsum: {table.rsum!r} ar: {table.i2t.mean_recall!r} ari: {table.t2i.mean_recall!r}",
        ]
    return [*lines, "-----------------------------------", "Mean metrics: ", *_summary_lines(report.mean.pessimistic)]


def _compare_log(ledger: Ledger, path: str, found: list[str]) -> None:
    """Compare log lines after writing our numbers with one decimal as the reference does."""
    expected: list[str] = ledger.case.fields[path]
    printed = [_printed_like(line, wanted) for line, wanted in zip(found, expected, strict=False)]
    ledger.exact(path, [*printed, *found[len(expected) :]], expected)


def _printed_like(line: str, wanted: str) -> str:
    """``line`` with its numbers at one decimal; a number on a rounding boundary is rounded as in ``wanted``."""
    number = re.compile(r"\d+\.\d+(?:e-?\d+)?")
    printed: Iterator[str] = iter(number.findall(wanted))

    def one_decimal(match: re.Match[str]) -> str:
        value, other = float(match[0]), next(printed, "")
        both = {f"{value + shift:.1f}" for shift in (-1e-9, 1e-9)}
        return other if other in both else f"{value:.1f}"

    return number.sub(one_decimal, line)
