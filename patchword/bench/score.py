"""How fast a method scores: the engine in one of its modes, and beside it the readable formula of the method."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from patchword.bench.product import timed
from patchword.bench.shapes import published, random_sets, system
from patchword.console import ProgressBar
from patchword.errors import ConfigError
from patchword.methods.base import Method
from patchword.scoring.matrix import MEMORY, pair_scores, score_matrix
from patchword.scoring.ranks import ranks
from patchword.scoring.top_k import top_k
from patchword.types import Encoded

Result = Literal["matrix", "ranks", "top_k"]
Precision = Literal["float32", "certified"]
_FEW = (32, 128)  # images and captions that the readable formula is timed on
_MANY = (1000, 5000)  # and where every item is one vector, so that it takes longer than its calls
_SLOW_S = 2.0  # a readable formula that takes longer is timed once


def bench_score(
    name: str | None = None,
    *,
    run: Path | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    images: int | None = None,
    captions: int | None = None,
    result: Result = "matrix",
    precision: Precision = "float32",
    memory: int = MEMORY,
    steps: int = 5,
    console: Console | None = None,
) -> Iterator[dict[str, Any]]:
    """Pairs per second of the engine and of the readable formula, and their largest difference.

    Args:
        name: of a method of published size, with random vectors; one of ``bench.shapes.SYSTEMS``. By default CHAN.
        run, data, dataset: a trained model, and a data folder whose test split it scores, with the data set's name.
        images, captions: how many; by default 256 and five captions an image, or all of the split.
        result: what is made: the whole matrix, the ranks of the right answers, or the ten best captions of each image.
        precision: ``certified`` scores only what bounds leave open; a matrix has no such mode, so ranks are made.
        memory: budget of the engine in bytes.
        steps: timed runs.
        console: where progress goes.

    Raises:
        ConfigError: no method has this name, there are fewer captions than images, a run is given without its data or
            with a method, or data without a run.
    """
    method, a, b, owner, about = _sets(name, run, data, dataset, images, captions)
    pairs = len(a) * len(b)
    result = "ranks" if precision == "certified" and result == "matrix" else result
    about |= {"images": len(a), "captions": len(b), "words": int(b.lengths.sum()), "width": a.vectors.shape[1]}
    last: list[Any] = [None]
    runs = steps + (steps > 1)  # one before those that are timed
    with ProgressBar(runs * pairs, f"{runs} x {result}", "pairs", console or Console(quiet=True)) as shown:

        def work() -> None:
            how: dict[str, Any] = {"precision": precision, "memory": memory, "progress": shown.advance}
            if result == "matrix":
                last[0] = score_matrix(method, a, b, **how)
            elif result == "ranks":
                last[0] = ranks(method, a, b, owner, **how)
            else:
                last[0] = top_k(method, a, b, 10, **how)

        line = timed(work, pairs, steps, "pairs", {**about, "form": f"{result} {precision}"})
    screened = getattr(last[0], "screened", None)
    yield line if screened is None else {**line, **asdict(screened), "share_scored": round(screened.share, 4)}
    few = _MANY if a.max_length == b.max_length == 1 else _FEW
    yield from _oracle(method, a.slice(0, few[0]), b.slice(0, few[1]), steps, about)


def _oracle(method: Method, a: Encoded, b: Encoded, steps: int, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The readable formula on a few pairs, and how far the fast forms are from it."""
    with torch.no_grad():
        started = time.perf_counter()
        wanted = method.score(a, b)
        steps = 1 if time.perf_counter() - started > _SLOW_S else steps
        yield timed(partial(method.score, a, b), len(a) * len(b), steps, "pairs", {**about, "form": "readable"})
        found = {"training": pair_scores(method, a, b), "engine": score_matrix(method, a, b)}
    yield {
        **about,
        "form": "difference",
        "largest_score": float(wanted.abs().max()),
        **{f"largest_difference_{name}": float((scores - wanted).abs().max()) for name, scores in found.items()},
    }


def _sets(
    name: str | None, run: Path | None, data: Path | None, dataset: str | None, images: int | None, captions: int | None
) -> tuple[Method, Encoded, Encoded, torch.Tensor, dict[str, Any]]:
    """A method, its sets and the image of each caption."""
    from patchword.bench.trained import require_together, trained_sets

    require_together(run, data, dataset)
    if run is not None and name is not None:
        raise ConfigError(
            f"--method '{name}' was given with the run '{run}', which has its own. Leave out one of them."
        )
    if run is None or data is None:
        name = name or "chan"
        n = images or min(256, captions or 256)
        m = captions or 5 * n
        if m < n:
            raise ConfigError(
                f"{n} images with {m} captions were asked for. Expected at least a caption for each image."
            )
        method = published(name).eval()
        a, b = random_sets(system(name).shape, n, m)
        return method, a, b, torch.arange(m) * n // m, {"bench": "score", "method": name}
    sets = trained_sets(run, data, dataset, images=images, captions=captions)
    about = {"bench": "score", "method": sets.method.name, "run": str(run)}
    return sets.method, sets.images, sets.captions, sets.owner, about
