"""A report of runs on a split: one HTML file, nothing beside it, with numbers, curves, searches and lit words.

It works for any method and any data set: pictures are shown where ``Split.files`` knows them, boxes where
``Split.boxes`` does, and what is missing is said in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

import patchword
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.protocols import PROTOCOLS
from patchword.evaluate.recall import DEFINITION, RecallTable
from patchword.evaluate.report_curves import Curve, RunLog, chart, read_log
from patchword.evaluate.report_examples import Examples, Found, choose_examples
from patchword.evaluate.report_page import Thumbnails, bullets, page, picture_tile, section, table, tag, text
from patchword.evaluate.report_words import lit_pair, why_wrong
from patchword.evaluate.result import Evaluation
from patchword.evaluate.run import evaluate_model
from patchword.explain.lit_words import light_words
from patchword.model import Model, load

PLAIN_NAMES = {"chan": "CHAN", "vse_inf": "VSE-infinity"}
TWINS_FROM = 0.9  # correlation of two pictures' scores from which the page calls them twins
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


@dataclass(frozen=True)
class ReportRun:
    """One row of a report.

    Attributes:
        name: as the tables call it.
        model: the evaluated model.
        evaluation: its numbers.
        scores: its score matrix.
        folder: the run folder, for curves and settings; None without one.
    """

    name: str
    model: Model
    evaluation: Evaluation
    scores: Float[Tensor, "N M"]
    folder: Path | None = None

    @property
    def log(self) -> RunLog:
        """What the run wrote while it trained."""
        return RunLog() if self.folder is None else read_log(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe and versions in the run folder's ``config.yaml``; empty without one."""
        path = None if self.folder is None else self.folder / "config.yaml"
        if path is None or not path.is_file():
            return {}
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}


def report_run(run: Path | str | Model, split: Split, *, name: str = "", console: Console | None = None) -> ReportRun:
    """Evaluate a run, checkpoint or loaded model on a split, for a report.

    Args:
        run: run folder, checkpoint folder or model.
        split: with images.
        name: in the tables; the method's name by default.
        console: where progress goes.
    """
    model = run if isinstance(run, Model) else load(run)
    evaluation, scores = evaluate_model(model, split, console=console)
    folder = None if isinstance(run, Model) or not (Path(run) / "config.yaml").is_file() else Path(run)
    return ReportRun(name or PLAIN_NAMES.get(model.method.name, model.method.name), model, evaluation, scores, folder)


def write_report(
    path: Path | str,
    *,
    runs: Sequence[ReportRun],
    split: Split,
    title: str = "",
    summary: str = "",
    commands: Sequence[str] = (),
    examples: int = 3,
) -> Path:
    """Write the report.

    Args:
        path: the HTML file; its folder is made.
        runs: evaluated on ``split``, in the order of the tables; the searches and lit words are those of the last one.
        split: with captions; pictures and boxes where known.
        title: of the page; made from the data set by default.
        summary: one paragraph in plain words; made from the numbers by default.
        commands: how to make the report again; by default, how to evaluate each run again.
        examples: searches in each group.

    Returns:
        ``path``.

    Raises:
        ConfigError: there is no run, or a run was evaluated on another split.
    """
    _check(runs, split)
    pictures, main = Thumbnails(split.files), runs[-1]
    chosen = choose_examples(main.scores, split.owner, each=examples)
    parts = [
        ("results", "Results", _results(runs)),
        ("training", "Training", _training(runs)),
        ("searches", "Searches", _searches(main, split, chosen, pictures)),
        ("words", "Words lit on regions", _lit(main, split, chosen, pictures)),
        ("ties", "Ties and warnings", _notes(runs, split, pictures)),
        ("again", "How to make it again", _again(runs, split, commands)),
    ]
    heading = title or f"{' and '.join(run.name for run in runs)} on {split.dataset}/{split.name}"
    links = "".join(text("a", name, href=f"#{anchor}") for anchor, name, _ in parts)
    body = tag(
        "header",
        text("p", "patchword report", class_="over")
        + text("h1", heading)
        + text("p", summary or _summary(runs), class_="lead")
        + _tiles(runs)
        + tag("nav", links, aria_label="sections"),
    )
    body += "".join(section(anchor, name, content) for anchor, name, content in parts)
    body += text(
        "footer", f"Made by patchword {patchword.__version__}. One file; nothing in it is loaded from elsewhere."
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(page(heading, body), encoding="utf-8")
    fresh.replace(path)
    return path


def _check(runs: Sequence[ReportRun], split: Split) -> None:
    """Refuse what can not be reported together."""
    if not runs:
        raise ConfigError("a report of no runs. Give at least one evaluated run.")
    for run in runs:
        if tuple(run.scores.shape) != (split.n_images, split.n_captions):
            raise ConfigError(
                f"{run.name} has scores of shape {tuple(run.scores.shape)}, but {split.dataset}/{split.name} has "
                f"{split.n_images} images and {split.n_captions} captions. Evaluate it on this split."
            )


def _summary(runs: Sequence[ReportRun]) -> str:
    """The result in plain words."""
    main, rest = runs[-1], runs[:-1]
    found, random = main.evaluation.headline, main.evaluation.chance
    sentences = [
        f"Given a sentence, {main.name} puts the right picture first among {main.evaluation.n_images:,} in "
        f"{found.t2i.r1:.1f}% of cases; given a picture, one of its own sentences comes first among "
        f"{main.evaluation.n_captions:,} in {found.i2t.r1:.1f}%."
    ]
    for run in rest:
        other = run.evaluation.headline
        sentences.append(
            f"For {run.name} the two numbers are {other.t2i.r1:.1f}% and {other.i2t.r1:.1f}%, so {main.name} is "
            f"{abs(found.rsum - other.rsum):.0f} points {'ahead' if found.rsum >= other.rsum else 'behind'} in the sum "
            "of the six recalls (rsum)."
        )
    sentences.append(f"Guessing would give {random.t2i.r1:.1f}% and {random.i2t.r1:.1f}%.")
    return " ".join(sentences)


def _tiles(runs: Sequence[ReportRun]) -> str:
    """Three large numbers of the last run, each beside the others'."""
    main = runs[-1]
    kinds: list[tuple[str, Callable[[RecallTable], float], str]] = [
        ("right picture first, for a sentence", lambda t: t.t2i.r1, "%"),
        ("right sentence first, for a picture", lambda t: t.i2t.r1, "%"),
        ("rsum, of 600", lambda t: t.rsum, ""),
    ]
    shown = []
    for name, number, unit in kinds:
        beside = [f"{run.name} {number(run.evaluation.headline):.1f}{unit}" for run in runs[:-1]]
        beside.append(f"chance {number(main.evaluation.chance):.1f}{unit}")
        value = f"{number(main.evaluation.headline):.1f}{unit}"
        shown.append(tag("div", text("b", value) + text("span", name) + text("span", ", ".join(beside)), class_="card"))
    return tag("div", "".join(shown), class_="tiles")


def _results(runs: Sequence[ReportRun]) -> str:
    """The table of recalls, with everything needed to judge it."""
    main = runs[-1].evaluation
    rows = [_row("chance", main.chance), *(_row(run.name, run.evaluation.headline) for run in runs)]
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


def _row(name: str, recall: RecallTable) -> list[str]:
    cells = [name]
    for part in (recall.i2t, recall.t2i):
        cells += [f"{value:.1f}" for value in (part.r1, part.r5, part.r10)]
        cells.append("–" if part.medr is None else f"{part.medr:g}")
    return [*cells, f"{recall.rsum:.1f}"]


def _selection(run: ReportRun) -> str:
    chosen, epoch = run.evaluation.provenance.selected_on, run.model.about.get("epoch")
    when = f"epoch {epoch}" if epoch else "epoch unknown"
    return f"({when}, chosen by rsum on {chosen})" if chosen else f"({when}, not chosen on any split that is known)"


def _training(runs: Sequence[ReportRun]) -> str:
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
    rows.append(["parameters", *(f"{sum(p.numel() for p in run.model.method.parameters()):,}" for run, _ in logs)])
    rows.append(["first to last log line", *(f"{log.span_s:,.0f} s" if log.span_s else "–" for _, log in logs)])
    return table(["", *(run.name for run, _ in logs)], rows, is_narrow=True)


def _searches(main: ReportRun, split: Split, chosen: Examples, pictures: Thumbnails) -> str:
    """Best, nearly right and worst searches."""
    lines = [
        f"{main.name} answers sentences with pictures: the right one on the left, the first five of "
        f"{split.n_images:,} beside it. Chosen by rank and score alone, at most one caption of an image in a group."
    ]
    if split.files is None:
        lines.append("This data set has no pictures on disk, so image ids are shown in their place.")
    body = [text("p", line) for line in lines]
    body.append(text("h3", "The clearest hits"))
    body += [
        _search(split, one, pictures, f"Ahead of the best wrong picture by {one.lead:.3f}.") for one in chosen.best
    ]
    body.append(text("h3", "Near misses: a twin wins"))
    for twin in chosen.twins:
        winner = twin.found.top[0]
        note = (
            f"The right picture came second, {-twin.found.lead:.4f} behind. Over all {split.n_captions:,} captions the "
            f"scores of the two pictures correlate {twin.likeness:.2f}"
            + (": near twins to the model." if twin.likeness >= TWINS_FROM else ".")
        )
        pair = [light_words(main.model, split, image, twin.found.caption) for image in (twin.found.right, winner)]
        body.append(_search(split, twin.found, pictures, note, why_wrong(*pair)))
    body.append(text("h3", "The worst misses"))
    body += [
        _search(split, one, pictures, f"The right picture came in place {one.rank:,} of {split.n_images:,}.")
        for one in chosen.worst
    ]
    for group, name in ((chosen.best, "hit"), (chosen.twins, "near miss"), (chosen.worst, "miss")):
        if not group:
            body.append(text("p", f"There is no {name} in this split.", class_="note"))
    return "".join(body)


def _search(split: Split, found: Found, pictures: Thumbnails, note: str, more: str = "") -> str:
    """One search as a card."""
    own = picture_tile(
        pictures.get(found.right),
        split.image_ids[found.right],
        f"✓ right picture\nplace {found.rank:,} · {found.right_score:.3f}",
        kind="right",
    )
    hits = "".join(
        picture_tile(
            pictures.get(image),
            split.image_ids[image],
            f"{place} · {score:.3f}" + (" ✓" if image == found.right else ""),
            kind="right" if image == found.right else "",
        )
        for place, (image, score) in enumerate(zip(found.top, found.scores, strict=True), start=1)
    )
    quote = tag("blockquote", f"“{escape(split.captions[found.caption])}”")
    grid = tag("div", own + tag("div", hits, class_="hits"), class_="found")
    return tag("article", quote + text("p", note, class_="soft") + grid + more, class_="card query")


def _lit(main: ReportRun, split: Split, chosen: Examples, pictures: Thumbnails) -> str:
    """Captions whose words are coloured by their part of the score, with the boxes they chose."""
    shown = [(one, light_words(main.model, split, one.right, one.caption)) for one in chosen.lit]
    lines = [
        f"The score of {main.name} is a sum of parts, one for every word and region. Under each word is what it adds; "
        "the darker, the more. Words with a number lie in the colour of the box that gave them most."
    ]
    if any(alignment.boxes is None for _, alignment in shown):
        lines.append("Boxes of the regions are not known here, so words are lit without them.")
    if split.files is None:
        lines.append("There are no pictures on disk; boxes are drawn on an empty ground.")
    cards = [
        lit_pair(alignment, pictures.get(one.right), f"{split.image_ids[one.right]}, found in place {one.rank:,}")
        for one, alignment in shown
    ]
    return "".join(text("p", line) for line in lines) + "".join(cards)


def _notes(runs: Sequence[ReportRun], split: Split, pictures: Thumbnails) -> str:
    """What a reader must know before comparing the numbers."""
    items = []
    for run in runs:
        recall, one = run.evaluation.recall, run.evaluation
        items.append(
            f"{run.name}: {recall.tied_i2t:,} of {one.n_images:,} image queries and {recall.tied_t2i:,} of "
            f"{one.n_captions:,} caption queries tie with a wrong answer; rsum {one.headline.rsum:.1f} with ties lost, "
            f"{recall.optimistic.rsum:.1f} with ties won. Scores compared as {one.dtype}."
        )
        items += [f"{run.name}, warning: {warning}." for warning in one.warnings]
    items += [f"Data: {note}." for note in split.notes]
    items += [f"Picture left out: {problem}" for problem in pictures.problems.values()]
    if not any(run.evaluation.warnings for run in runs):
        items.append("No warnings.")
    return bullets(items)


def _again(runs: Sequence[ReportRun], split: Split, commands: Sequence[str]) -> str:
    """Commands and versions."""
    lines = list(commands) or [
        f"patchword evaluate {run.folder or run.model.path or 'RUN'} --data DIR --split {split.name}" for run in runs
    ]
    made: dict[str, str] = next((run.settings["made_with"] for run in runs if "made_with" in run.settings), {})
    versions = ", ".join(f"{name} {version}" for name, version in made.items())
    said = f"Trained with {versions}." if versions else ""
    return tag("pre", escape("\n".join(lines))) + (text("p", said, class_="note") if said else "")
