"""``patchword bench leaderboard``: every system trained and evaluated on the same data with the same budget.

Each (system, seed) runs in its own process with one thread, so that peak memory is its own and two cores run two at a
time. A finished run leaves ``result.json``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from patchword.bench.leaderboard_table import SYSTEMS, Outcome, Row, System, markdown
from patchword.errors import ConfigError, PatchwordError
from patchword.files import write_whole

if TYPE_CHECKING:
    from patchword.data.table import Split
    from patchword.evaluate.result import Evaluation
    from patchword.model import Model


@dataclass(frozen=True)
class Budget:
    """How much every system may train. None keeps what its recipe says."""

    epochs: int | None = None
    train_images: int | None = None

    def or_else(self, other: Budget) -> Budget:
        """What this one leaves open, as in another one."""
        return Budget(
            other.epochs if self.epochs is None else self.epochs,
            other.train_images if self.train_images is None else self.train_images,
        )


@dataclass(frozen=True)
class Job:
    """One training with its evaluation: plain values, for another process."""

    recipe: str
    seed: int
    data: str
    name: str | None
    out: str
    budget: Budget
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        return Path(self.out) / f"{self.recipe}_{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """What a finished result must have been made with to count as this job's."""
        given = {"data": self.data, "name": self.name, **asdict(self.budget), "overrides": dict(self.overrides)}
        return dict(json.loads(json.dumps(given)))


SCENES = {"train": 900, "dev": 150, "test": 250}
SCENES_BUDGET = Budget(epochs=5, train_images=500)  # all systems in less than ten minutes of two cores
# Settings that the leaderboard gives every run, and the options for them; those of a budget may be left open.
OWN_SETTINGS = {
    ("train", "seed"): "--seeds N runs the seeds 0 to N - 1",
    ("data", "root"): "--data DIR is trained and tested on",
    ("data", "name"): "--name NAME is trained and tested on",
    ("train", "epochs"): "--epochs N shortens the schedules too",
    ("data", "limit_train"): "--train-images N shortens the schedules too",
}
BAD_INPUT = ("ConfigError", "DataError", "CheckpointError")  # failures that the same command has again


def drawn_scenes(out: Path) -> Path:
    """The scenes of the demo's size, drawn into ``out/data`` or found there."""
    from patchword.data.scenes import write_scenes

    return write_scenes(out / "data", **SCENES, pictures=False)


def leaderboard(
    data: Path | None,
    out: Path,
    *,
    suffix: str,
    name: str | None = None,
    systems: Sequence[System] = SYSTEMS,
    seeds: int = 1,
    budget: Budget | None = None,
    processes: int = 2,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Train and evaluate all systems; writes ``leaderboard.md`` and ``leaderboard.json`` into ``out``.

    Args:
        data: data folder; None draws scenes into ``out``, on which every system has ``SCENES_BUDGET`` by default.
        suffix: what follows a system's stem in the names of its recipes: ``scenes``, ``flickr8k_grid36_bigru``.
        name: data set name, when the folder does not say it.
        systems: rows of the table.
        seeds: runs of each system, seeds 0, 1 ...
        budget: of every training, with the recipes' schedules shortened to it.
        processes: runs at a time, each with one thread.
        overrides: settings of all recipes.

    Raises:
        ConfigError: nothing to run, a number below 1, overrides of what the runs differ in or the budget gives, or
            ``out`` holds a result of other settings.
        DataError: ``data`` is no data folder.
    """
    from patchword.data.open import require_place

    console = console if console is not None else Console(quiet=True)
    if not systems or seeds < 1:
        raise ConfigError(f"{len(systems)} systems with {seeds} seeds: nothing to run. Give one or more of both.")
    whole = budget if budget is not None else Budget()
    for key, value in (("processes", processes), ("epochs", whole.epochs), ("train_images", whole.train_images)):
        if value is not None and value < 1:
            raise ConfigError(f"`{key}` is {value}. Expected 1 or more.")
    if data is None:
        whole = whole.or_else(SCENES_BUDGET)
    stems = dict.fromkeys(stem for system in systems for stem in system.recipes)  # a member may stand alone as well
    given = dict(overrides or {})
    _refuse_own_settings(given, whole)
    place = str(drawn_scenes(out) if data is None else data)
    jobs = [
        Job(f"{stem}_{suffix}", seed, place, name, str(out), whole, given) for seed in range(seeds) for stem in stems
    ]
    if data is not None and not all(_is_finished(job) for job in jobs):
        require_place(Path(data), name, None)  # what is no data folder is refused once, not by every system
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


def _refuse_own_settings(overrides: Mapping[str, Any], budget: Budget) -> None:
    """Overrides come last, so these would make all seeds one, or train on other data than is tested."""
    left_open = {("train", "epochs"): budget.epochs is None, ("data", "limit_train"): budget.train_images is None}
    for (section, key), instead in OWN_SETTINGS.items():
        values = overrides.get(section)
        if isinstance(values, Mapping) and key in values and not left_open.get((section, key), False):
            raise ConfigError(
                f"--{section}.{key} {values[key]} would overrule what the leaderboard gives every run. "
                f"Use its own option: {instead}."
            )


def _run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, str]]:
    """Run what is not finished, each job in a fresh process; yields every job with its failure, if any."""
    finished = [job for job in jobs if _is_finished(job)]
    yield from ((job, "") for job in finished)
    pool = ThreadPoolExecutor(processes)
    try:
        running = {pool.submit(_run_alone, job): job for job in jobs if job not in finished}
        for ended in as_completed(running):
            error = ended.exception()  # a bug of ours, or a killed process, in one system: the others go on
            if error is not None and not isinstance(error, Exception):
                raise error
            said = "" if error is None else f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
            yield running[ended], said or ended.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run_alone(job: Job) -> str:
    """``run_job`` in a pool of its own: a process that is killed breaks all that its pool has to do."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own:
        return own.submit(run_job, job).result()


def _is_finished(job: Job) -> bool:
    """Whether its result is there.

    Raises:
        ConfigError: a result of other settings is there.
    """
    path = job.folder / "result.json"
    if not path.is_file():
        return False
    there, asked = json.loads(path.read_text(encoding="utf-8")).get("settings") or {}, job.settings
    differ = [key for key in {**asked, **there} if there.get(key) != asked.get(key)]  # a missing one is None
    if not differ:
        return True
    raise ConfigError(
        f"{path}: a result with {differ[0]} {there.get(differ[0])!r}. Expected {asked.get(differ[0])!r}, as asked for. "
        "Choose another --out, or remove that folder."
    )


def run_job(job: Job) -> str:
    """Train, evaluate on test, write ``result.json``; returns the reason when that fails."""
    import torch

    torch.set_num_threads(1)
    try:
        outcome = _train_and_evaluate(job)
    except PatchwordError as error:
        return f"{type(error).__name__}: {error}"
    values = {**asdict(outcome), "settings": job.settings}
    write_whole(job.folder / "result.json", json.dumps(values, indent=2) + "\n")
    return ""


def overrides_of(job: Job) -> dict[str, Any]:
    """Everything that differs from the recipe: data and seed, the budget with its schedule, the settings given."""
    from patchword.config import merge
    from patchword.data.open import open_split
    from patchword.recipe import load_recipe
    from patchword.train.shorten import shortened

    recipe = load_recipe(job.recipe)
    own: dict[str, Any] = {"data": {"root": job.data}, "train": {"seed": job.seed}}
    if job.name is not None:
        own["data"]["name"] = job.name
    share = 1.0
    if job.budget.train_images is not None:
        own["data"]["limit_train"] = job.budget.train_images
        read = load_recipe(job.recipe, merge(own, job.overrides)).data
        share = min(1.0, job.budget.train_images / open_split(job.data, read.train, name=read.name).n_images)
    if job.budget.epochs is not None or share < 1:
        own = merge(own, shortened(recipe, epochs=job.budget.epochs, share=share))
    return merge(own, job.overrides)


def _train_and_evaluate(job: Job) -> Outcome:
    from patchword.console import peak_memory_gib
    from patchword.evaluate.opening import open_for
    from patchword.evaluate.run import evaluate
    from patchword.recipe import load_recipe
    from patchword.train.run import train

    started = time.monotonic()
    overrides = overrides_of(job)
    read = load_recipe(job.recipe, overrides).data
    result = train(job.recipe, job.folder, overrides=overrides)
    model = result.model()
    wall, cpu = time.monotonic(), time.process_time()
    split = open_for(model, job.data, read.test, name=read.name)
    evaluation = evaluate(model, split, save_to=job.folder / "test.safetensors")
    share = (time.process_time() - cpu) / (time.monotonic() - wall)  # of the machine that this process got
    seconds = (evaluation.provenance.score_s or 0.0) * share
    recalls, rsum, of_banks = _recalls(model, split, evaluation)
    return Outcome(
        job.recipe,
        job.seed,
        recalls,
        rsum,
        sum(p.numel() for p in model.method.parameters()),
        _training_rate(job.folder),
        evaluation.n_images * evaluation.n_captions / max(seconds, 1e-9),
        peak_memory_gib(),
        time.monotonic() - started,
        "; ".join(note for note in (of_banks, _of_guide(model, split)) if note),
    )


def _recalls(model: Model, split: Split, evaluation: Evaluation) -> tuple[tuple[float, ...], float, str]:
    """The six recalls and rsum; where scores hold a random part, means over several draws of it, and a note."""
    from patchword.evaluate.banks import BANK_SEEDS, evaluate_banks
    from patchword.evaluate.model_notes import HasVariants

    names = [f"{side}_{k}" for side in ("i2t", "t2i") for k in ("r1", "r5", "r10")]
    if not isinstance(model.method, HasVariants) or not model.method.has_variants:
        head = evaluation.headline
        return tuple(getattr(getattr(head, name[:3]), name[4:]) for name in names), head.rsum, ""
    report = evaluate_banks(model, split)
    recalls = tuple(report.spread(name)[0] for name in names)
    note = f"scores hold a random part: recalls are means over {len(BANK_SEEDS)} {report.what}"
    return recalls, report.spread("rsum")[0], note


def _of_guide(model: Model, split: Split) -> str:
    """What gives AAHR its global vectors, where that is not CLIP."""
    from patchword.data.stand_ins import stand_ins_of

    guide = getattr(model.method.config, "guide", None)
    if guide == "pooled":
        return "pooled local vectors stand in for CLIP's global vectors"
    found = stand_ins_of(split) if guide == "clip" else None
    return "" if found is None else found.sentence()


def _training_rate(folder: Path) -> float:
    """Pairs trained per second of this process's time, evaluations left out."""
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # The times of a line count from the start of the epoch, or from where it was resumed: the last line counts.
    epochs = {one["epoch"]: one for one in lines if one["kind"] == "train"}.values()
    pairs, seconds = (sum(float(one[key]) for one in epochs) for key in ("pairs", "train_cpu_s"))
    return pairs / max(1e-9, seconds)


def _read(job: Job) -> Outcome:
    values = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
    del values["settings"]
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
        "; ".join(dict.fromkeys(o.note for o in outcomes if o.note)),
    )


def exit_code(rows: Sequence[Row]) -> int:
    """0: every system has its row; 2: none has, because of what was given; 1: some failed."""
    failures = [row.failed for row in rows if row.failed]
    if len(failures) == len(rows) and all(one.partition(":")[0] in BAD_INPUT for one in failures):
        return 2
    return 1 if failures else 0


def _write(out: Path, rows: Sequence[Row], seconds: float, seeds: int) -> None:
    """Both files, put in place whole."""
    values = [
        {"system": row.system.name, "failed": row.failed, "runs": [asdict(o) for o in row.outcomes]} for row in rows
    ]
    about = {"seeds": seeds, "seconds": round(seconds, 1), "rows": values}
    write_whole(out / "leaderboard.json", json.dumps(about, indent=2) + "\n")
    write_whole(out / "leaderboard.md", markdown(rows))
