"""Measurements that compare across machines: every figure comes with a matrix product timed beside it.

A timed run stands between two float32 products of 3600x1024 by 1024x3200; figures are the median over the runs, and the
quotient ``per_gemm_gflop`` is what to compare.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from patchword.config import TrainConfig
from patchword.console import peak_memory_gib
from patchword.data.features import RegionFeatures, open_array
from patchword.encoders.bigru import BigruConfig
from patchword.methods import method_class
from patchword.methods.base import Method, Step
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Encoded, Images

# Share of captions with 8, 9, 10 ... tokens (special ones counted): COCO test captions, mean 13.3, longest 52.
_LENGTHS = np.arange(8, 24)
_SHARES = np.array([0.3, 2, 9, 18, 21, 17, 12, 8, 5, 3, 2, 1.2, 0.7, 0.4, 0.2, 0.2])


def gemm_gflops() -> float:
    """Rate of one float32 matrix product, in GFLOP/s."""
    a, b = torch.randn(3600, 1024), torch.randn(1024, 3200)
    started = time.perf_counter()
    a @ b
    return 2 * 3600 * 1024 * 3200 / (time.perf_counter() - started) / 1e9


def timed(work: Callable[[], Any], units: int, steps: int, unit: str, about: dict[str, Any]) -> dict[str, Any]:
    """Median rate of ``work`` over ``steps`` runs, with products between them."""
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
        f"{unit}_per_s": round(median(rates), 1),
        "gemm_gflops": round(gemm, 1),
        "per_gemm_gflop": round(median(rates) / gemm, 4),
        "runs": steps,
        "threads": torch.get_num_threads(),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }


def caption_lengths(count: int, generator: np.random.Generator) -> torch.Tensor:
    """Token counts distributed like COCO's test captions."""
    return torch.from_numpy(generator.choice(_LENGTHS, size=count, p=_SHARES / _SHARES.sum()))


def random_sets(method: Method, images: int, captions: int, seed: int = 0) -> tuple[Encoded, Encoded]:
    """Unit vectors in the shapes that a method of published size gives (36 regions per image)."""
    generator = np.random.default_rng(seed)
    width = int(getattr(method.config, "joint_dim", 1024))
    single = method.name == "vse_inf"
    regions = torch.full((images,), 1 if single else 36)
    words = torch.ones(captions, dtype=torch.long) if single else caption_lengths(captions, generator)
    torch.manual_seed(seed)

    def unit_rows(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width), dim=1)

    return Encoded(unit_rows(int(regions.sum())), regions), Encoded(unit_rows(int(words.sum())), words)


def published(name: str) -> Method:
    """A method of published size with random weights (a BiGRU over 11,354 words)."""
    cls: Any = method_class(name)
    text = cls.Config().text
    assert isinstance(text, BigruConfig)
    made: Method = cls(cls.Config(text=text.model_copy(update={"vocab_size": 11354})))
    return made


def bench_score(name: str, *, images: int = 256, captions: int = 1280, steps: int = 5) -> Iterator[dict[str, Any]]:
    """Scoring: the fast exact form and the readable oracle, in pairs per second."""
    method = published(name).eval()
    a, b = random_sets(method, images, captions)
    about = {"bench": "score", "method": name, "images": images, "captions": captions, "words": int(b.lengths.sum())}
    yield timed(lambda: score_matrix(method, a, b), images * captions, steps, "pairs", {**about, "form": "fast"})
    few, some = a.slice(0, min(32, images)), b.slice(0, min(128, captions))
    with torch.no_grad():
        pairs = len(few) * len(some)
        yield timed(lambda: method.score(few, some), pairs, steps, "pairs", {**about, "form": "oracle"})
        difference = (method.score(few, some) - pair_scores(method, few, some)).abs().max()
    yield {**about, "largest_difference": float(difference)}


def bench_train(name: str, *, batch: int = 128, steps: int = 5) -> Iterator[dict[str, Any]]:
    """One whole training step (36 x 2048 regions, BiGRU, hardest negatives) in pairs per second."""
    method = published(name).train()
    generator = np.random.default_rng(0)
    lengths = caption_lengths(batch, generator)
    tokens = torch.randint(4, 11354, (batch, int(lengths.max())))
    captions = Captions(tokens * (torch.arange(tokens.shape[1]) < lengths[:, None]), lengths)
    images = Images(torch.rand(batch, 36, 2048), torch.full((batch,), 36))
    optimizer = build_optimizer(method, TrainConfig())
    parameters = list(method.parameters())

    def step() -> None:
        optimizer.zero_grad()
        a, b = method.encode_images(images), method.encode_captions(captions)
        scores = pair_scores(method, a, b)
        torch.autograd.backward(method.losses(scores, a, b, Step(epoch=1))["total"])
        clip_gradients(parameters, 2.0)
        optimizer.step()

    yield timed(step, batch, steps, "pairs", {"bench": "train", "method": name, "batch": batch})


def bench_load(*, gigabytes: float = 2.0, batch: int = 128, batches: int = 200) -> Iterator[dict[str, Any]]:
    """Random batches of a feature file of any size: images per second, and how resident memory grows.

    The file is sparse (it takes no room on disk) and has the shape of COCO's features, 36 x 2048 float32 per image.
    """
    rows = max(batch, int(gigabytes * 1e9) // (36 * 2048 * 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_ims.npy"
        header = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 36, 2048))
        del header
        source = RegionFeatures(path, open_array(path), np.arange(rows))
        generator = np.random.default_rng(0)
        before = resident_gib()
        highest, started = before, time.perf_counter()
        for _ in range(batches):
            held = source.read(generator.integers(rows, size=batch).tolist())
            highest = max(highest, resident_gib())
            del held
        seconds = time.perf_counter() - started
        yield {
            "bench": "load",
            "file_gb": round(path.stat().st_size / 1e9, 2),
            "rows": rows,
            "batch": batch,
            "images_per_s": round(batches * batch / seconds, 1),
            "gemm_gflops": round(gemm_gflops(), 1),
            "resident_before_gib": round(before, 3),
            "resident_highest_gib": round(highest, 3),
            "growth_gib": round(highest - before, 3),
        }


def resident_gib() -> float:
    """Resident memory of this process now, mapped files included."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return int(fields["VmRSS"].split()[0]) / (1 << 20)
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
