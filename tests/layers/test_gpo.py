import math

import pytest
import torch
from torch import Tensor

from patchword.layers.gpo import Gpo, positional_encoding, sort_descending

LENGTHS = (5, 1, 3, 5, 2)


@pytest.fixture
def gpo() -> Gpo:
    torch.manual_seed(3)
    return Gpo()


def plain_weights(gpo: Gpo, count: int) -> Tensor:
    """Weights of one set, without packing and without padding."""
    states = gpo.gru(positional_encoding(count, gpo.width, gpo.linear.weight)[None])[0][0]
    hidden = (states[:, : gpo.width] + states[:, gpo.width :]) / 2
    return torch.softmax(gpo.linear(hidden)[:, 0] / gpo.temperature, dim=0)


def plain_pool(gpo: Gpo, vectors: Tensor) -> list[float]:
    """Pooled value of every dimension of one set without padding, by loops."""
    weights = plain_weights(gpo, len(vectors)).tolist()
    return [
        sum(w * v for w, v in zip(weights, sorted(column, reverse=True), strict=True)) for column in vectors.T.tolist()
    ]


def test_positions_follow_the_formula() -> None:
    found = positional_encoding(7, 8, torch.zeros(())).tolist()
    for p in range(7):
        for j in range(4):
            angle = p * 10000 ** (-2 * j / 8)
            assert found[p][2 * j] == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[p][2 * j + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_weights_sum_to_one_on_real_slots_and_are_zero_on_padding(gpo: Gpo) -> None:
    weights = gpo.weights(torch.tensor(LENGTHS), 8)
    assert weights.shape == (5, 8)
    for row, length in zip(weights, LENGTHS, strict=True):
        assert row[:length].sum().item() == pytest.approx(1, abs=1e-6)
        assert (row[:length] > 0).all()
        assert (row[length:] == 0).all()


def test_weights_depend_on_the_size_only(gpo: Gpo) -> None:
    together = gpo.weights(torch.tensor(LENGTHS))
    for row, length in zip(together, LENGTHS, strict=True):
        torch.testing.assert_close(row[:length], plain_weights(gpo, length))
        torch.testing.assert_close(row[:length], gpo.weights(torch.tensor([length]))[0])
    assert torch.equal(together[0], together[3])


def test_pooling_equals_a_plain_loop(gpo: Gpo) -> None:
    vectors, lengths = torch.randn(5, 6, 4), torch.tensor(LENGTHS)
    pooled = gpo(vectors, lengths)
    for row, one, length in zip(pooled.tolist(), vectors, LENGTHS, strict=True):
        assert row == pytest.approx(plain_pool(gpo, one[:length]), abs=1e-5)


@pytest.mark.parametrize("junk", [0.0, 1e9, -1e9, math.inf, -math.inf, math.nan])
def test_padding_does_not_matter_whatever_it_holds(gpo: Gpo, junk: float) -> None:
    vectors, lengths = torch.randn(5, 5, 4), torch.tensor(LENGTHS)
    expected = gpo(vectors, lengths)
    padded = torch.full((5, 9, 4), junk)
    for row, one, length in zip(padded, vectors, LENGTHS, strict=True):
        row[:length] = one[:length]
    padded.requires_grad_()
    found = gpo(padded, lengths)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    for row, length in zip(padded.grad, LENGTHS, strict=True):
        assert (row[length:] == 0).all()
        torch.testing.assert_close(row.sum(0), torch.ones(4))


def test_gradients_reach_every_weight(gpo: Gpo) -> None:
    gpo(torch.randn(5, 5, 4), torch.tensor(LENGTHS)).pow(2).sum().backward()
    for name, parameter in gpo.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_order_of_a_set_does_not_matter(gpo: Gpo) -> None:
    vectors, lengths = torch.randn(2, 6, 3), torch.tensor([6, 6])
    torch.testing.assert_close(gpo(vectors[:, torch.randperm(6)], lengths), gpo(vectors, lengths))


def test_double_precision_stays_double() -> None:
    torch.manual_seed(0)
    single = Gpo()
    double = Gpo().double()
    double.load_state_dict(single.state_dict())
    vectors, lengths = torch.randn(3, 4, 2), torch.tensor([4, 2, 1])
    found = double(vectors.double(), lengths)
    assert found.dtype == double.weights(lengths).dtype == torch.float64
    torch.testing.assert_close(found.float(), single(vectors, lengths))


def test_low_precision_around_it_keeps_weights_that_sum_to_one(gpo: Gpo) -> None:
    vectors, lengths = torch.randn(3, 4, 2), torch.tensor([4, 2, 1])
    with torch.autocast("cpu", torch.bfloat16):
        weights, pooled = gpo.weights(lengths), gpo(vectors, lengths)
    torch.testing.assert_close(weights.float().sum(1), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(pooled.float(), gpo(vectors, lengths), atol=0.1, rtol=0.1)


def test_sorting_is_per_dimension_with_zeros_at_the_end() -> None:
    vectors = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [2.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert sort_descending(vectors, mask).tolist() == [[[3, -2], [1, -4], [0, 0]]]
