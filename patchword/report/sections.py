"""Sections of a report: the table of recalls, the training, ties and warnings, how to make it again."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from patchword.data.table import Split
from patchword.evaluate.benchmark import Table
from patchword.evaluate.protocols import PROTOCOLS
from patchword.evaluate.recall import DEFINITION
from patchword.html.page import bullets, table, tag, text
from patchword.html.thumbnails import Thumbnails
from patchword.report.curves import Curve, RunLog, chart
from patchword.report.rows import ReportRun

_SETTINGS = (
    ("data", "data", "root"),
    ("epochs", "train", "epochs"),
    ("pairs in a batch", "train", "batch_size"),
    ("learning rate", "train", "lr"),
    ("seed", "train", "seed"),
    ("loss", "loss", "kind"),
    ("margin", "loss", "margin"),
    ("joint width", "model", "joint_dim"),
)


def results_section(runs: Sequence[ReportRun]) -> str:
    """The table of recalls, with everything needed to judge it."""
    main = runs[-1].evaluation
    named = [("chance", main.chance), *((run.name, run.evaluation.headline) for run in runs)]
    rows = [[name, *recall.cells(unknown="–")] for name, recall in named]
    groups = tag(
        "tr",
        tag("td", "") + text("th", "image → text", colspan=4) + text("th", "text → image", colspan=4) + tag("td", ""),
    )
    head = ["", *("R@1", "R@5", "R@10", "medR") * 2, "rsum"]
    each = ", ".join(f"{k} for each of {n:,}" for k, n in main.captions_per_image.items())
    facts = [
        f"Protocol {main.protocol}: {PROTOCOLS[main.protocol].title}. Split {main.provenance.dataset}/"
        f"{main.provenance.split}: {main.n_images:,} images, {main.n_captions:,} captions ({each}).",
        f"{DEFINITION}. medR is the median rank of the first right answer; rsum is the sum of the six recalls.",
        "Checkpoints: " + "; ".join(f"{run.name} {_selection(run)}" for run in runs) + ".",
    ]
    return table(head, rows, groups=groups, strong=len(rows) - 1) + "".join(
        text("p", fact, class_="note") for fact in facts
    )


def _selection(run: ReportRun) -> str:
    chosen = run.evaluation.provenance.selected_on
    epoch = None if run.model is None else run.model.about.get("epoch")
    when = f"epoch {epoch}" if epoch else "epoch unknown"
    return f"({when}, chosen by rsum on {chosen})" if chosen else f"({when}, not chosen on any split that is known)"


def negatives_section(found: Table) -> str:
    """How often a caption scored higher than the same made false in one place, for each kind of change."""
    head, rows = found
    said = (
        "Every caption of the split was also made false in one place: one attribute of one thing, or one relation of "
        "two, has another value. The share of captions that score higher for their picture than their false twin; a "
        "tie counts as wrong."
    )
    return text("p", said) + table(head, rows, strong=len(rows) - 1)


def training_section(runs: Sequence[ReportRun]) -> str:
    """Curves and the settings that made them."""
    logs = [(run, run.log) for run in runs]
    loss = chart("Loss per step (logarithmic)", "step", [Curve(r.name, log.loss) for r, log in logs], is_log=True)
    chance = ("chance", runs[-1].evaluation.chance.rsum)
    names = sorted({str(run.evaluation.provenance.selected_on) or "?" for run, log in logs if log.rsum})
    rsum = chart(
        f"rsum per epoch on {' and '.join(names)}",
        "epoch",
        [Curve(run.name, log.rsum) for run, log in logs],
        reference=chance,
    )
    if not loss and not rsum:
        return text("p", "There is no log of the training (metrics.jsonl), so no curves are drawn.", class_="note")
    missing = [run.name for run, log in logs if not log.steps]
    notes = [f"No log of {name} was found." for name in missing]
    notes.append(
        "A loss that counts all negatives at first and only the hardest one later drops at the change. Losses of two "
        "methods have different units, so compare their shapes, not their heights."
    )
    return tag("div", loss + rsum, class_="charts") + _settings(logs) + text("p", " ".join(notes), class_="note")


def _settings(logs: Sequence[tuple[ReportRun, RunLog]]) -> str:
    """How each run was trained; what is the same in both columns is the same budget."""
    recipes = [run.settings.get("recipe", {}) for run, _ in logs]
    if not any(recipes):
        return ""
    rows = []
    for name, part, key in _SETTINGS:
        values = [recipe.get(part, {}).get(key) for recipe in recipes]
        rows.append([name, *("–" if value is None else str(value) for value in values)])
    rows.append(["steps taken", *(f"{log.steps:,}" if log.steps else "–" for _, log in logs)])
    rows.append(["parameters", *(_parameters(run) for run, _ in logs)])
    rows.append(["first to last log line", *(f"{log.span_s:,.0f} s" if log.span_s else "–" for _, log in logs)])
    return table(["", *(run.name for run, _ in logs)], rows, is_narrow=True)


def _parameters(run: ReportRun) -> str:
    return "–" if run.model is None else f"{sum(p.numel() for p in run.model.method.parameters()):,}"


def notes_section(runs: Sequence[ReportRun], split: Split, pictures: Thumbnails) -> str:
    """What a reader must know before comparing the numbers."""
    items = []
    for run in runs:
        recall, one = run.evaluation.recall, run.evaluation
        items.append(
            f"{run.name}: {recall.tied_i2t:,} of {one.n_images:,} image queries and {recall.tied_t2i:,} of "
            f"{one.n_captions:,} caption queries tie with a wrong answer; rsum {one.headline.rsum:.1f} with ties lost, "
            f"{recall.optimistic.rsum:.1f} with ties won. Scores compared as {one.dtype}."
        )
        items.append(
            f"{run.name}: all of {one.n_images * one.n_captions:,} scores are finite"
            + (f" but {one.pruned:,} that were left out on purpose (-inf)" if one.pruned else "")
            + f"; {one.constant[0]:,} images and {one.constant[1]:,} captions score everything alike."
        )
        items += [f"{run.name}, warning: {warning}." for warning in one.warnings]
        items += [f"{run.name}: {note}." for note in one.notes if note not in split.notes]
    items += [f"Data: {note}." for note in split.notes]
    items += [f"Picture left out: {problem}" for problem in pictures.problems.values()]
    if not any(run.evaluation.warnings for run in runs):
        items.append("No warnings.")
    return bullets(items)


def again_section(runs: Sequence[ReportRun], split: Split, commands: Sequence[str]) -> str:
    """Commands and versions."""
    lines = list(commands) or [f"patchword evaluate {run.source} --data DIR --split {split.name}" for run in runs]
    made: dict[str, str] = next((run.settings["made_with"] for run in runs if "made_with" in run.settings), {})
    versions = ", ".join(f"{name} {version}" for name, version in made.items())
    said = f"Trained with {versions}." if versions else ""
    return tag("pre", escape("\n".join(lines))) + (text("p", said, class_="note") if said else "")
