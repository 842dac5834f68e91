"""ECCV-Caption: its files, its numbers against the package's own functions, and what is missing."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_toys import noisy_scores

import patchword.evaluate.eccv as eccv_module
from patchword.errors import DataError, ScoreError
from patchword.evaluate.eccv import evaluate_eccv, find_eccv, read_eccv
from patchword.evaluate.gallery import Gallery, eccv_folder

N, M = 8, 24
IMAGES = tuple(str(10 + k) for k in range(N))
CAPTIONS = tuple(str(500 + k) for k in range(M))
OWNER = np.arange(M) // 3
GALLERY = Gallery(IMAGES, CAPTIONS, OWNER)


def write_eccv(folder: Path, *, beyond: bool = False) -> Path:
    """Half of the images and captions are queries; ``beyond`` adds right answers outside the gallery."""
    draw = np.random.default_rng(0)
    i2t: dict[str, list[int]] = {}
    for k in range(0, N, 2):
        others = draw.choice(M, 3, replace=False)
        i2t[IMAGES[k]] = sorted({500 + int(c) for c in [*range(3 * k, 3 * k + 3), *others]})
    t2i = {CAPTIONS[c]: [10 + c // 3, 10 + (c // 3 + 1) % N] for c in range(0, M, 3)}
    if beyond:
        i2t[IMAGES[0]].append(9999)
    originals = {CAPTIONS[c]: [10 + c // 3] for c in range(M)}
    by_image = {IMAGES[k]: [500 + c for c in range(3 * k, 3 * k + 3)] for k in range(N)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("eccv_image_to_caption", i2t), ("eccv_caption_to_image", t2i),
        ("cxc_image_to_caption", by_image), ("cxc_caption_to_image", originals),
        ("original_image_to_caption", by_image), ("original_caption_to_image", originals),
    ):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def package() -> Any:
    """The authors' own functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about faster JSON and progress bars
        from eccv_caption import _metrics
    return _metrics


@pytest.mark.parametrize("beyond", [False, True])
def test_equals_the_authors_functions(tmp_path: Path, beyond: bool) -> None:
    annotations = read_eccv(write_eccv(tmp_path, beyond=beyond))
    scores = noisy_scores(OWNER, N, strength=0.8)
    result = evaluate_eccv(scores, GALLERY, annotations)
    functions = package()
    for way, matrix, lists, queries, pool in (
        ("i2t", scores, annotations.i2t, IMAGES, CAPTIONS),
        ("t2i", scores.T, annotations.t2i, CAPTIONS, IMAGES),
    ):
        found = {int(q): [int(pool[c]) for c in np.argsort(-row)] for q, row in zip(queries, matrix, strict=True)}
        truth = {int(q): [int(a) for a in answers] for q, answers in lists.items()}
        ours = result.ranks["eccv"][way]
        assert ours.map_at_r is not None
        assert ours.r_precision is not None
        theirs = functions.compute_eccv_metrics(found, truth)
        assert ours.map_at_r.mean() == pytest.approx(theirs["eccv_map_at_r"])
        assert ours.r_precision.mean() == pytest.approx(functions.compute_rprecision(found, truth))
        for k in (1, 5):
            assert ours.recall(k) == pytest.approx(100 * functions.compute_r_at_k(found, truth, k))


def test_what_is_printed(tmp_path: Path) -> None:
    result = evaluate_eccv(noisy_scores(OWNER, N), GALLERY, read_eccv(write_eccv(tmp_path, beyond=True)))
    report = result.report()
    assert report.name == "eccv (partial)"
    assert "8 images and 24 captions instead of 5,000 and 25,000" in report.table()
    assert "1 right captions and 0 right images are not in the gallery; they stay in R" in report.table()
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["eccv"]["i2t"]["unreachable"] == 1
    assert content["eccv"]["i2t"]["queries"] == 4
    assert content["cxc"]["t2i"]["queries"] == 24
    for name in ("eccv", "cxc"):
        for way in ("i2t", "t2i"):
            numbers = content[name][way]
            intervals = {key: value for key, value in numbers["intervals"].items() if isinstance(value, list)}
            assert set(intervals) == {"r1", "r5", "r10", *(("map_at_r", "r_precision") if name == "eccv" else ())}
            for key, (low, high) in intervals.items():
                assert low <= numbers[key] <= high
                times = 1 if key.startswith("r") and key[1:].isdecimal() else 100
                assert f"{times * low:.1f} to {times * high:.1f}" in report.table()
    assert content["eccv"]["t2i"]["intervals"]["map_at_r"][0] < content["eccv"]["t2i"]["intervals"]["map_at_r"][1]


def test_queries_outside_the_gallery_are_counted_and_named(tmp_path: Path) -> None:
    annotations = read_eccv(write_eccv(tmp_path))
    part = Gallery(IMAGES[:6], CAPTIONS[:18], OWNER[:18])
    result = evaluate_eccv(noisy_scores(OWNER[:18], 6), part, annotations)
    assert result.missing == {"i2t": ("16",), "t2i": ("518", "521")}
    assert "1 of 4 image -> text queries are not there: '16'" in result.report().table()
    with pytest.raises(ScoreError, match="none of the 2 queries"):
        evaluate_eccv(np.eye(2), Gallery(("1", "2"), ("3", "4"), np.arange(2)), annotations)


def test_ties_and_non_finite_scores(tmp_path: Path) -> None:
    annotations = read_eccv(write_eccv(tmp_path))
    worst = evaluate_eccv(np.zeros((N, M)), GALLERY, annotations).ranks["eccv"]["i2t"]
    best = evaluate_eccv(np.zeros((N, M)), GALLERY, annotations, ties="optimistic").ranks["eccv"]["i2t"]
    assert worst.r_precision is not None
    assert best.r_precision is not None
    assert (worst.r_precision.mean(), best.r_precision.mean()) == (0.0, 1.0)
    with pytest.raises(ScoreError, match="not finite"):
        evaluate_eccv(np.full((N, M), np.nan), GALLERY, annotations)


def test_the_annotations_are_looked_for_in_the_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = eccv_folder()
    assert place is not None
    assert find_eccv(None) == place
    assert len(read_eccv().i2t) == 1_261
    write_eccv(tmp_path)
    assert find_eccv(tmp_path) == tmp_path
    monkeypatch.setattr(eccv_module, "eccv_folder", lambda: None)
    with pytest.raises(DataError, match=r"pip install --no-deps eccv_caption, or pass their folder"):
        find_eccv(tmp_path / "elsewhere")
