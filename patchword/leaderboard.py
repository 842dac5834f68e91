"""``patchword bench leaderboard``: every system trained and evaluated on the same data with the same budget.

Each (system, seed) runs in its own process with one thread, so that peak memory is its own and two cores run two at a
time. A finished run leaves ``result.json``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from patchword.errors import ConfigError, PatchwordError


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: as printed.
        recipes: stems of its recipes; the scores of several are averaged, as the authors of CEFG do.
        note: what a reader must know about the row.
    """

    name: str
    recipes: tuple[str, ...]
    note: str = ""


SYSTEMS = (
    System("VSE-infinity", ("vse_inf",)),
    System("CHAN", ("chan",)),
    System("ESL-H", ("esl_h",)),
    System("ESL-A", ("esl_a",)),
    System("LAPS", ("laps",), "cells or regions as patches, not a vision transformer"),
    System("SCTA", ("scta",), "cells or regions as patches, not a vision transformer"),
    System("CEFG (SGR + SAF)", ("cefg_sgr", "cefg_saf"), "mean of two models"),
    System("HREM", ("hrem",)),
    System("AAHR", ("aahr",), "pooled local vectors stand in for CLIP's global vectors"),
)


@dataclass(frozen=True)
class Job:
    """One training with its evaluation: plain values, for another process."""

    recipe: str
    seed: int
    data: str
    name: str | None
    out: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        return Path(self.out) / f"{self.recipe}_{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What one run gave; recalls in percent, memory in GiB, rates per second of one core's time, which a busy machine
    does not change."""

    recipe: str
    seed: int
    recalls: tuple[float, ...]
    rsum: float
    parameters: int
    train_pairs_per_s: float
    score_pairs_per_s: float
    peak_memory_gib: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A system over all its seeds. ``failed`` says why there is nothing, in one line."""

    system: System
    outcomes: tuple[Outcome, ...] = ()
    failed: str = ""

    def spread(self, values: Sequence[float]) -> str:
        """Mean, and the standard deviation when there are several seeds."""
        mean = f"{statistics.fmean(values):.1f}"
        return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"

    def cells(self) -> list[str]:
        """The row as text."""
        if not self.outcomes:
            return [self.system.name, self.failed or "not run", *[""] * (len(COLUMNS) - 2)]
        recalls = list(zip(*(o.recalls for o in self.outcomes), strict=True))
        first = self.outcomes[0]
        return [
            self.system.name,
            *(self.spread(values) for values in recalls),
            self.spread([o.rsum for o in self.outcomes]),
            f"{first.parameters / 1e6:.2f} M",
            f"{statistics.fmean(o.train_pairs_per_s for o in self.outcomes):,.0f}",
            f"{statistics.fmean(o.score_pairs_per_s for o in self.outcomes):,.0f}",
            f"{max(o.peak_memory_gib for o in self.outcomes):.2f}",
        ]


SCENES = {"train": 900, "dev": 150, "test": 250}


def drawn_scenes(out: Path) -> Path:
    """The scenes of the demo's size, drawn into ``out/data`` or found there."""
    from patchword.data.scenes import write_scenes

    return write_scenes(out / "data", **SCENES, pictures=False)


def choose(stems: Sequence[str]) -> tuple[System, ...]:
    """The systems with one of these recipes; all of them when none is named.

    Raises:
        ConfigError: no system has such a recipe.
    """
    known = {stem for system in SYSTEMS for stem in system.recipes}
    for stem in stems:
        if stem not in known:
            raise ConfigError(f"no system {stem!r}. Systems: {', '.join(sorted(known))}.")
    return tuple(system for system in SYSTEMS if not stems or set(system.recipes) & set(stems))


COLUMNS = ("system", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "parameters", "train pairs/s",
           "score pairs/s", "GiB")  # fmt: skip


def leaderboard(
    data: Path,
    out: Path,
    *,
    suffix: str,
    name: str | None = None,
    systems: Sequence[System] = SYSTEMS,
    seeds: int = 1,
    epochs: int | None = None,
    processes: int = 2,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Train and evaluate all systems; writes ``leaderboard.md`` and ``leaderboard.json`` into ``out``.

    Args:
        data: data folder.
        suffix: what follows a system's stem in the names of its recipes: ``scenes``, ``flickr8k_grid36_bigru``.
        name: data set name, when the folder does not say it.
        systems: rows of the table.
        seeds: runs of each system, seeds 0, 1 ...
        epochs: of every training; None keeps each recipe's.
        processes: runs at a time, each with one thread.
        overrides: settings of all recipes.

    Raises:
        ConfigError: nothing to run.
    """
    console = console if console is not None else Console(quiet=True)
    if not systems or seeds < 1:
        raise ConfigError(f"{len(systems)} systems with {seeds} seeds: nothing to run. Give one or more of both.")
    changes = dict(overrides or {})
    if epochs is not None:
        changes["train"] = {**changes.get("train", {}), "epochs": epochs}
    stems = dict.fromkeys(stem for system in systems for stem in system.recipes)  # a member may stand alone as well
    jobs = [
        Job(f"{stem}_{suffix}", seed, str(data), name, str(out), changes) for seed in range(seeds) for stem in stems
    ]
    out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    started = time.monotonic()
    for done, (job, failure) in enumerate(_run_all(jobs, processes), start=1):
        if failure:
            failures[job.recipe] = failure
        said = failure or _line(_read(job))
        console.print(f"{done}/{len(jobs)}  {job.recipe}, seed {job.seed}: {said}", markup=False, highlight=False)
    rows = [_row(system, jobs, suffix, failures) for system in systems]
    _write(out, rows, time.monotonic() - started, seeds)
    return rows


def _run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, str]]:
    """Run what is not finished, each job in a fresh process; yields every job with its failure, if any."""
    open_jobs = [job for job in jobs if not (job.folder / "result.json").is_file()]
    yield from ((job, "") for job in jobs if job not in open_jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(run_job, job): job for job in open_jobs}
        for finished in as_completed(running):
            yield running[finished], finished.result()


def run_job(job: Job) -> str:
    """Train, evaluate on test, write ``result.json``; returns the reason when that fails."""
    import torch

    from patchword.config import merge

    torch.set_num_threads(1)
    mine: dict[str, dict[str, Any]] = {"data": {"root": job.data}, "train": {"seed": job.seed}}
    if job.name is not None:
        mine["data"]["name"] = job.name
    try:
        outcome = _train_and_evaluate(job, merge(mine, job.overrides))
    except PatchwordError as error:
        return f"{type(error).__name__}: {error}"
    fresh = job.folder / "result.new"
    fresh.write_text(json.dumps(asdict(outcome), indent=2) + "\n", encoding="utf-8")
    fresh.replace(job.folder / "result.json")
    return ""


def _train_and_evaluate(job: Job, overrides: Mapping[str, Any]) -> Outcome:
    from patchword.console import peak_memory_gib
    from patchword.evaluate.run import evaluate
    from patchword.train.run import train

    started = time.monotonic()
    result = train(job.recipe, job.folder, overrides=overrides)
    model = result.model()
    wall, cpu = time.monotonic(), time.process_time()
    evaluation = evaluate(model, Path(job.data), name=job.name, save_to=job.folder / "test.safetensors")
    share = (time.process_time() - cpu) / (time.monotonic() - wall)  # of the machine that this process got
    head, seconds = evaluation.headline, (evaluation.provenance.score_s or 0.0) * share
    recalls = tuple(getattr(side, k) for side in (head.i2t, head.t2i) for k in ("r1", "r5", "r10"))
    return Outcome(
        job.recipe,
        job.seed,
        recalls,
        head.rsum,
        sum(p.numel() for p in model.method.parameters()),
        _training_rate(job.folder),
        evaluation.n_images * evaluation.n_captions / max(seconds, 1e-9),
        peak_memory_gib(),
        time.monotonic() - started,
    )


def _training_rate(folder: Path) -> float:
    """Pairs trained per second of this process's time, evaluations left out."""
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # The times of a line count from the start of the epoch, or from where it was resumed: the last line counts.
    epochs = {one["epoch"]: one for one in lines if one["kind"] == "train"}.values()
    pairs, seconds = (sum(float(one[key]) for one in epochs) for key in ("pairs", "train_cpu_s"))
    return pairs / max(1e-9, seconds)


def _read(job: Job) -> Outcome:
    values = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
    return Outcome(**{**values, "recalls": tuple(values["recalls"])})


def _line(outcome: Outcome) -> str:
    return f"rsum {outcome.rsum:.1f} in {outcome.seconds:.0f} s"


def _row(system: System, jobs: Sequence[Job], suffix: str, failures: Mapping[str, str]) -> Row:
    """One system over all seeds; the members of an ensemble become one outcome per seed."""
    names = [f"{stem}_{suffix}" for stem in system.recipes]
    for recipe in names:
        if recipe in failures:
            return Row(system, failed=failures[recipe])
    outcomes = []
    for seed in sorted({job.seed for job in jobs}):
        members = [job for job in jobs if job.seed == seed and job.recipe in names]
        outcomes.append(_read(members[0]) if len(members) == 1 else _joined(members))
    return Row(system, tuple(outcomes))


def _joined(members: Sequence[Job]) -> Outcome:
    """The mean of the members' scores, evaluated; sizes and times add up."""
    from patchword.evaluate.ensemble import ensemble
    from patchword.evaluate.result import evaluate_scores
    from patchword.evaluate.scores_file import load_scores

    head = evaluate_scores(ensemble([load_scores(job.folder / "test.safetensors") for job in members])).headline
    outcomes = [_read(job) for job in members]
    recalls = tuple(getattr(side, k) for side in (head.i2t, head.t2i) for k in ("r1", "r5", "r10"))
    return Outcome(
        "+".join(job.recipe for job in members),
        members[0].seed,
        recalls,
        head.rsum,
        sum(o.parameters for o in outcomes),
        1 / sum(1 / o.train_pairs_per_s for o in outcomes),
        1 / sum(1 / o.score_pairs_per_s for o in outcomes),
        max(o.peak_memory_gib for o in outcomes),
        sum(o.seconds for o in outcomes),
    )


def _write(out: Path, rows: Sequence[Row], seconds: float, seeds: int) -> None:
    """Both files, put in place whole."""
    values = [
        {"system": row.system.name, "failed": row.failed, "runs": [asdict(o) for o in row.outcomes]} for row in rows
    ]
    texts = {
        "leaderboard.json": json.dumps({"seeds": seeds, "seconds": round(seconds, 1), "rows": values}, indent=2) + "\n",
        "leaderboard.md": markdown(rows),
    }
    for name, text in texts.items():
        fresh = out / f"{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(out / name)


def markdown(rows: Sequence[Row]) -> str:
    """The table for a page, with the notes of its rows below."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [f"{row.system.name}: {row.system.note}." for row in rows if row.system.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def shown(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    table = Table(box=None, pad_edge=False)
    for k, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row.cells())
    return table
