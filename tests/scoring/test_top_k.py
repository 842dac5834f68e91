"""The best items of every query against a stable sort of the whole matrix."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import METHODS, chan, sets_for, vse
from torch import Tensor

from patchword.errors import ScoreError
from patchword.scoring import hard_screen, hard_tiles, matrix
from patchword.scoring import top_k as module
from patchword.scoring.best import Best
from patchword.scoring.hard_screen import HardScreen
from patchword.scoring.matrix import score_matrix
from patchword.scoring.short_vectors import Shortening, directions
from patchword.scoring.top_k import TopK, top_k
from patchword.types import Encoded

pytestmark = pytest.mark.integration

Queries = Literal["images", "captions"]
QUERIES: tuple[Queries, ...] = ("images", "captions")


def sorted_matrix(scores: Tensor, queries: str, k: int) -> TopK:
    """Falling scores, of equal ones the first item first."""
    values, items = torch.sort(scores if queries == "images" else scores.T, dim=1, descending=True, stable=True)
    return TopK(items[:, :k], values[:, :k])


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("k", [1, 4, 100])
def test_equal_to_sorting_the_matrix(
    monkeypatch: pytest.MonkeyPatch, name: str, tied: bool, queries: Queries, k: int
) -> None:
    monkeypatch.setattr(hard_tiles, "_PATCHES", 5)
    monkeypatch.setattr(hard_tiles, "_WORDS", 7)
    monkeypatch.setattr(matrix, "_MOST", (3, 4))
    monkeypatch.setattr(module, "_CAPTIONS", 6)
    monkeypatch.setattr(module, "_IMAGES", 5)
    images, captions = sets_for(METHODS[name], 17, 41, tied=tied)
    found = top_k(METHODS[name], images, captions, k, queries=queries)
    wanted = sorted_matrix(score_matrix(METHODS[name], images, captions), queries, k)
    assert torch.equal(found.items, wanted.items)
    assert torch.equal(found.scores, wanted.scores)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_certified_items_are_those_of_float32(data: st.DataObject) -> None:
    draw = data.draw
    pooling, tied, seed = draw(st.sampled_from(["mean", "lse", "max"])), draw(st.booleans()), draw(st.integers(0, 999))
    images, captions = sets_for(chan(), draw(st.integers(1, 14)), draw(st.integers(1, 30)), seed=seed, tied=tied)

    def choose(a: Encoded, b: Encoded, pool: Any, judge: Any) -> HardScreen:
        basis = directions(a.vectors, b.vectors)[:, seed % 7 :]
        return HardScreen(a, b, pool, Shortening(basis if seed % 7 else None), Shortening(None) if seed % 2 else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_screen, "choose_screen", choose)
        patch.setattr(hard_screen, "_WORDS", 1 + seed % 40)
        patch.setattr(module, "_SCREENED", 1 + seed % 5)
        patch.setattr(module, "UNITS", 1 + seed % 9)
        for queries in QUERIES:
            k = draw(st.integers(1, 12))
            found = top_k(chan(pooling), images, captions, k, queries=queries, precision="certified")
            wanted = top_k(chan(pooling), images, captions, k, queries=queries)
            assert torch.equal(found.items, wanted.items)
            torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", QUERIES)
def test_of_a_trained_model(trained: Any, queries: Queries) -> None:
    method, images, captions, _ = trained
    counted: list[int] = []
    found = top_k(method, images, captions, 10, queries=queries, precision="certified", progress=counted.append)
    assert torch.equal(found.items, top_k(method, images, captions, 10, queries=queries).items)
    assert sum(counted) == len(images) * len(captions)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 7), st.data())
def test_scores_may_come_in_any_order(values: list[int], k: int, at_a_time: int, data: st.DataObject) -> None:
    scores = torch.tensor(values).float()
    items = torch.arange(len(values))
    order = torch.tensor(data.draw(st.permutations(range(len(values)))))
    best = Best(1, min(k, len(values)))
    for part in order.split(at_a_time):
        if data.draw(st.booleans()):
            best.add(torch.zeros(len(part), dtype=torch.long), items[part], scores[part])
        else:
            best.add_block(0, items[part], scores[part][None])
    wanted = sorted(range(len(values)), key=lambda item: (-values[item], item))[:k]
    assert best.items[0].tolist() == wanted


def test_what_can_not_be_asked_is_refused() -> None:
    images, captions = sets_for(vse(), 4, 6)
    with pytest.raises(ScoreError, match=r"the best 0 were asked for\. Expected a whole number, at least 1"):
        top_k(vse(), images, captions, 0)
    with pytest.raises(ScoreError, match=r"the best 2\.0 were asked for"):
        top_k(vse(), images, captions, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match="vse_inf has no certified mode"):
        top_k(vse(), images, captions, 1, precision="certified")
    captions.vectors[3, 2] = torch.nan
    for queries in QUERIES:
        with pytest.raises(ScoreError, match="4 scores are not finite so far"):
            top_k(vse(), images, captions, 1, queries=queries)


def test_words_that_mean_nothing_are_refused() -> None:
    matrix.require_one_of("queries", "images", ("images", "captions"))
    with pytest.raises(ScoreError, match=r"`queries` is 'image'\. Expected 'images' or 'captions'"):
        matrix.require_one_of("queries", "image", ("images", "captions"))
