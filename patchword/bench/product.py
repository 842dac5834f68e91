"""Measurements that compare across machines: every figure comes with a matrix product timed beside it.

A timed run stands between two float32 products of 3600x1024 by 1024x3200; figures are the median over the runs, and the
quotient ``per_gemm_gflop`` is what to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from patchword.console import peak_memory_gib


def gemm_gflops() -> float:
    """Rate of one float32 matrix product, in GFLOP/s."""
    a, b = torch.randn(3600, 1024), torch.randn(1024, 3200)
    started = time.perf_counter()
    a @ b
    return 2 * 3600 * 1024 * 3200 / (time.perf_counter() - started) / 1e9


def timed(work: Callable[[], Any], units: int, steps: int, unit: str, about: dict[str, Any]) -> dict[str, Any]:
    """Median rate of ``work`` over ``steps`` runs with products between them; a run before, unless steps is 1."""
    if steps > 1:
        work()
    gemm_gflops()
    rates, products = [], [gemm_gflops()]
    for _ in range(steps):
        started = time.perf_counter()
        work()
        rates.append(units / (time.perf_counter() - started))
        products.append(gemm_gflops())
    gemm = median(products)
    return {
        **about,
        "seconds": round(units / median(rates), 3),
        f"{unit}_per_s": round(median(rates), 1),
        "gemm_gflops": round(gemm, 1),
        "per_gemm_gflop": round(median(rates) / gemm, 4),
        "runs": steps,
        "threads": torch.get_num_threads(),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
