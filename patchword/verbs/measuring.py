"""Verbs that measure the machine and the code, not a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

from patchword.errors import ConfigError
from patchword.verbs.output import json_line, say


def bench(
    what: Positional[Literal["score", "train", "load", "leaderboard"]],
    method: str = "chan",
    run: Path | None = None,
    data: Path | None = None,
    name: str = "",
    images: int = 0,
    captions: int = 0,
    result: Literal["matrix", "ranks", "top_k"] = "matrix",
    precision: Literal["float32", "certified"] = "float32",
    batch: int = 128,
    gigabytes: float = 2.0,
    steps: int = 5,
    systems: tuple[str, ...] = (),
    suffix: str = "scenes",
    out: Path = Path("runs/leaderboard"),
    seeds: int = 1,
    epochs: int = 0,
    processes: int = 2,
) -> int:
    """Measure beside a matrix product, one JSON object per line; or train and rank all systems.

    Args:
        what: measure scoring, training or reading, or rank all systems.
        method: of published size, with random vectors.
        run: score with a trained model instead.
        data: its data folder, or that of the leaderboard.
        name: data set name.
        images: to score; 0: 256, or the test split.
        captions: to score; 0: 1,280, or the split.
        result: what scoring makes.
        precision: certified ranks or top_k score few pairs.
        batch: of a training step, or of reading.
        gigabytes: size of the file that is read.
        steps: timed runs.
        systems: rows of the leaderboard by recipe.
        suffix: of the leaderboard's recipes.
        out: folder of the leaderboard.
        seeds: runs of each system.
        epochs: of a training; 0: the recipe's.
        processes: trainings at a time.
    """
    if what == "leaderboard":
        from patchword.leaderboard import choose, leaderboard, shown

        if data is None:
            raise ConfigError("a leaderboard without data. Give --data, the folder that every system is trained on.")
        rows = leaderboard(
            data,
            out,
            suffix=suffix,
            name=name or None,
            systems=choose(systems),
            seeds=seeds,
            epochs=epochs or None,
            processes=processes,
            console=Console(stderr=True),
        )
        Console().print(shown(rows))
        return 0
    if what == "score":
        from patchword.bench.score import bench_score

        lines = bench_score(
            method,
            run=run,
            data=data,
            dataset=name or None,
            images=images or None,
            captions=captions or None,
            result=result,
            precision=precision,
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
