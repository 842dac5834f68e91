"""Linear layers in the order of the processor's product."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from patchword.scoring.packed_linear import PackedLinear


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 7), (40, 7), (3, 5, 7), (2, 3, 4, 7), (0, 7), (2, 0, 7)])
@pytest.mark.parametrize("biased", [False, True])
def test_equal_to_linear(shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(11, 7), torch.randn(shape)
    bias = torch.randn(11) if biased else None
    layer = PackedLinear.of(weight, bias, 16)
    assert (layer.packed is not None) == torch.backends.mkldnn.is_available()
    torch.testing.assert_close(layer(x), linear(x, weight, bias), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_columns_of_a_wider_matrix_and_a_transposed_weight() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(7, 11).T, torch.randn(40, 30)[:, 13:20]
    torch.testing.assert_close(PackedLinear.of(weight, None, 40)(x), x @ weight.T, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_without_onednn_it_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(11, 7), torch.randn(11), torch.randn(5, 7)
    layer = PackedLinear.of(weight, bias, 5)
    assert layer.packed is None
    assert torch.equal(layer(x), linear(x, weight, bias))


def test_other_types_are_linear() -> None:
    assert PackedLinear.of(torch.randn(3, 2, dtype=torch.float64), None, 5).packed is None
