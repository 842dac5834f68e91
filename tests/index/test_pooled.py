"""The one vector per item: what it is for each method, and that it finds what exact scoring finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_toys import sets_of
from store_toys import save_pixel_model, save_region_model
from torch.nn.functional import normalize

from patchword.errors import CheckpointError, DataError
from patchword.loading import load
from patchword.methods import METHODS, method_class
from patchword.model import Model
from patchword.scoring.matrix import score_matrix
from patchword.shortlist.fit import learn
from patchword.shortlist.pooled import PoolSpec, made_captions, pool_kind
from patchword.store.manifest import Pooling
from patchword.types import Encoded


@pytest.fixture(scope="module")
def chan(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_region_model(tmp_path_factory.mktemp("pooled") / "chan"))


def test_every_method_says_what_suits_it() -> None:
    said = {name: method_class(name).shortlist for name in METHODS if name != "clip"}
    assert {said[name] for name in ("vse_inf", "hrem", "aahr")} == {"own"}
    assert {said[name] for name in ("chan", "scta", "laps")} == {"anchors"}
    assert {said[name] for name in ("esl", "cefg")} <= {"mean", "anchors"}


def test_an_image_is_the_answer_of_its_best_patch_to_each_anchor(chan: Model) -> None:
    spec = pool_kind(chan)
    assert spec.pooling == Pooling(kind="anchors", width=512, source=8)
    assert spec.anchors.shape == (512, 8)  # type: ignore[union-attr]
    sets = sets_of(9, width=8)
    found = spec.pool_images(Encoded(sets.vectors * 3, sets.lengths))  # lengths of vectors do not matter
    expected = torch.stack([(spec.anchors @ sets.slice(n, n + 1).vectors.T).amax(1) for n in range(9)])  # type: ignore[operator]
    torch.testing.assert_close(found, expected)
    shares = spec.pool_captions(sets)
    torch.testing.assert_close(shares.sum(1), torch.ones(9))


def test_the_same_model_gives_the_same_vectors(chan: Model) -> None:
    sets = sets_of(4, width=8)
    first = pool_kind(chan)
    again = PoolSpec.of(first.pooling, chan)
    assert again == first
    torch.testing.assert_close(again.pool_images(sets), first.pool_images(sets))
    with pytest.raises(CheckpointError, match="without its model"):
        PoolSpec(first.pooling).pool_images(sets)


def test_a_method_of_one_vector_keeps_it(tmp_path: Path) -> None:
    model = load(save_pixel_model(tmp_path / "vse", "vse_inf"))
    spec = pool_kind(model)
    one = Encoded(torch.randn(5, 8), torch.ones(5, dtype=torch.long))
    assert spec.pooling.kind == "own"
    assert torch.equal(spec.pool_images(one), one.vectors)
    assert torch.equal(spec.pool_captions(one), one.vectors)
    with pytest.raises(DataError, match="one vector each"):
        spec.pool_images(sets_of(5, width=8))
    with pytest.raises(DataError, match="width 7"):
        spec.pool_images(Encoded(torch.randn(5, 7), torch.ones(5, dtype=torch.long)))


@pytest.mark.parametrize("kind", ["fde", "mean"])
def test_other_kinds_can_be_asked_for(chan: Model, kind: str) -> None:
    spec = pool_kind(chan, kind)  # type: ignore[arg-type]
    sets = sets_of(6, width=8)
    assert spec.pool_images(sets).shape == (6, spec.pooling.width) == spec.pool_captions(sets).shape
    assert PoolSpec.of(spec.pooling, chan) == spec
    if kind == "mean":
        by_hand = normalize(torch.stack([sets.slice(n, n + 1).vectors.mean(0) for n in range(6)]), dim=1)
        torch.testing.assert_close(spec.pool_images(sets), by_hand)


def test_nonsense_is_refused(chan: Model) -> None:
    with pytest.raises(DataError, match="several vectors"):
        pool_kind(chan, "own")


def test_made_captions_are_words_of_the_vocabulary(chan: Model) -> None:
    captions = made_captions(chan, 0)
    assert captions is not None
    assert len(set(captions)) > 200
    assert all(chan.tokenizer.knows(caption) for caption in captions)  # type: ignore[union-attr]
    assert captions == made_captions(chan, 0) != made_captions(chan, 1)


def test_a_fitted_query_finds_what_exact_scoring_finds(chan: Model) -> None:
    """Of 2,000 random sets in 8 dimensions, the hardest there are; a mean vector and MUVERA do worse."""
    images, queries = sets_of(2000, width=8, seed=1), sets_of(25, size=8, width=8, seed=2)
    truth = score_matrix(chan.method, images, queries).T.topk(10, dim=1).indices

    def recall(kind: str, candidates: int) -> float:
        spec = pool_kind(chan, kind)  # type: ignore[arg-type]
        pooled = spec.pool_images(images)
        rows = torch.arange(0, 2000, 4)
        fit = learn(pooled, images.select(rows), pooled[rows], 2000, 128)
        vectors = fit.of_scores(score_matrix(chan.method, images.select(rows), queries))
        best = (vectors @ fit.coordinates(pooled).T).topk(candidates, dim=1).indices
        return float((truth[:, :, None] == best[:, None, :]).any(2).float().mean())

    found = recall("anchors", 40)
    assert found > 0.9
    assert found > recall("mean", 40)
    assert found > recall("fde", 40)
    assert recall("anchors", 150) > 0.99
