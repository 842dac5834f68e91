"""``patchword demo``: the whole story on generated scenes, from drawing the data to answering queries.

Everything lies in one folder: ``data/``, the CHAN run itself (``last/``, ``best/``, ``config.yaml``), the baseline in
``vse_inf/``, ``report.html``, and ``index/``. What is finished is reused, what was interrupted goes on.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from patchword.checkpoint import find_checkpoint
from patchword.config import merge
from patchword.data.open import open_split
from patchword.data.scenes import PRECOMP, members, write_scenes
from patchword.data.scenes_language import Caption, Clause, Mention, is_true
from patchword.data.scenes_world import Scene, relation_between
from patchword.data.table import Split
from patchword.evaluate.benchmark import Table as Cells
from patchword.evaluate.choices import captions_beside, evaluate_choices, read_choices
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.recall import RecallTable
from patchword.index import build
from patchword.report.rows import ReportRun, report_run
from patchword.report.write import write_report
from patchword.search import Searcher
from patchword.store.layout import is_index
from patchword.store.manifest import read_manifest
from patchword.store.model_hash import hash_checkpoint
from patchword.threads import one_core
from patchword.train.run import train
from patchword.train.state import RunFolder

RELATIONS = ("above", "inside", "left of")  # one example query each


@dataclass(frozen=True)
class Demo:
    """Where the demo lies and how large it is.

    Attributes:
        out: the folder of everything.
        epochs: of each training.
        images: training images.
        seed: of the data and the trainings.
        pictures: whether the pictures are drawn too.
        overrides: settings of both trainings.
        console: where the story goes.
    """

    out: Path
    epochs: int
    images: int
    seed: int
    pictures: bool
    overrides: Mapping[str, Any]
    console: Console

    @property
    def data(self) -> Path:
        """Folder of the scenes."""
        return self.out / "data"

    @property
    def negatives(self) -> Path:
        """File of the false captions of the test split."""
        return self.data / PRECOMP / "test_negatives.jsonl"

    @property
    def sizes(self) -> dict[str, int]:
        """Images of every split: 900 training images go with 150 dev and 250 test images."""
        return {"train": self.images, "dev": max(10, self.images // 6), "test": max(20, self.images * 5 // 18)}

    def say(self, text: str = "") -> None:
        """Print a line of the story as it is: no markup, no wrapping."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def head(self, text: str) -> None:
        """Print the heading of a part."""
        self.console.print(f"\n{text}", style="bold", markup=False, highlight=False, soft_wrap=True)


def run_demo(
    out: Path = Path("runs/demo"),
    *,
    epochs: int = 6,
    images: int = 900,
    seed: int = 0,
    pictures: bool = True,
    console: Console | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Draw scenes, train CHAN and VSE-infinity on them, evaluate, write the report, answer three queries.

    Args:
        out: everything is written here; finished parts that are there already are reused.
        epochs: of each of the two trainings.
        images: training images to draw.
        seed: of the data and the trainings.
        pictures: also draw the pictures; without them the report shows ids.
        console: where the story is told; quiet by default.
        overrides: settings of both recipes, such as ``{"model": {"joint_dim": 32}}``.

    Returns:
        The report.

    Raises:
        DataError, ConfigError: the folder holds another demo.
        Interrupted: on Ctrl-C while training, after saving; the same call goes on.
    """
    shown = console if console is not None else Console(quiet=True)
    demo = Demo(Path(out), epochs, images, seed, pictures, overrides or {}, shown)
    started = time.monotonic()
    demo.say(
        f"patchword demo: pictures and sentences, matched word by word. All files go to '{demo.out}'. Ctrl-C stops it; "
        "the same command goes on."
    )
    _make_data(demo)
    with one_core():  # the same numbers on every machine
        _train(demo, "2 of 5  CHAN: every word looks for its best region", "chan_scenes", demo.out)
        baseline = demo.out / "vse_inf"
        _train(demo, "3 of 5  VSE-infinity, the baseline: one vector per picture", "vse_inf_scenes", baseline)
    split = open_split(demo.data, "test", images="features")
    runs = _evaluate(demo, split)
    negatives = _choose(demo, runs, split)
    report = write_report(
        demo.out / "report.html",
        runs=runs,
        split=split,
        title="Drawn scenes: CHAN beside VSE-infinity",
        summary=summary(runs),
        commands=_commands(demo),
        negatives=negatives,
    )
    demo.say(f"The report, with curves, pictures and lit words: {report}")
    queries = _answer(demo, runs[-1], split)
    if demo.pictures:
        _index(demo)
    _what_next(demo, queries, time.monotonic() - started)
    return report


def _make_data(demo: Demo) -> None:
    """Draw the scenes, or find them drawn."""
    sizes = demo.sizes
    demo.head(f"1 of 5  Data: {sum(sizes.values()):,} drawn scenes with five sentences each")
    is_there, started = (demo.data / "scenes.json").is_file(), time.monotonic()
    if not is_there:
        demo.say("drawing; every scene has near twins that differ in one colour, shape, size, texture or relation")
    write_scenes(demo.data, **sizes, seed=demo.seed, pictures=demo.pictures)
    counts = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    took = "were there already and are reused" if is_there else f"drawn in {time.monotonic() - started:.0f} s"
    demo.say(f"{counts} images in '{demo.data}': {took}")


def _train(demo: Demo, title: str, recipe: str, run: Path) -> None:
    """Train a recipe, go on with it, or find it finished."""
    demo.head(title)
    state = RunFolder(run).load_state()
    is_done = state is not None and state[1].finished and state[1].epoch >= demo.epochs
    mine = {"data": {"root": str(demo.data)}, "train": {"epochs": demo.epochs, "seed": demo.seed}}
    console = Console(quiet=True) if is_done else demo.console
    # A finished run is opened too: that checks that it was made with the same settings.
    result = train(recipe, run, overrides=merge(mine, demo.overrides), console=console)
    place = result.position
    done = "was finished before and is reused" if is_done else "finished"
    demo.say(f"'{run}' {done}: {place.step:,} steps, best epoch {place.best_epoch + 1}, dev rsum {place.best_rsum:.1f}")


def _evaluate(demo: Demo, split: Split) -> list[ReportRun]:
    """Evaluate both runs on the test split and print the table."""
    demo.head(f"4 of 5  Test: {split.n_images:,} new pictures, {split.n_captions:,} sentences")
    runs = [report_run(run, split, console=demo.console) for run in (demo.out / "vse_inf", demo.out)]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("i2t R@1", "R@5", "R@10", "medR", "t2i R@1", "R@5", "R@10", "medR", "rsum"):
        table.add_column(name, justify="right")
    table.add_row("chance", *_cells(runs[0].evaluation.chance))
    for run in runs:
        table.add_row(run.name, *_cells(run.evaluation.headline))
    demo.console.print(table, highlight=False)
    demo.say(
        "R@K: % of queries with a right answer among the first K (i2t: pictures ask for sentences; t2i: the reverse). "
        "Equal for both: data, epochs, batches and their order, learning rate, joint width; best epoch chosen on dev."
    )
    return runs


def _choose(demo: Demo, runs: Sequence[ReportRun], split: Split) -> Cells:
    """Let both runs choose between each caption and the same made false, and print how often they were right."""
    name, items = read_choices(demo.negatives)
    results = []
    for run in runs:
        assert run.model is not None  # both rows of the demo are runs
        results.append((run.name, evaluate_choices(ModelOnSplit(run.model, split, demo.console), name, items)))
    head, rows = captions_beside(results)
    table = Table(box=None, pad_edge=False)
    table.add_column(head[0])
    for group in head[1:]:
        table.add_column(group, justify="right")
    for row in rows:
        table.add_row(*row)
    demo.say()
    demo.console.print(table, highlight=False)
    demo.say(
        f"Each of the {len(items):,} sentences beside the same with one word made false (one attribute of a thing, or "
        "one relation): how often the true one scored higher."
    )
    return head, rows


def _cells(recall: RecallTable) -> list[str]:
    cells = []
    for part in (recall.i2t, recall.t2i):
        cells += [f"{value:.1f}" for value in (part.r1, part.r5, part.r10)]
        cells.append("-" if part.medr is None else f"{part.medr:g}")
    return [*cells, f"{recall.rsum:.1f}"]


def summary(runs: Sequence[ReportRun]) -> str:
    """What the demo shows, in one paragraph of plain words."""
    baseline, main = (run.evaluation for run in runs)
    ours, theirs = main.headline, baseline.headline
    return (
        f"Each of these {main.n_images:,} drawn pictures has near twins with one other colour, shape, size, texture "
        f"or relation. {runs[1].name} compares every word with every region and puts the right picture first for "
        f"{ours.t2i.r1:.0f} of 100 sentences; {runs[0].name}, which keeps one vector per picture, does so for "
        f"{theirs.t2i.r1:.0f}, and guessing for {main.chance.t2i.r1:.1f}. Both were trained on the same data, with the "
        "same batches in the same order, for the same number of epochs. Twins make it hard on purpose: some sentences "
        "are true of a twin as well, so 100 is out of reach."
    )


def example_queries(seed: int, size: int) -> list[Caption]:
    """Sentences of the scenes' grammar, one for each of ``RELATIONS``, each true of another scene of the test split.

    Example:
        >>> example_queries(0, 50)[0].text
        'A checked green triangle above an orange cross .'
    """
    found: dict[int, Caption] = {}  # family -> its query
    for member in islice(members(seed, "test"), size):
        if len(found) < len(RELATIONS) and member.family not in found:
            query = _query_about(member.scene, RELATIONS[len(found)])
            if query is not None:
                found[member.family] = query
    return list(found.values())


def _query_about(scene: Scene, relation: str) -> Caption | None:
    """A sentence about the first two things of a scene that stand in a relation; None when none do."""
    for i, thing in enumerate(scene.things):
        for k, other in enumerate(scene.things):
            if i != k and relation_between(scene, i, k) == relation:
                subject = Mention(texture=thing.texture, colour=thing.colour, shape=thing.shape)
                target = Mention(colour=other.colour, shape=other.shape)
                return Caption("", (Clause(subject, "", relation, target),), ())
    return None


def _answer(demo: Demo, run: ReportRun, split: Split) -> list[str]:
    """Answer the example queries with the trained model; returns their texts."""
    demo.head("5 of 5  Three queries to the trained CHAN")
    demo.say("score and file of the first three pictures; true: the sentence holds there (which the model is not told)")
    assert run.model is not None  # both rows of the demo are runs
    searcher = Searcher(run.model, split)
    scenes = {member.image_id: member.scene for member in islice(members(demo.seed, "test"), split.n_images)}
    texts = []
    for query in example_queries(demo.seed, split.n_images):
        said = query.text.removesuffix(" .").lower()
        texts.append(said)
        demo.say(f'"{said}"')
        for hit in searcher.by_text(said, k=3):
            verdict = "true" if is_true(query, scenes[hit.image_id], generous=True) else "not true"
            demo.say(f"  {hit.rank}  {hit.score:.3f}  {hit.file or hit.image_id}  ({verdict})")
    return texts


def _index(demo: Demo) -> None:
    """Index all pictures with the trained model, for the service; an index of an older model is made anew."""
    place, started = demo.out / "index", time.monotonic()
    if is_index(place) and read_manifest(place).model.hash != hash_checkpoint(find_checkpoint(demo.out)):
        shutil.rmtree(place)
    held = build(demo.data / "images", place, model=demo.out, features=demo.data).images
    demo.say(f"'{place}': an index of {held:,} pictures, ready after {time.monotonic() - started:.0f} s")


def program() -> str:
    """How to call patchword from this folder: its name when it is on the path, else its place."""
    beside = Path(sys.executable).with_name("patchword")
    found = shutil.which("patchword")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "patchword"
    if beside.is_file():
        here = Path.cwd()
        return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
    return f"{shlex.quote(sys.executable)} -m patchword"


def _commands(demo: Demo) -> list[str]:
    """The commands that make the report again."""
    out, data = shlex.quote(str(demo.out)), shlex.quote(str(demo.data))
    bare = "" if demo.pictures else " --no-pictures"
    return [
        f"patchword demo --out {out} --epochs {demo.epochs} --images {demo.images} --seed {demo.seed}{bare}",
        f"patchword evaluate {out} --data {data}",
        f"patchword evaluate {out}/vse_inf --data {data}",
        f"patchword evaluate {out} --data {data} --protocol choices --annotations {shlex.quote(str(demo.negatives))}",
    ]


def _what_next(demo: Demo, queries: Sequence[str], took_s: float) -> None:
    """The end of the story: commands to go on with."""
    call, out, data = program(), shlex.quote(str(demo.out)), shlex.quote(str(demo.data))
    demo.head(f"Done in {took_s:.0f} s. What to try next")
    query = queries[0] if queries else "a red ball"
    longer = f"train chan_scenes --data.root {data} --out {out}/longer --train.epochs 12"
    served = [("search in a browser", f"{call} serve {out}/index")] if demo.pictures else []
    for what, command in (
        ("look at the report in a browser", str(demo.out / "report.html")),
        ("ask something else", f'{call} search {out} "{query}" --data {data}'),
        ("find sentences for a picture", f"{call} search {out} --image test_00000_0 --data {data}"),
        *served,
        ("see all the numbers", f"{call} evaluate {out} --data {data}"),
        ("train longer, in a folder of its own", f"{call} {longer}"),
        ("check data of your own", f"{call} doctor data DIR"),
    ):
        demo.say(f"  {what}:\n    {command}")
