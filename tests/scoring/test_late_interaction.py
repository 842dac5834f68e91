"""Certified ranks of the late interaction of ready-made models, on vectors as training leaves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_certified import Trained, always, both

from patchword.bench.shapes import published
from patchword.evaluate.streamed import screening_note
from patchword.methods.base import Method
from patchword.scoring import certified
from patchword.scoring.bounds import Screened
from patchword.scoring.matrix import score_matrix
from patchword.types import Encoded


@pytest.fixture(scope="module")
def late() -> Method:
    """The scoring of CLIP with patches and words. No weight takes part in it, so none is made."""
    with torch.device("meta"):
        return published("clip_patches").eval()


def one_size(sets: Encoded, rows: int) -> Encoded:
    """Sets of unit vectors, as a vision transformer gives: each with its first rows."""
    starts = sets.offsets[:-1, None] + torch.arange(rows)
    vectors = torch.nn.functional.normalize(sets.vectors[starts.reshape(-1)], dim=1)
    return Encoded(vectors, torch.full_like(sets.lengths, rows))


@pytest.mark.integration
@pytest.mark.parametrize("rows", [36, 25])
def test_ranks_of_trained_vectors(late: Method, trained: Trained, rows: int) -> None:
    """Bounds pay for them, and decide most pairs; nothing is forced."""
    _, images, captions, truth = trained
    images = one_size(images, rows)
    found = both(late, images, captions, truth)
    assert found.screened is not None
    assert not found.screened.gave_up
    assert found.screened.about.startswith("int8 products of")
    assert 0 < found.screened.again < 0.1 * found.screened.pairs
    assert 0 < found.screened.share < 0.6
    assert np.median(found.t2i.pessimistic) < 20  # the vectors tell captions apart
    best = (images.vectors[:rows] @ captions.vectors[: captions.lengths[0]].T).amax(0).mean()
    torch.testing.assert_close(score_matrix(late, images, captions)[0, 0], best)


@pytest.mark.parametrize("width", [24, 64])
def test_near_ties_made_by_hand(late: Method, trained: Trained, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Wrong captions and wrong images that differ from right ones in the last bit of a number, in order, or not."""
    _, images, captions, _ = trained
    monkeypatch.setattr(certified, "_TOO_MANY", 2.0)
    always(monkeypatch, width, whole=width < 64)
    right = captions.select(torch.arange(0, 100, 5))  # one caption of each of 20 images

    def changed(sets: Encoded, kind: str) -> Encoded:
        v, rows = sets.vectors.clone(), sets.offsets[:-1]
        if kind == "turned":
            v = torch.cat([part.flip(0) for part in v.split(sets.lengths.tolist())])
        elif kind != "same":
            v[rows, 3] = torch.nextafter(v[rows, 3], torch.tensor(torch.inf if kind == "up" else -torch.inf))
        return Encoded(v, sets.lengths)

    kinds = ("same", "up", "down", "turned")
    texts = Encoded.concat([right, *(changed(right, kind) for kind in kinds)])
    pictures = images.slice(0, 20)
    owner = np.concatenate([np.arange(20), *[(np.arange(20) + k) % 20 for k in (1, 7, 11, 13)]])
    found = both(late, pictures, texts, owner)
    assert found.screened is not None
    assert found.screened.near >= 20 * 3  # a right caption's four likes touch its boundary
    assert found.i2t.equal.sum() >= 10
    many = Encoded.concat([pictures, *(changed(pictures, kind) for kind in kinds)])
    found = both(late, many, Encoded.concat([right] * 5), np.arange(100))
    assert found.t2i.equal.sum() >= 100  # the same picture, and the same patches in another order


def test_no_pair_counts_twice(late: Method, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score equal: all pairs are scored one by one and in tiles, and that is 100 %."""
    _, images, captions, _ = trained
    monkeypatch.setattr(certified, "_TOO_MANY", 2.0)
    always(monkeypatch, 24)
    same = Encoded.concat([images.slice(0, 1)] * 6), Encoded.concat([captions.slice(0, 1)] * 12)
    found = both(late, *same, np.arange(12) // 2)
    assert found.screened is not None
    assert found.screened.again == found.screened.near == 6 * 12 - 12
    assert found.screened.tiled == 12
    assert found.screened.share == 1


def test_what_is_said_of_it() -> None:
    bounded = Screened("int8 products of 64 numbers for 512", 1000, closer=80, again=30, near=2, tiled=20)
    given_up = Screened("every pair: bounds would cost 1.28 of scoring all", 1000, 0, 0, 0, 1000, gave_up=True)
    of_bounds = "certified ranks: bounds of all pairs (int8 products of 64 numbers for 512), 5.0% scored again"
    of_all = "certified ranks: no bounds{}, every pair was scored in float32 (bounds would cost 1.28 of scoring all)"
    assert screening_note([]) == ()
    assert screening_note([bounded]) == (of_bounds,)
    assert screening_note([given_up]) == (of_all.format(""),)
    assert screening_note([bounded, given_up]) == (of_bounds, of_all.format(" in 1 of 2 folds"))
