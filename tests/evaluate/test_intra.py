"""Scores between two images or two captions: which methods have them, and that listed pairs equal the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_toys import toy_model, toy_split

from patchword.errors import ConfigError, ScoreError
from patchword.evaluate import intra
from patchword.evaluate.encoding import encode_split
from patchword.evaluate.intra import (
    MatrixScores,
    SetScores,
    VectorScores,
    intra_scores,
    is_dot_product,
    listed_scores,
    pooled_vectors,
)
from patchword.methods.base import Method
from patchword.methods.chan import Chan
from patchword.scoring.matrix import score_matrix
from patchword.types import Encoded

SPLIT = toy_split([str(k) for k in range(7)], each=3)


def whole(blocks: object) -> np.ndarray:
    """All rows of an ``IntraScores``."""
    return np.concatenate([block for _, block in blocks.blocks()])  # type: ignore[attr-defined]


def test_one_vector_an_item_is_the_dot_product() -> None:
    model = toy_model()
    images, captions = encode_split(model, SPLIT)
    assert is_dot_product(model.method, images, captions)
    among_images, among_captions = intra_scores(model.method, images, captions)
    assert isinstance(among_images, VectorScores)
    np.testing.assert_allclose(whole(among_captions), (captions.vectors @ captions.vectors.T).numpy(), atol=1e-6)
    a, b = np.array([0, 5, 5]), np.array([3, 5, 20])
    np.testing.assert_allclose(among_captions.pairs(a, b), whole(among_captions)[a, b], atol=1e-6)


def test_sets_are_compared_by_the_methods_own_score_in_both_orders() -> None:
    model = toy_model("chan")
    images, captions = encode_split(model, SPLIT)
    among_images, among_captions = intra_scores(model.method, images, captions)
    assert isinstance(among_captions, SetScores)
    matrix = whole(among_captions)
    there = model.method.score(captions, captions).detach().numpy()
    np.testing.assert_allclose(matrix, (there + there.T) / 2, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    draw = np.random.default_rng(0)
    for pairs in (40, 300):  # few pairs an item, and many
        a, b = draw.integers(0, 21, (2, pairs))
        np.testing.assert_allclose(among_captions.pairs(a, b), matrix[a, b], atol=1e-5)
    assert len(among_images) == 7


def test_strips_change_nothing_and_no_pair_is_scored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("chan")
    captions = encode_split(model, SPLIT)[1]
    one_strip = whole(SetScores(model.method, captions))
    pairs: list[int] = []

    def counting(method: Method, a: Encoded, b: Encoded, **how: Any) -> torch.Tensor:
        pairs.append(len(a) * len(b))
        return score_matrix(method, a, b, **how)

    monkeypatch.setattr(intra, "score_matrix", counting)
    for size in (1, 4, 7, 20, 21):
        pairs.clear()
        monkeypatch.setattr(intra, "_STRIP", size)
        found = whole(SetScores(model.method, captions))
        assert sum(pairs) == 21 * 21
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_allclose(found, one_strip, rtol=0, atol=1e-6)  # products of other sizes round otherwise


def test_memory_and_a_folder_of_finished_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("chan")
    images, captions = encode_split(model, SPLIT)
    monkeypatch.setattr(intra, "_STRIP", 8)
    wanted = [whole(one) for one in intra_scores(model.method, images, captions)]
    kept = tmp_path / "kept"
    written = []
    for _ in range(2):
        again = intra_scores(model.method, images, captions, folder=kept)
        assert all(np.array_equal(whole(one), rows) for one, rows in zip(again, wanted, strict=True))
        written.append({path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")})
    assert written[0] == written[1]  # nothing was computed again
    assert len(list((kept / "among_captions").iterdir())) == 3 + 2
    with pytest.raises(ScoreError, match="budget of 9 bytes"):
        whole(intra_scores(model.method, images, captions, memory=9)[1])


def test_listed_pairs_equal_the_matrix() -> None:
    model = toy_model("chan")
    images, captions = encode_split(model, SPLIT)
    matrix = model.score(images, captions).numpy()
    draw = np.random.default_rng(1)
    for pairs in (1, 17, 200):
        a, b = draw.integers(0, 7, pairs), draw.integers(0, 21, pairs)
        np.testing.assert_allclose(listed_scores(model.method, images, captions, a, b), matrix[a, b], atol=1e-5)


class PatchesOnly(Chan):
    """A method whose score treats patches and words differently."""

    name = "patches_only"
    intra_modal = ""


def test_other_methods_are_refused_unless_pooling_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("chan")
    images, captions = encode_split(model, SPLIT)
    method = PatchesOnly(model.method.config)
    with pytest.raises(ConfigError, match="patches_only does not say how two images or two captions are compared"):
        intra_scores(method, images, captions)
    with pytest.raises(ConfigError, match="by 'dot'"):
        intra_scores(method, images, captions, "dot")
    among_images, _ = intra_scores(method, images, captions, "pooled")
    assert among_images.how.startswith("cosine of the mean vectors (an extension")
    monkeypatch.setattr(PatchesOnly, "intra_modal", "score")
    assert isinstance(intra_scores(method, images, captions)[0], SetScores)


def test_pooled_vectors_are_unit_means() -> None:
    sets = Encoded(torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([2, 1]))
    assert pooled_vectors(sets).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_matrix_that_is_there_already() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    given = MatrixScores(matrix)
    np.testing.assert_array_equal(whole(given), matrix)
    assert given.pairs(np.array([1, 2]), np.array([0, 2])).tolist() == [3.0, 8.0]
    assert len(given) == 3
