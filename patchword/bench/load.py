"""How fast a feature file of any size is read, and that memory does not grow with it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from patchword.bench.product import gemm_gflops
from patchword.console import peak_memory_gib, status_gib
from patchword.data.features import RegionFeatures
from patchword.data.npy import open_array
from patchword.errors import ConfigError

_IMAGE_BYTES = 36 * 2048 * 4


def bench_load(*, gigabytes: float = 20.0, batch: int = 128, batches: int = 200) -> Iterator[dict[str, Any]]:
    """Random batches of a feature file of any size: images per second, and how resident memory grows.

    The file is sparse (it takes no room on disk) and has the shape of COCO's features, 36 x 2048 float32 per image.

    Args:
        gigabytes: size of the file; the default is larger than the memory of most laptops.
        batch: images read at a time.
        batches: how many of them.

    Raises:
        ConfigError: the file system has no files of this size.
    """
    rows = max(batch, int(gigabytes * (1e9 / _IMAGE_BYTES)))
    if rows * _IMAGE_BYTES > sys.maxsize:
        raise ConfigError(f"a file of {gigabytes:g} GB is more than any system holds. Give fewer --gigabytes.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_ims.npy"
        try:
            header = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 36, 2048))
        except OSError as error:
            raise ConfigError(
                f"a file of {gigabytes:g} GB can not be made in '{folder}': {error.strerror}. Give fewer --gigabytes."
            ) from None
        del header
        source = RegionFeatures(path, open_array(path), np.arange(rows))
        generator = np.random.default_rng(0)
        gemm_gflops()
        products = [gemm_gflops()]  # before and after, never between: their memory is not that of reading
        before = resident_gib()
        highest, started = before, time.perf_counter()
        for _ in range(batches):
            held = source.read(generator.integers(rows, size=batch).tolist())
            highest = max(highest, resident_gib())
            del held
        seconds = time.perf_counter() - started
        rate, gemm = batches * batch / seconds, mean([*products, gemm_gflops()])
        yield {
            "bench": "load",
            "file_gb": round(path.stat().st_size / 1e9, 2),
            "rows": rows,
            "batch": batch,
            "batches": batches,
            "seconds": round(seconds, 3),
            "images_per_s": round(rate, 1),
            "gemm_gflops": round(gemm, 1),
            "per_gemm_gflop": round(rate / gemm, 4),
            "threads": torch.get_num_threads(),
            "resident_before_gib": round(before, 3),
            "resident_highest_gib": round(highest, 3),
            "growth_gib": round(highest - before, 3),
        }


def resident_gib() -> float:
    """Resident memory of this process now, mapped files included; its peak where the system tells no more."""
    now = status_gib("VmRSS")
    return peak_memory_gib() if now is None else now
