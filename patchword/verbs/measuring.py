"""Verbs that measure the machine and the code, not a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.output import json_line, say

What = Literal["score", "train", "load", "search", "service", "leaderboard"]
OptionalPath = Annotated[Path | None, arg(metavar="PATH")]


def bench(
    what: Annotated[Positional[What], arg(metavar="WHAT_TO_MEASURE")],
    method: str = "chan",
    run: OptionalPath = None,
    data: OptionalPath = None,
    name: str = "",
    images: int = 0,
    captions: int = 0,
    result: Annotated[Literal["matrix", "ranks", "top_k"], arg(metavar="FORM")] = "matrix",
    precision: Annotated[Literal["float32", "certified"], arg(metavar="HOW")] = "float32",
    batch: int = 128,
    gigabytes: Annotated[float, arg(metavar="N")] = 2.0,
    steps: int = 5,
    systems: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
    suffix: str = "scenes",
    out: Path = Path("runs/leaderboard"),
    seeds: int = 1,
    epochs: int = 0,
    processes: int = 2,
    backend: Annotated[Literal["exact", "faiss", "milvus"], arg(metavar="NAME")] = "exact",
    candidates: int = 0,
    folder: OptionalPath = None,
) -> int:
    """Measure beside a matrix product, one JSON object per line; or train and rank all systems.

    Args:
        what: score, train, load, search, service; or leaderboard.
        method: of published size, with random vectors.
        run: score with a trained model instead.
        data: of the run or leaderboard, or an index.
        name: data set name.
        images: to score, or to index; 0: as many as fit.
        captions: to score; 0: 1,280, or the split.
        result: matrix, ranks or top_k.
        precision: float32, or certified ranks and top_k.
        batch: of a training step, or of reading.
        gigabytes: size of the file that is read.
        steps: timed runs; seconds of a service's load.
        systems: rows of the leaderboard by recipe.
        suffix: of the leaderboard's recipes.
        out: folder of the leaderboard.
        seeds: runs of each system.
        epochs: of a training; 0: the recipe's.
        processes: trainings at a time.
        backend: of a search: exact, faiss, milvus.
        candidates: of a search; 0: by its size.
        folder: where a search's index is kept.
    """
    if what == "leaderboard":
        from patchword.leaderboard import choose, drawn_scenes, leaderboard, shown

        if data is None:
            raise ConfigError(
                "a leaderboard without data. Give --data scenes, or the folder that every system is trained on."
            )
        rows = leaderboard(
            drawn_scenes(out) if data == Path("scenes") and not data.exists() else data,
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
    elif what == "search":
        from patchword.bench.search import bench_search

        lines = bench_search(
            images=images or 10_000,
            run=run,
            data=data,
            dataset=name or None,
            backend=backend,
            candidates=candidates or None,
            folder=folder,
        )
    elif what == "service":
        from patchword.bench.service import bench_service

        if data is None:
            raise ConfigError("a service without an index. Give --data, the folder of the index.")
        lines = bench_service(data, model=run, seconds=float(steps))
    elif what == "train":
        from patchword.bench.train import bench_train

        lines = bench_train(method, batch=batch, steps=steps)
    else:
        from patchword.bench.load import bench_load

        lines = bench_load(gigabytes=gigabytes, batch=batch)
    for one in lines:
        say(json_line(one))
    return 0
