"""The verb that measures the machine and the code, not a model: one class for each measurement, with its options."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, Suppress, subcommand

from patchword.errors import ConfigError
from patchword.verbs.options import OptionalCount, OptionalPath, OptionalText, takes_overrides
from patchword.verbs.output import json_line, say
from patchword.verbs.sizes import OptionalSize, bytes_of


@dataclass(frozen=True)
class Score:
    """Pairs scored per second, beside the readable formula.

    Attributes:
        method: vse_inf, hrem, aahr, chan (the default), esl (ESL-H), esl_a, scta, laps, cefg (SGR), cefg_saf, clip
            (one vector) or clip_patches (late interaction), of published size, with random vectors.
        run: score with a trained model instead.
        data: data folder of that model.
        name: data set name, when the folder does not say it.
        images: to score; as many as suit the method, or the whole split, by default.
        captions: to score; 1,280, or those of the images, by default.
        result: what is made of the scores.
        precision: of ranks and top_k.
        memory: that scoring may take besides the vectors and the result, such as 2GiB (the default).
        steps: timed runs.
    """

    method: OptionalText = None
    run: OptionalPath = None
    data: OptionalPath = None
    name: OptionalText = None
    images: OptionalCount = None
    captions: OptionalCount = None
    result: Literal["matrix", "ranks", "top_k"] = "matrix"
    precision: Literal["float32", "certified"] = "float32"
    memory: OptionalSize = None
    steps: int = 5

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.score import bench_score
        from patchword.scoring.matrix import MEMORY

        return bench_score(
            self.method,
            run=self.run,
            data=self.data,
            dataset=self.name,
            images=self.images,
            captions=self.captions,
            result=self.result,
            precision=self.precision,
            memory=MEMORY if self.memory is None else bytes_of(self.memory),
            steps=self.steps,
            console=Console(stderr=True),
        )


@dataclass(frozen=True)
class Bounds:
    """What the best known bounds of ESL, SCTA and LAPS leave open: the reason why they have no certified ranks.

    Attributes:
        run: a trained model.
        data: data folder whose test split is scored.
        name: data set name, when the folder does not say it.
        images: of the split, at most.
        captions: of the split, at most.
    """

    run: Path
    data: Path
    name: OptionalText = None
    images: OptionalCount = None
    captions: OptionalCount = None

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.bounds import bench_bounds

        return bench_bounds(self.run, self.data, self.name, images=self.images, captions=self.captions)


@dataclass(frozen=True)
class Train:
    """Whole training steps per second.

    Attributes:
        method: of published size, with random features.
        batch: pairs in a step.
        steps: timed steps.
        negatives: that have a gradient.
    """

    method: str = "chan"
    batch: int = 128
    steps: int = 5
    negatives: Literal["hardest", "all"] = "hardest"

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.train import bench_train

        return bench_train(self.method, batch=self.batch, steps=self.steps, negatives=self.negatives)


@dataclass(frozen=True)
class Load:
    """Images read per second from a feature file, and how memory grows. The load of a service is `bench service`.

    Attributes:
        gigabytes: size of the file, which takes no room on disk.
        batch: images read at a time.
    """

    gigabytes: float = 20.0
    batch: int = 128

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.load import bench_load

        return bench_load(gigabytes=self.gigabytes, batch=self.batch)


@dataclass(frozen=True)
class Search:
    """Queries per second over an index of many images, and how much of the exhaustive truth they find.

    Attributes:
        images: in the index.
        run: a trained model whose vectors the index resembles.
        data: data folder of that model.
        name: data set name, when the folder does not say it.
        backend: of the shortlist.
        candidates: images re-scored for a query; by the index's size, by default.
        folder: where the index is kept, for runs with the same options; a temporary folder by default.
    """

    images: int = 10_000
    run: OptionalPath = None
    data: OptionalPath = None
    name: OptionalText = None
    backend: Literal["exact", "faiss", "milvus"] = "exact"
    candidates: OptionalCount = None
    folder: OptionalPath = None

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.search import bench_search

        return bench_search(
            images=self.images,
            run=self.run,
            data=self.data,
            dataset=self.name,
            backend=self.backend,
            candidates=self.candidates,
            folder=self.folder,
        )


@dataclass(frozen=True)
class Service:
    """Requests per second of `patchword serve`, over loopback.

    Attributes:
        index: the index that is served.
        model: run or checkpoint folder, when it is not where it was.
        seconds: of each load.
    """

    index: Positional[Path]
    model: OptionalPath = None
    seconds: float = 5.0

    def lines(self) -> Iterable[dict[str, Any]]:
        """What was measured."""
        from patchword.bench.service import bench_service

        return bench_service(self.index, model=self.model, seconds=self.seconds)


@dataclass(frozen=True)
class Leaderboard:
    """Train and evaluate all systems on the same data. Dotted options (--train.lr 1e-4) change all recipes.

    Attributes:
        data: data folder; `scenes` draws 900 / 150 / 250 scenes, and every system trains on 500 of them for 5 epochs
            (--train-images 900 --epochs 6: on all, as in docs/results.md).
        name: data set name, when the folder does not say it.
        systems: rows, by recipe (vse_inf, chan, ...); all by default.
        suffix: of the recipes' names.
        seeds: runs of each system.
        epochs: of each training; each recipe's own by default. Schedules shrink with it.
        train_images: only the first so many. Schedules shrink with it.
        processes: trainings at a time, with one thread each.
        out: where the runs and the table go (leaderboard.md, leaderboard.json).
    """

    data: Path = Path("scenes")
    name: OptionalText = None
    systems: tuple[str, ...] = ()
    suffix: str = "scenes"
    seeds: int = 1
    epochs: OptionalCount = None
    train_images: OptionalCount = None
    processes: int = 2
    out: Path = Path("runs/leaderboard")

    def run(self, overrides: tuple[str, ...]) -> int:
        """Print the table; returns 1 when a system failed, 2 when all did because of what was given."""
        from patchword.bench.leaderboard import Budget, exit_code, leaderboard
        from patchword.bench.leaderboard_table import choose, printed
        from patchword.config import parse_overrides

        rows = leaderboard(
            None if self.data == Path("scenes") and not self.data.exists() else self.data,
            self.out,
            suffix=self.suffix,
            name=self.name,
            systems=choose(self.systems),
            seeds=self.seeds,
            budget=Budget(self.epochs, self.train_images),
            processes=self.processes,
            overrides=parse_overrides(overrides),
            console=Console(stderr=True),
        )
        say(printed(rows, shutil.get_terminal_size().columns, str(self.out / "leaderboard.md")))
        return exit_code(rows)


Measurement = (
    Annotated[Score, subcommand("score")]
    | Annotated[Bounds, subcommand("bounds")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Load, subcommand("load")]
    | Annotated[Search, subcommand("search")]
    | Annotated[Service, subcommand("service")]
    | Annotated[Leaderboard, subcommand("leaderboard")]
)


@takes_overrides
def bench(
    what: Annotated[Measurement, OmitArgPrefixes, OmitSubcommandPrefixes],
    overrides: Suppress[tuple[str, ...]] = (),
) -> int:
    """Measure beside a matrix product, one JSON object per line; or train and rank all systems.

    Args:
        what: to measure.
        overrides: dotted options, of a leaderboard.
    """
    if isinstance(what, Leaderboard):
        return what.run(overrides)
    if overrides:
        raise ConfigError(f"{overrides[0]}: only `bench leaderboard` takes settings of recipes.")
    for key, value in asdict(what).items():
        if isinstance(value, int | float) and not 0 < value < math.inf:  # NaN is neither
            raise ConfigError(f"`{key}` is {value}. Expected more than 0{', and finite' if value == math.inf else ''}.")
    for one in what.lines():
        say(json_line(one))
    return 0
