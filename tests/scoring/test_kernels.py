"""Where a kernel fails, scoring goes on without it."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from patchword.scoring.kernels import Kernel, has_kernel, runs_on


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_a_kernel_that_fails_is_tried_and_told_once(kernel: Kernel) -> None:
    """Here it fails for want of a card."""
    runs_on.cache_clear()
    with pytest.warns(UserWarning, match=f"`{kernel}` fails on cpu .*: scoring goes on without it"):
        assert not runs_on(kernel, torch.device("cpu"))
    assert not runs_on(kernel, torch.device("cpu"))


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_only_a_card_is_tried(kernel: Kernel) -> None:
    runs_on.cache_clear()
    assert not has_kernel(kernel, torch.device("cpu"))
    assert not has_kernel(kernel, torch.device("mps"))
    assert runs_on.cache_info().misses == 0
