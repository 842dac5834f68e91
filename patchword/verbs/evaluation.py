"""Verbs that end with a number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.options import OptionalCount, OptionalPath, OptionalText, Strings
from patchword.verbs.output import say, say_json

if TYPE_CHECKING:
    from patchword.data.table import Split

# Options that are left out by default: one line of help each.
Directory = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
How = Annotated[Literal["mean", "zscore", "rank"], arg(metavar="HOW", help_behavior_hint="")]


def evaluate(
    run: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN ...", help_behavior_hint="")]] = (),
    data: Directory = None,
    split: str = "test",
    name: OptionalText = None,
    protocol: Annotated[str, arg(metavar="P", help_behavior_hint="")] = "auto",
    scores: File = None,
    how: How = "mean",
    weights: Annotated[tuple[float, ...], arg(metavar="W", help_behavior_hint="")] = (),
    seeds: Flag = False,
    banks: OptionalCount = None,
    annotations: OptionalPath = None,
    caption_ids: File = None,
    intra: Annotated[Literal["auto", "dot", "score", "pooled"], arg(metavar="HOW", help_behavior_hint="")] = "auto",
    save_scores: File = None,
    per_query: File = None,
    html: File = None,
    slices: Flag = False,
    compat_fold_adjacency: Flag = False,
    limit: OptionalCount = None,
    json: Flag = False,
) -> int:
    """Evaluate a run or checkpoint on a split, or a saved score matrix; several of them as an ensemble.

    Args:
        run: run or checkpoint folder; several are fused.
        data: data folder.
        split: split of it.
        name: data set name, when the folder does not say it.
        protocol: auto, coco-5k, coco-1k-5fold, cxc ... (docs/evaluate.md)
        scores: a saved matrix instead (.safetensors or .npy).
        how: several are fused by their mean, zscore or rank.
        weights: one for each of several.
        seeds: several runs of one recipe: mean and deviation.
        banks: mean and deviation over N random parts (SCTA).
        annotations: files of cxc, eccv, sugarcrepe, rococo ...
        caption_ids: COCO number of every caption (cxc, eccv).
        intra: auto, dot, score or pooled, between two captions (cxc).
        save_scores: also save the matrix (.safetensors).
        per_query: also write every query's rank (.jsonl).
        html: also write a report that is read offline.
        slices: also show recall over parts of the queries.
        compat_fold_adjacency: the authors' 5-fold mistake (CEFG).
        limit: only the first images.
        json: print JSON.
    """
    from patchword.evaluate.benchmarks import BENCHMARKS
    from patchword.evaluate.members import is_score_file

    if run and scores is not None:
        raise ConfigError(f"'{run[0]}' and --scores '{scores}' were given. Evaluate a run or a saved matrix, not both.")
    sources = [scores] if scores is not None else list(run)
    if not sources or (data is None and not all(is_score_file(source) for source in sources)):
        raise ConfigError(
            "nothing to evaluate. Give a run and its data (patchword evaluate RUN --data DIR), or --scores FILE."
        )
    console = Console(stderr=True)
    extra = {"--save-scores": save_scores, "--per-query": per_query, "--slices": slices or None}
    if protocol in BENCHMARKS:
        from patchword.evaluate.benchmarks import evaluate_benchmark
        from patchword.evaluate.report import write_benchmark

        _refuse(f"--protocol {protocol}", {**extra, "--seeds": seeds or None, "--banks": banks})
        found = evaluate_benchmark(
            protocol, sources, data, annotations=annotations, split=split, dataset=name, limit=limit,
            caption_ids=caption_ids, intra=intra, how=how, weights=list(weights) or None, console=console,
        )  # fmt: skip
        if html is not None:
            write_benchmark(html, found)
        return _show(found.to_json(), found.table(), json)
    _refuse("a named protocol", {"--annotations": annotations, "--caption-ids": caption_ids})
    if seeds:
        from patchword.evaluate.repeats import evaluate_seeds

        _refuse("--seeds", {**extra, "--html": html, "--banks": banks, "--weights": weights or None})
        report = evaluate_seeds(sources, data, split=split, name=name, protocol=protocol, limit=limit, console=console)
        return _show(report.to_json(), report.table(), json)
    if banks is not None:
        from patchword.evaluate.repeats import evaluate_banks_of

        _refuse("--banks", {**extra, "--html": html})
        if len(sources) != 1 or is_score_file(sources[0]) or data is None:
            raise ConfigError("--banks needs one run and its data: patchword evaluate RUN --data DIR --banks 5.")
        spread = evaluate_banks_of(sources[0], data, banks, split=split, name=name, protocol=protocol, limit=limit)
        return _show(spread.to_json(), spread.text(), json)
    place: Path | Split | None = data
    if compat_fold_adjacency and data is not None:
        from patchword.data.adjacency import compat_fold_adjacency as as_in_authors_folds
        from patchword.data.open import open_split

        place = as_in_authors_folds(open_split(data, split, name=name, images="features", limit=limit))
    return _evaluate_members(
        sources, place, split, name, protocol, how, weights, save_scores, per_query, html, slices, limit, json, console
    )


def _evaluate_members(
    sources: list[Path],
    data: Path | Split | None,
    split: str,
    name: str | None,
    protocol: str,
    how: str,
    weights: tuple[float, ...],
    save_scores: Path | None,
    per_query: Path | None,
    html: Path | None,
    slices: bool,
    limit: int | None,
    json: bool,
    console: Console,
) -> int:
    """One run or matrix, or the ensemble of several, under a named protocol."""
    from patchword.evaluate.members import join_members, open_members
    from patchword.evaluate.queries import write_queries
    from patchword.evaluate.scores_file import write_scores
    from patchword.evaluate.slices import objects_of, slice_queries, slices_table

    if html is not None and data is None:
        raise ConfigError("--html shows captions and pictures, which a score file does not hold. Add --data DIR.")
    if weights and len(sources) < 2:
        raise ConfigError(f"--weights {' '.join(map(str, weights))} for one run. Weights are for several.")
    members = open_members(sources, data, split=split, name=name, limit=limit, console=console)
    one = members[0] if len(members) == 1 else join_members(members, how, list(weights) or None)
    result = one.evaluate(protocol)
    each = [member.evaluate(protocol) for member in members] if len(members) > 1 else []
    if save_scores is not None:
        write_scores(save_scores, one.saved)
    captions = None if one.split is None else one.split.captions
    if per_query is not None:
        write_queries(per_query, one.saved.scores, result.queries, image_ids=one.saved.image_ids, captions=captions)
    parts = (
        slice_queries(result.queries, captions, objects=None if one.split is None else objects_of(one.split))
        if slices
        else ()
    )
    if html is not None and one.split is not None:
        from patchword.evaluate.report import report_row, write_report

        rows = [report_row(member, found) for member, found in zip(members, each, strict=False)]
        write_report(html, runs=[*rows, report_row(one, result)], split=one.split)
    if json:
        members_json = {"members": [found.to_json() for found in each]} if each else {}
        slices_json = {"slices": [part.to_json() for part in parts]} if slices else {}
        say_json({**result.to_json(), **members_json, **slices_json})
        return 0
    for member, found in zip(members, each, strict=False):
        say(f"{member.name}: rsum {found.headline.rsum:.1f}")
    if each:
        say(f"\nensemble ({how}) of {len(members)}:")
    say(result.table())
    if slices:
        say(f"\n{slices_table(parts) or 'all queries are of one kind'}")
    return 0


def _refuse(beside: str, options: dict[str, object]) -> None:
    """Refuse options that say nothing here, rather than ignore them."""
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} does not go with {beside}. Leave one of them out.")


def _show(numbers: dict[str, Any], table: str, json: bool) -> int:
    """Print a result in the form asked for."""
    if json:
        say_json(numbers)
    else:
        say(table)
    return 0


def compare(
    runs: Strings,
    data: Directory = None,
    split: str = "test",
    name: OptionalText = None,
    protocol: Annotated[str, arg(metavar="P", help_behavior_hint="")] = "auto",
    most: Annotated[int, arg(metavar="N")] = 10,
    limit: OptionalCount = None,
    html: File = None,
    json: Flag = False,
) -> int:
    """Runs side by side: numbers, whether they differ by more than chance, and where they differ most.

    Args:
        runs: run folders or score files; the first is the baseline.
        data: data folder.
        split: split of it.
        name: data set name, when the folder does not say it.
        protocol: as for evaluate.
        most: queries listed for each direction.
        limit: only the first images.
        html: also write a report that is read offline.
        json: print JSON.
    """
    from patchword.evaluate.compare import compare_members
    from patchword.evaluate.members import open_members
    from patchword.evaluate.report import report_row, write_report

    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run was given. Comparing needs two or more runs or score files.")
    if html is not None and data is None:
        raise ConfigError("--html shows captions and pictures, which a score file does not hold. Add --data DIR.")
    members = open_members(
        [Path(run) for run in runs], data, split=split, name=name, limit=limit, console=Console(stderr=True)
    )
    found = compare_members(members, protocol=protocol, most=most)
    opened = next((member.split for member in members if member.split is not None), None)
    if html is not None and opened is not None:
        rows = [report_row(member, one) for member, one in zip(members, found.evaluations, strict=True)]
        write_report(html, runs=rows, split=opened)
    return _show(found.to_json(), found.table(), json)


def ensemble(
    scores: Strings,
    how: How = "mean",
    weights: Annotated[tuple[float, ...], arg(metavar="W", help_behavior_hint="")] = (),
    protocol: Annotated[str, arg(metavar="P", help_behavior_hint="")] = "auto",
    save_scores: File = None,
    json: Flag = False,
) -> int:
    """Join score matrices of the same images and captions, and evaluate the result.

    Args:
        scores: two or more saved matrices.
        how: mean of the raw scores (as the papers do), zscore or (reciprocal) rank.
        weights: one per matrix.
        protocol: as for evaluate.
        save_scores: save the joined matrix (.safetensors).
        json: print JSON.
    """
    from patchword.evaluate.ensemble import ensemble as join
    from patchword.evaluate.result import evaluate_scores
    from patchword.evaluate.scores_file import load_scores, write_scores

    if len(scores) < 2:
        raise ConfigError(f"an ensemble of {len(scores)} matrices. Give two or more files.")
    members = [load_scores(path) for path in scores]
    joined = join(members, how, list(weights) or None)
    if save_scores is not None:
        write_scores(save_scores, joined)
    results = [evaluate_scores(one, protocol=protocol) for one in (*members, joined)]
    if json:
        say_json({"members": [r.to_json() for r in results[:-1]], "ensemble": results[-1].to_json()})
        return 0
    for path, result in zip(scores, results[:-1], strict=True):
        say(f"{path}: rsum {result.headline.rsum:.1f}")
    say(f"\nensemble ({how}) of {len(members)}:\n{results[-1].table()}")
    return 0


def parity(folders: Strings, json: bool = False, verbose: bool = False) -> int:
    """Run golden cases: every quantity with its largest difference and its tolerance. Exit code 1 on any miss.

    Args:
        folders: folders with NAME.json (and NAME.safetensors), or single cases.
        json: print JSON.
        verbose: print every quantity, not only the misses.
    """
    from patchword.parity.cases import find_cases
    from patchword.parity.run import compare_path, report

    ledgers = [compare_path(path) for path in find_cases([Path(f) for f in folders])]
    passed = all(ledger.passed for ledger in ledgers)
    if json:
        say_json({"passed": passed, "cases": report(ledgers)})
        return 0 if passed else 1
    for ledger in ledgers:
        state = "passed" if ledger.passed else ("FAILED" if ledger.rows else "NOT COMPARED")
        say(f"{ledger.case.name}: {state}, {len(ledger.rows)} quantities compared")
        for row in ledger.rows:
            if verbose or not row.passed:
                mark = "ok  " if row.passed else "MISS"
                say(f"  {mark} {row.name}  abs {row.max_abs:.2e}  rel {row.max_rel:.2e}  ({row.tolerance}) {row.note}")
        for left in ledger.not_compared:
            say(f"  not compared: {left}")
    say(f"{sum(ledger.passed for ledger in ledgers)} of {len(ledgers)} cases passed")
    return 0 if passed else 1
