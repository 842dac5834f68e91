"""A report of runs on a split: one HTML file, nothing beside it, with numbers, curves, searches and lit words.

It works for any method and any data set: pictures are shown where ``Split.files`` knows them, boxes where
``Split.boxes`` does, and what is missing is said in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import patchword
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.benchmark import Benchmark, Table
from patchword.evaluate.recall import RecallTable
from patchword.files import write_whole
from patchword.html.page import bullets, page, section, table, tag, text
from patchword.html.thumbnails import Thumbnails
from patchword.report.examples import choose_examples
from patchword.report.picture_examples import choose_pictures
from patchword.report.rows import ReportRun
from patchword.report.searches import pictures_section, searches_section, words_section
from patchword.report.sections import (
    again_section,
    negatives_section,
    notes_section,
    results_section,
    training_section,
)
from patchword.report.statistics import certainty_section, slices_section


def write_report(
    path: Path | str,
    *,
    runs: Sequence[ReportRun],
    split: Split,
    title: str = "",
    summary: str = "",
    commands: Sequence[str] = (),
    examples: int = 3,
    negatives: Table | None = None,
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
        negatives: how often each run preferred a caption to the same made false, see ``choices.captions_beside``.

    Returns:
        ``path``.

    Raises:
        ConfigError: there is no run, or a run was evaluated on another split.
    """
    _check(runs, split)
    pictures, main = Thumbnails(split.files), runs[-1]
    chosen = choose_examples(main.scores, split.owner, each=examples)
    asking = choose_pictures(main.scores, split.owner, each=examples)
    parts = [
        ("results", "Results", results_section(runs)),
        *([("negatives", "One word made false", negatives_section(negatives))] if negatives else []),
        ("certainty", "How sure the numbers are", certainty_section(runs, split)),
        ("training", "Training", training_section(runs)),
        ("searches", "Pictures for sentences", searches_section(main, split, chosen, pictures)),
        ("sentences", "Sentences for pictures", pictures_section(main, split, asking, pictures)),
        ("words", "Words lit on regions", words_section(main, split, chosen, pictures)),
        ("slices", "Parts of the queries", slices_section(main, split)),
        ("ties", "Ties and warnings", notes_section(runs, split, pictures)),
        ("again", "How to make it again", again_section(runs, split, commands)),
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
    return _write(Path(path), heading, body)


def _write(path: Path, heading: str, body: str) -> Path:
    """A whole page with its footer, complete or not at all."""
    body += text(
        "footer", f"Made by patchword {patchword.__version__}. One file; nothing in it is loaded from elsewhere."
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(heading, body))
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


def write_benchmark(path: Path | str, found: Benchmark) -> Path:
    """Write what a benchmark found as one HTML file.

    Args:
        path: the HTML file; its folder is made.
        found: tables, warnings and choices.
    """
    parts = [("results", "Results", "".join(table(head, rows) for head, rows in found.tables))]
    if found.warnings:
        parts.append(("warnings", "Warnings", bullets([f"{text}." for text in found.warnings])))
    parts.append(("choices", "Choices", bullets([f"{text}." for text in found.notes])))
    body = tag(
        "header",
        text("p", "patchword report", class_="over")
        + text("h1", f"{found.name}: {found.title}")
        + (text("p", found.model, class_="lead") if found.model else ""),
    )
    body += "".join(section(anchor, name, content) for anchor, name, content in parts)
    return _write(Path(path), found.name, body)
