"""Verbs that measure the machine and the code, not a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from patchword.verbs.output import json_line, say


def bench(
    what: Positional[Literal["score", "train", "load"]],
    method: str = "chan",
    run: Path | None = None,
    data: Path | None = None,
    split: str = "test",
    images: int | None = None,
    captions: int | None = None,
    result: Literal["matrix", "ranks", "top_k"] | None = None,
    precision: Literal["float32", "certified"] = "float32",
    memory: float = 2.0,
    gigabytes: float = 2.0,
    batch: int = 128,
    steps: int = 5,
) -> int:
    """Measure, with a matrix product beside the work; prints one JSON object per line.

    Args:
        what: score (pairs/s), train (pairs/s) or load (images/s and memory over a sparse feature file).
        method: a method of published size with random vectors.
        run: score with this trained model instead.
        data: data folder for it.
        split: split of it.
        images: images to score; 256, or all of the split.
        captions: captions to score; 1,280, or all of the split.
        result: what scoring makes: matrix (default), ranks of the right answers (default when certified) or top_k.
        precision: certified scores only the pairs that bounds leave open.
        memory: GiB that scoring may hold besides the sets and the matrix.
        gigabytes: size of the feature file for load.
        batch: pairs per training step, or images per read.
        steps: timed repetitions.
    """
    if what == "score":
        from patchword.bench.score import bench_score

        lines = bench_score(
            method,
            run=run,
            data=data,
            split=split,
            images=images,
            captions=captions,
            result=result or ("ranks" if precision == "certified" else "matrix"),
            precision=precision,
            memory=int(memory * (1 << 30)),
            steps=steps,
        )
    elif what == "train":
        from patchword.bench.train import bench_train

        lines = bench_train(method, batch=batch, steps=steps)
    else:
        from patchword.bench.load import bench_load

        lines = bench_load(gigabytes=gigabytes, batch=batch)
    for one in lines:
        say(json_line(one))
    return 0
