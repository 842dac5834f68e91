"""ESL's scores tile by tile: equal to the readable formula, and so is the gradient that is written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.losses.triplet import hinge
from patchword.methods.esl import Esl, EslConfig
from patchword.scoring import two_way_attention
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.scoring.two_way_attention import esl_scores, tile_gradient, tile_scores
from patchword.types import Encoded

EQUAL, UNEQUAL, WORDS = (4,) * 6, (5, 1, 3, 2, 3, 5), (4, 1, 2, 6, 4, 2)


def esl(temperature: float = 14.0) -> Esl:
    text = BigruConfig(vocab_size=5, word_dim=3)
    method = Esl(EslConfig(joint_dim=8, levels=3, image=RegionsConfig(width=5), text=text)).eval()
    with torch.no_grad():
        method.log_temperature.fill_(temperature).log_()
    return method


def sets(lengths: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(sum(lengths), 14, generator=generator, dtype=torch.float64).to(dtype) / 3
    return Encoded(vectors.requires_grad_(), torch.tensor(lengths))


@pytest.fixture(params=[1, 40, 1 << 18])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(two_way_attention._TILE_CELLS, "cpu", request.param)
    return int(request.param)


@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL, (1, 1)])
@pytest.mark.parametrize("temperature", [0.5, 14.0, 59.9, 61.0, 500.0])
def test_equal_to_the_readable_formula(tile: int, lengths: tuple[int, ...], temperature: float) -> None:
    method, images, captions = esl(temperature), sets(lengths, 3), sets(WORDS, 4)
    found = esl_scores(method, images, captions)
    assert found.isfinite().all()
    atol = max(2e-6, 1e-7 * temperature)  # float32 knows a logit to a few 1e-8 of its size
    torch.testing.assert_close(found, method.score(images, captions), atol=atol, rtol=2e-6)
    torch.testing.assert_close(pair_scores(method, images, captions), found)


def gradients(scores: Tensor, method: Esl, images: Encoded, captions: Encoded, hardest: int | None) -> list[Tensor]:
    loss = hinge(scores, 0.3, hardest=hardest)
    return list(torch.autograd.grad(loss, (images.vectors, captions.vectors, method.log_temperature)))


@pytest.mark.parametrize("sparse", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("hardest", [None, 1])
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
def test_gradients_equal_those_of_the_readable_formula(
    monkeypatch: pytest.MonkeyPatch, tile: int, lengths: tuple[int, ...], hardest: int | None, sparse: float
) -> None:
    monkeypatch.setattr(two_way_attention, "_SPARSE", sparse)
    method, images, captions = esl().double(), sets(lengths, 5, torch.float64), sets(WORDS, 6, torch.float64)
    found = gradients(esl_scores(method, images, captions), method, images, captions, hardest)
    wanted = gradients(method.score(images, captions), method, images, captions, hardest)
    assert wanted[2] != 0
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.7, 20.0, 80.0])
def test_the_gradient_of_a_tile_is_that_of_its_scores(temperature: float) -> None:
    s = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau, step = torch.tensor(temperature, dtype=torch.float64), 1e-6
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    to_cells, to_temperature = tile_gradient(s, weights, tau)

    def total(cells: Tensor, at: Tensor) -> float:
        return float((tile_scores(cells, at) * weights).sum())

    for place in torch.ones_like(s).nonzero().tolist():
        moved = torch.zeros_like(s)
        moved[tuple(place)] = step
        slope = (total(s + moved, tau) - total(s - moved, tau)) / (2 * step)
        assert float(to_cells[tuple(place)]) == pytest.approx(slope, abs=1e-7)
    slope = (total(s, tau + step) - total(s, tau - step)) / (2 * step)
    assert float(to_temperature) == pytest.approx(slope, abs=1e-7)


def test_cells_of_zero_have_a_finite_gradient() -> None:
    to_cells, to_temperature = tile_gradient(torch.zeros(1, 2, 1, 3), torch.ones(1, 1), torch.tensor(14.0))
    torch.testing.assert_close(to_cells, torch.full((1, 2, 1, 3), 1 / 3))  # two uniform means of six cells
    assert to_temperature == 0


def test_matrices_do_not_depend_on_tiles_and_have_no_gradient() -> None:
    method, images, captions = esl(), sets(UNEQUAL, 7), sets(WORDS, 8)
    whole = score_matrix(method, images, captions)
    torch.testing.assert_close(whole, method.score(images, captions).detach(), atol=2e-6, rtol=2e-6)
    for size in ((1, 1), (2, 5), (6, 6)):
        torch.testing.assert_close(score_matrix(method, images, captions, tile=size), whole, atol=1e-6, rtol=1e-6)
