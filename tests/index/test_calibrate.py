"""The probability of a match: the fit, its error, and its file in the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_toys import region_index
from small import write_precomp

from patchword.errors import DataError
from patchword.retrieve.calibrate import (
    FILE,
    calibrate,
    calibration_error,
    fit_curve,
    pair_scores_of,
    read_calibration,
)
from patchword.retrieve.engine import Index
from patchword.retrieve.query import Part, Query
from patchword.store.layout import IndexFolder


def test_the_fit_finds_the_curve_that_scores_were_drawn_from() -> None:
    draw = np.random.default_rng(0)
    right, wrong = draw.normal(1.5, 1, 40_000), draw.normal(-0.5, 1, 40_000)
    slope, intercept = fit_curve(right, wrong)  # two normals of one deviation: log-odds 2 x - 1
    assert abs(slope - 2) < 0.05
    assert abs(intercept + 1) < 0.05
    scaled, moved = fit_curve(right * 0.01 + 7, wrong * 0.01 + 7)
    assert abs(scaled - slope * 100) < 0.1
    assert abs(moved - (intercept - slope * 700)) < 1


def test_classes_that_never_overlap_have_a_finite_curve() -> None:
    slope, intercept = fit_curve(np.full(30, 2.0), np.full(90, 1.0))
    assert 0 < slope < 100
    assert np.isfinite(intercept)


def test_the_error_is_the_gap_between_promise_and_truth() -> None:
    promised = np.array([0.95, 0.95, 0.05, 0.05])
    assert calibration_error(promised, np.array([1, 1, 0, 0.0]), np.ones(4)) == pytest.approx(0.05)
    assert calibration_error(promised, np.array([1, 0, 0, 0.0]), np.ones(4)) == pytest.approx(0.25)


def test_an_index_shows_probabilities_once_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)  # a model with random weights would say nothing about a match
    known = (draw.normal(0.6, 0.1, 100), draw.normal(0.4, 0.1, (100, 9)))
    monkeypatch.setattr("patchword.retrieve.calibrate.pair_scores_of", lambda *_: known)
    folder, model = region_index(tmp_path, images=80)
    data = tmp_path / "data"
    with Index.open(folder, model=model) as index:
        assert index.search("a dog", 1).hits[0].probability is None
        done = calibrate(folder, data, "train", model=model)
        assert done.slope > 5
        assert 0 <= done.error_after < done.error_before
        assert done.data.endswith("/train")
        hits = index.search("a dog", 5, mode="exact").hits
        expected = 1 / (1 + np.exp(-(done.slope * np.array([h.score for h in hits]) + done.intercept)))
        np.testing.assert_allclose([h.probability for h in hits], expected, rtol=1e-6)
        assert index.info().is_calibrated
        composed = index.search(Query((Part(text="a dog"), Part(text="a cat"))), 1).hits[0]
        assert composed.probability is None
    place = IndexFolder(folder)
    assert read_calibration(place, done.model_hash) == done
    assert read_calibration(place, "another model") is None
    (folder / FILE).write_text("{", encoding="utf-8")
    assert read_calibration(place, done.model_hash) is None


def test_wrong_pairs_are_never_right_ones(tmp_path: Path) -> None:
    from patchword.evaluate.opening import open_for

    _, model = region_index(tmp_path, images=80)
    split = open_for(model, tmp_path / "data", "dev")
    right, wrong = pair_scores_of(model, split, 0)
    a = model.encode_images(split.require_images())
    b = model.encode_captions(split.captions)
    scores = model.score(a, b).numpy()
    np.testing.assert_allclose(right, [scores[i, c] for c, i in enumerate(split.owner)], atol=1e-5)
    for c in range(len(right)):
        others = np.delete(scores[:, c], split.owner[c])
        assert all(np.abs(others - one).min() < 1e-5 for one in wrong[c])


def test_scores_that_say_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = region_index(tmp_path, images=80)
    draw = np.random.default_rng(0)
    upside_down = (draw.normal(-1, 1, 100), draw.normal(1, 1, (100, 9)))
    monkeypatch.setattr("patchword.retrieve.calibrate.pair_scores_of", lambda *_: upside_down)
    with pytest.raises(DataError, match="do not score higher"):
        calibrate(folder, tmp_path / "data", "dev", model=model)
    assert not (folder / FILE).exists()


def test_a_small_split_is_refused(tmp_path: Path) -> None:
    folder, model = region_index(tmp_path, images=60)
    small = write_precomp(tmp_path / "small", {"dev": 2})
    with pytest.raises(DataError, match="at least 20 captions"):
        calibrate(folder, small, "dev", model=model)
    assert not (folder / FILE).exists()
