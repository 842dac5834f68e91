"""SCTA and LAPS over whole collections against their readable formula."""

from __future__ import annotations

import pytest
import torch
from condensed_toys import KINDS, made

from patchword.methods.scta import Scta
from patchword.scoring import condensed_tiles
from patchword.scoring.condensed_tiles import CondensedTiles, ImageSide, _keep
from patchword.scoring.matrix import open_tiles, score_matrix
from patchword.types import Encoded

WORDS = (4, 1, 2, 30, 3, 9, 2)


def sets(lengths: tuple[int, ...], width: int, seed: int = 3) -> Encoded:
    vectors = torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))
    return Encoded(vectors, torch.tensor(lengths))


@torch.no_grad()
def check(method: Scta, images: Encoded, captions: Encoded) -> None:
    assert isinstance(open_tiles(method, images, captions), CondensedTiles)
    wanted = method.score(images, captions)
    torch.testing.assert_close(score_matrix(method, images, captions), wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [10, 40])
@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
def test_equal_to_the_readable_formula(
    monkeypatch: pytest.MonkeyPatch, kind: str, width: int, keep_ratio: float
) -> None:
    """Images with fewer and with more patches than dimensions, in several tiles and pieces."""
    monkeypatch.setattr(condensed_tiles, "_IMAGES", 2)
    monkeypatch.setattr(condensed_tiles, "_CAPTIONS", 4)
    monkeypatch.setattr(condensed_tiles, "_CHUNK", 3)
    check(made(kind, width, keep_ratio=keep_ratio), sets((9, 2, 30, 5, 17), width), sets(WORDS, width, 4))


def test_many_patches_use_the_triangle() -> None:
    check(made("scta", 160), sets((130, 150), 160), sets(WORDS, 160, 4))


def test_equal_patches_are_kept_as_in_the_readable_formula() -> None:
    """Every patch twice: the boundary of the kept ones cuts through equal scores."""
    images = sets((4, 4), 10)
    twice = Encoded(images.vectors.repeat_interleave(2, 0)[:15], torch.tensor([8, 7]))
    check(made("laps", 10), twice, sets(WORDS, 10, 4))
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    assert _keep(scores, 2).tolist() == [[False, True, True, False], [True, True, False, False]]


def test_shares_too_small_for_a_float_are_computed_as_written() -> None:
    """One patch whose logits tower above the others': where it is dropped, the shares of the rest are not zero."""
    method, images = made("scta", 10), sets((9, 8), 10)
    with torch.no_grad():
        method.patch_condenser.scale.mul_(1000)
    assert ImageSide.of(images.vectors[:9], method.patch_condenser(images.vectors[:9])) is None
    check(method, images, sets(WORDS, 10, 4))


def test_a_broken_vector_is_not_hidden() -> None:
    method, images, captions = made("scta", 10), sets((9, 8), 10), sets(WORDS, 10, 4)
    images.vectors[3, 2] = torch.nan
    scores = open_tiles(method, images, captions).tile(0, 0)
    assert bool(scores[0].isnan().all())
    assert bool(scores[1].isfinite().all())


def test_heads_drawn_at_every_call_have_no_such_tiles() -> None:
    method = made("scta", 10, word_head="resample")
    assert not isinstance(open_tiles(method, sets((9, 8), 10), sets(WORDS, 10, 4)), CondensedTiles)
