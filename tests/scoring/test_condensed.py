"""The condensed form of SCTA and LAPS against the readable one: scores and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from condensed_toys import KINDS, made
from torch import Tensor

from patchword.losses.triplet import hinge
from patchword.methods.scta import Scta
from patchword.scoring import condensed
from patchword.scoring.condensed import condensed_scores
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.types import Encoded

D = 10
EQUAL, UNEQUAL, WORDS = (6,) * 5, (9, 2, 5, 1 + 1, 7), (4, 1, 2, 12, 3)


def sets(lengths: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Encoded:
    vectors = torch.randn(sum(lengths), D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Encoded(vectors.to(dtype).requires_grad_(), torch.tensor(lengths))


def gradients(scores: Tensor, upstream: Tensor, method: Scta, *inputs: Encoded) -> dict[str, Tensor]:
    """Gradients of everything that the scores depend on."""
    named = {name: p for name, p in method.named_parameters() if "condenser" in name or name == "bank"}
    named |= {f"set {k}": one.vectors for k, one in enumerate(inputs)}
    found = torch.autograd.grad(scores, list(named.values()), upstream)
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL, (5,)])
@pytest.mark.parametrize("tile", [1, 200, 1 << 22])
def test_equal_to_the_readable_form(
    monkeypatch: pytest.MonkeyPatch, kind: str, lengths: tuple[int, ...], tile: int
) -> None:
    monkeypatch.setattr(condensed, "_TILE_FLOATS", tile)
    method, images, captions = made(kind), sets(lengths, 3), sets(WORDS, 4)
    found = condensed_scores(method, images, captions)
    torch.testing.assert_close(found, method.score(images, captions), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pair_scores(method, images, captions), found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
@pytest.mark.parametrize("needed", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("tile", [1, 300, 1 << 22])
def test_gradients_equal_those_of_the_readable_form(
    monkeypatch: pytest.MonkeyPatch, kind: str, keep_ratio: float, needed: float, tile: int
) -> None:
    monkeypatch.setattr(condensed, "_TILE_FLOATS", tile)
    method = made(
        kind, dtype=torch.float64, keep_ratio=keep_ratio, **({"word_head": "trained"} if kind == "scta" else {})
    )
    images, captions = sets(UNEQUAL, 3, torch.float64), sets(WORDS, 4, torch.float64)
    draw = torch.Generator().manual_seed(9)
    upstream = torch.randn(len(UNEQUAL), len(WORDS), generator=draw, dtype=torch.float64)
    upstream *= torch.rand(upstream.shape, generator=draw) < needed
    found = gradients(condensed_scores(method, images, captions), upstream, method, images, captions)
    expected = gradients(method.score(images, captions), upstream, method, images, captions)
    assert ("bank" in found) == (kind == "scta")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-10, rtol=1e-9, msg=name)
        if name == "set 0":
            assert bool((value != 0).any()) == (needed > 0)


def test_a_hardest_hinge_computes_few_pairs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    method = made("scta").train()
    images, captions = sets((6,) * 20, 3), sets((5,) * 20, 4)
    seen: list[int] = []
    score_captions = condensed.score_captions

    def counting(*arguments: Any) -> Tensor:
        seen.append(len(arguments[2].tokens))
        return score_captions(*arguments)

    monkeypatch.setattr(condensed, "score_captions", counting)
    scores = condensed_scores(method, images, captions)
    assert sum(seen) == 400
    hinge(scores, 0.2, hardest=1).backward()
    assert 20 <= sum(seen) - 400 <= 60  # the true pair and one wrong one in each direction
    assert images.vectors.grad is not None
    assert captions.vectors.grad is not None


def test_no_gradient_is_asked_of_what_is_frozen() -> None:
    method = made("scta")
    images, captions = sets(EQUAL, 3), sets(WORDS, 4)
    frozen = Encoded(images.vectors.detach(), images.lengths)
    method.patch_condenser.requires_grad_(False)
    condensed_scores(method, frozen, captions).sum().backward()
    assert frozen.vectors.grad is None
    assert captions.vectors.grad is not None
    assert all(p.grad is None for p in method.patch_condenser.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiled_matrix_is_the_whole_one(kind: str) -> None:
    method, images, captions = made(kind), sets(UNEQUAL, 3), sets(WORDS, 4)
    expected = method.score(images, captions).detach()
    for tile in ((1, 1), (2, 3), None):
        torch.testing.assert_close(score_matrix(method, images, captions, tile=tile), expected, atol=1e-6, rtol=1e-6)
