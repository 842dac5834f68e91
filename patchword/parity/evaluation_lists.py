"""Golden cases of the evaluations with lists of right answers: CxC retrieval, CxC correlation, ECCV-Caption.

Sizes, ids, lists and cut-offs are read from the case. A case of CxC without its score matrix gets it from its
embeddings; one without rows or picks is compared in what it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from patchword.errors import PatchwordError
from patchword.evaluate.answers import Answers, ListRanks, rank_answers
from patchword.evaluate.cxc import evaluate_cxc
from patchword.evaluate.cxc_files import CxcAnnotations, annotations_from_lists, caption_id
from patchword.evaluate.eccv import EccvAnnotations, read_eccv
from patchword.evaluate.gallery import Gallery, find_caption_ids, make_gallery
from patchword.evaluate.intra import MatrixScores
from patchword.evaluate.ranks import rank_scores
from patchword.evaluate.recall import recall_at_k
from patchword.evaluate.relevance import Ties
from patchword.evaluate.spearman import bootstrap_picks, correlate
from patchword.parity.cases import Ledger, leaves

_STANDARD_ERRORS = 4.0  # how far the mean over our own draws may lie from that over the case's
_ROWS = 64


def compare_cxc_retrieval(ledger: Ledger) -> None:
    """Kind cxc_retrieval: R@K of the four directions."""
    fields = ledger.case.fields
    images, captions = (_unit(ledger, name) for name in ("image_embeddings", "caption_embeddings"))
    scores = images @ captions.T
    if "sims" in ledger.case.tensors:
        ledger.close("sims", scores, ledger.input("sims"), atol=1e-12, rtol=1e-12)
        scores = ledger.input("sims").numpy()
    n_images, n_captions = scores.shape
    ledger.exact("images", n_images, fields["images"])
    ledger.use("image_ids", "caption_ids", "cxc_it", "cxc_i2i", "cxc_t2t", "thresholds")
    owner = np.arange(n_captions) // (n_captions // n_images)
    ids = [tuple(str(name) for name in fields[f"{side}_ids"]) for side in ("image", "caption")]
    within = {"i2i": fields["cxc_i2i"], "t2t": fields["cxc_t2t"]}
    lists = annotations_from_lists(fields["cxc_it"], within, str(ledger.case.path), fields["thresholds"])
    result = evaluate_cxc(
        scores,
        Gallery(ids[0], ids[1], owner),
        CxcAnnotations(lists.i2t, lists.t2i, lists.i2i, lists.t2t),
        among_images=MatrixScores(images @ images.T),
        among_captions=MatrixScores(captions @ captions.T),
    )
    for way, count in fields.get("queries_without_positive", {}).items():
        ledger.exact(f"queries_without_positive.{way}", result.without[way], count)
    for name, expected in leaves(fields["expected"]):
        way, _, metric = name.partition(".")
        cut = re.fullmatch(r"r(\d+)", metric)
        if way not in result.retrieval or cut is None:
            continue
        misses = (
            result.without[way] if way in ("t2i", "i2t") else 0
        )  # in the reference a query without answer is missed
        _between(ledger, f"expected.{name}", result.retrieval[way], int(cut[1]), expected, misses)


def compare_cxc_spearman(ledger: Ledger) -> None:
    """Kind cxc_spearman: rho of all rows, of every round with the picks of the case, and of our own draws."""
    fields, tensors = ledger.case.fields, ledger.case.tensors
    model, human = ledger.input("model").numpy(), ledger.input("human").numpy()
    picks = ledger.input("picks").long().numpy()
    ledger.use("task", "split")
    if "bootstraps" in fields:
        ledger.exact("bootstraps", len(picks), fields["bootstraps"])
    first = [str(row[0]) for row in fields["rows"]] if "rows" in fields else []
    queries = len(set(first)) or 2 * picks.shape[1]
    found = correlate(model, human, picks, queries=queries)
    if first:
        ledger.use("rows")
        _compare_picks(ledger, first, picks)
    if "bootstrap_rho" in tensors:
        ledger.close("bootstrap_rho", found.rounds, ledger.input("bootstrap_rho"), atol=1e-12, rtol=0.0)
    ours = {
        "rho_all_rows": found.all_rows,
        "bootstrap_mean": found.mean,
        "bootstrap_std_ddof0": found.std,
        "bootstrap_std_ddof1": float(found.rounds.std(ddof=1)),
    }
    for name, expected in fields.get("expected", {}).items():
        if name in ours:
            ledger.close(f"expected.{name}", ours[name], expected, atol=1e-12, rtol=1e-12)
    if first:
        own = correlate(model, human, bootstrap_picks(first, len(picks), seed=0), queries=queries)
        errors = abs(own.mean - found.mean) / float(np.hypot(own.std, found.std) / np.sqrt(len(picks)))
        within = errors <= _STANDARD_ERRORS
        ledger.exact("own draws: mean within 4 standard errors", within, True, note=f"{errors:.1f} standard errors")


def _compare_picks(ledger: Ledger, first: list[str], picks: Int[np.ndarray, "b half"]) -> None:
    """The picks are what the protocol draws: half of the items, each once; ours have the same form."""
    items = [caption_id(name) for name in first]
    half = len(set(items)) // 2
    different = [len({items[row] for row in one}) for one in picks.tolist()]
    ledger.exact("picks", different, [half] * len(picks), note="half of the items, each once")
    ours = bootstrap_picks(first, len(picks), seed=0)
    different = [len({items[row] for row in one}) for one in ours.tolist()]
    ledger.exact(
        "own draws: half of the items, each once",
        [list(ours.shape), *different],
        [[*picks.shape], *[half] * len(picks)],
    )


def compare_eccv(ledger: Ledger) -> None:
    """Kind eccv_coco5k: COCO 1K and 5K, CxC and ECCV-Caption from integer embeddings of the real gallery.

    The annotations come from the package ``eccv_caption``; without it, what needs them is listed as not compared.
    """
    images, captions = (ledger.input(f"{side}_int").double().numpy() for side in ("image", "caption"))
    n_images, n_captions = len(images), len(captions)
    owner = np.arange(n_captions) // (n_captions // n_images)
    expected: dict[str, dict[str, float]] = ledger.case.fields["expected"]
    found: dict[str, dict[str, tuple[ListRanks, ListRanks]]] = {}
    own = Answers.from_pairs(owner, np.arange(n_captions), n_images, n_captions)
    wanted = {name: answers for name, answers in {"coco_5k": (own, own.reversed())}.items() if _asked(expected, name)}
    try:
        annotations = read_eccv()
        gallery = make_gallery(
            owner, n_images, image_ids=None, caption_ids=find_caption_ids(n_captions, annotations.folder),
            image_of=annotations.image_of,
        )  # fmt: skip
        wanted |= {name: pair for name, pair in _lists(annotations, gallery).items() if _asked(expected, name)}
    except PatchwordError as error:
        for name, _ in leaves(expected):
            if name.startswith(("eccv_", "cxc_")):
                ledger.excuse(f"expected.{name}", str(error))
    adjacent = {}
    for way, side, queries, candidates in (("i2t", 0, images, captions), ("t2i", 1, captions, images)):
        for name, answers in wanted.items():
            found.setdefault(name, {})[way] = tuple(
                rank_answers(_products(queries, candidates), answers[side], precision=name == "eccv", ties=ties)
                for ties in ("pessimistic", "optimistic")
            )  # type: ignore[assignment]
        if way in ledger.case.fields.get("ties_adjacent", {}):
            adjacent[way] = sum(_adjacent_ties(block) for _, block in _products(queries, candidates))
    for way, count in adjacent.items():
        ledger.exact(f"ties_adjacent.{way}", count, ledger.case.fields["ties_adjacent"][way])
    for name, by_way in expected.items():
        for way, value in by_way.items():
            _compare_eccv_number(ledger, name, way, value, found, images, captions)


def _asked(expected: dict[str, Any], name: str) -> bool:
    return any(key.startswith(f"{name}_") for key in expected)


def _lists(annotations: EccvAnnotations, gallery: Gallery) -> dict[str, tuple[Answers, Answers]]:
    ids = gallery.image_ids, gallery.caption_ids
    lists = {"eccv": (annotations.i2t, annotations.t2i), "cxc": (annotations.cxc_i2t, annotations.cxc_t2i)}
    return {
        name: (Answers.from_ids(i2t, *ids), Answers.from_ids(t2i, *reversed(ids))) for name, (i2t, t2i) in lists.items()
    }


def _compare_eccv_number(
    ledger: Ledger,
    name: str,
    way: str,
    value: float,
    found: dict[str, dict[str, tuple[ListRanks, ListRanks]]],
    images: Float[np.ndarray, "N w"],
    captions: Float[np.ndarray, "M w"],
) -> None:
    """One number of the case, as a fraction."""
    path = f"expected.{name}.{way}"
    base, _, metric = name.rpartition("_")
    cut = re.fullmatch(r"r(\d+)", metric)
    if base == "coco_1k" and cut:
        low, high = _coco_1k(images, captions, way, int(cut[1]))
        _nearest(ledger, path, low, high, value)
    elif base in found and cut:
        _between(ledger, path, found[base][way][0], int(cut[1]), value, scale=0.01)
    elif name == "eccv_map_at_r" and "eccv" in found:
        low, high = (_mean(ranks.map_at_r) for ranks in found["eccv"][way])
        _nearest(ledger, path, low, high, value)
    elif name == "eccv_rprecision" and "eccv" in found:
        low, high = (_mean(ranks.r_precision) for ranks in found["eccv"][way])
        _nearest(ledger, path, low, high, value)


def _coco_1k(
    images: Float[np.ndarray, "N w"], captions: Float[np.ndarray, "M w"], way: str, k: int
) -> tuple[float, float]:
    """Mean recall@k of consecutive folds of 1,000 images, as a fraction, with ties lost and won."""
    each = len(captions) // len(images)
    size = min(1000, len(images))
    recalls = []
    for start in range(0, len(images), size):
        block = images[start : start + size] @ captions[start * each : (start + size) * each].T
        ranks = getattr(rank_scores(block, np.arange(block.shape[1]) // each), way)
        recalls.append([recall_at_k(ranks.pessimistic, k) / 100, recall_at_k(ranks.optimistic, k) / 100])
    low, high = np.mean(recalls, axis=0).tolist()
    return low, high


def _products(
    queries: Float[np.ndarray, "Q w"], candidates: Float[np.ndarray, "n w"]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of the product of two factors; exact for integers below 2^53."""
    for start in range(0, len(queries), _ROWS):
        part = queries[start : start + _ROWS]
        yield slice(start, start + len(part)), part @ candidates.T


def _adjacent_ties(block: Float[np.ndarray, "q n"]) -> int:
    """Neighbours with equal scores in the sorted rows."""
    ordered = np.sort(block, axis=1)
    return int((ordered[:, 1:] == ordered[:, :-1]).sum())


def _unit(ledger: Ledger, name: str) -> Float[np.ndarray, "n w"]:
    vectors: np.ndarray = ledger.input(name).double().numpy()
    return vectors


def _mean(values: Float[np.ndarray, " n"] | None) -> float:
    return float("nan") if values is None else float(values.mean())


def _between(
    ledger: Ledger, path: str, ranks: ListRanks, k: int, expected: float, misses: int = 0, scale: float = 1.0
) -> None:
    """Compare a recall; with ties the reference's order is arbitrary, and its number lies between our two."""
    ways: tuple[Ties, Ties] = ("pessimistic", "optimistic")
    low, high = (ranks.recall(k, misses=misses, ties=ties) * scale for ties in ways)
    _nearest(ledger, path, low, high, expected)


def _nearest(ledger: Ledger, path: str, low: float, high: float, expected: float) -> None:
    """Compare with the bound nearest to the expected value, or with itself when it lies between them."""
    found = min(max(expected, low), high) if low != high else low
    ledger.close(path, found, expected, atol=1e-9, rtol=1e-9, note="within the bounds of ties" if low != high else "")
