"""Verbs that compare what was evaluated: runs, score files, golden cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from patchword.errors import ConfigError
from patchword.verbs.options import (
    Device,
    Directory,
    File,
    Flag,
    Fusion,
    OptionalCount,
    OptionalText,
    ProtocolName,
    Strings,
    Weights,
    device_of,
)
from patchword.verbs.output import say, say_json, show, wrote
from patchword.verbs.processes import speaks, together
from patchword.verbs.sizes import OptionalSize, bytes_of
from patchword.verbs.warned import warn


def compare(
    runs: Strings,
    data: Directory = None,
    split: str = "test",
    name: OptionalText = None,
    protocol: ProtocolName = "auto",
    most: Annotated[int, arg(metavar="N")] = 10,
    limit: OptionalCount = None,
    device: Device = "auto",
    memory: OptionalSize = None,
    resume: Directory = None,
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
        device: auto, cpu or cuda:0.
        memory: of scoring, beside vectors and scores: 2GiB.
        resume: keep finished parts there, and go on from them.
        html: also write a report that is read offline.
        json: print JSON.
    """
    from patchword.evaluate.compare import compare_members
    from patchword.evaluate.members import is_score_file, open_members
    from patchword.evaluate.setting import Setting
    from patchword.report.rows import report_row
    from patchword.report.write import write_report
    from patchword.scoring.matrix import MEMORY

    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run was given. Comparing needs two or more runs or score files.")
    if html is not None and data is None:
        raise ConfigError("--html shows captions and pictures, which a score file does not hold. Add --data DIR.")
    for option, given in (("memory", memory), ("resume", resume)):
        if given is not None and all(is_score_file(run) for run in runs):
            raise ConfigError(f"--{option} does not go with saved scores: nothing is scored. Leave one of them out.")

    def work() -> int:
        console = Console(stderr=True, quiet=not speaks())
        space = MEMORY if memory is None else bytes_of(memory)
        setting = Setting(
            split=split,
            name=name,
            limit=limit,
            device=device_of(device),
            memory=space,
            resume=resume,
            console=console,
        )
        members = open_members([Path(run) for run in runs], data, setting)
        if not speaks():
            return 0
        found = compare_members(members, protocol=protocol, most=most)
        opened = next((member.split for member in members if member.split is not None), None)
        if html is not None and opened is not None:
            rows = [report_row(member, one) for member, one in zip(members, found.evaluations, strict=True)]
            write_report(html, runs=rows, split=opened)
        named = zip(found.names, found.evaluations, strict=True)
        warn([f"{run}: {text}" for run, one in named for text in one.warnings], json=json)
        show(found.to_json(), found.table(), json=json)
        return wrote(html)

    return together(work)


def ensemble(
    scores: Strings,
    fusion: Fusion = "mean",
    weights: Weights = (),
    protocol: ProtocolName = "auto",
    save_scores: File = None,
    json: Flag = False,
) -> int:
    """Join score matrices of the same images and captions, and evaluate the result.

    Args:
        scores: two or more saved matrices.
        fusion: mean of the raw scores (as the papers do), zscore or (reciprocal) rank.
        weights: one per matrix.
        protocol: as for evaluate.
        save_scores: save the joined matrix (.safetensors).
        json: print JSON.
    """
    from patchword.evaluate.ensemble import ensemble as join
    from patchword.evaluate.result import evaluate_scores
    from patchword.evaluate.scores_file import load_together, write_scores

    if len(scores) < 2:
        raise ConfigError(f"an ensemble of {len(scores)} matrices. Give two or more files.")
    members = load_together(scores)
    joined = join(members, fusion, list(weights) or None)
    if save_scores is not None:
        write_scores(save_scores, joined)
    results = [evaluate_scores(one, protocol=protocol) for one in (*members, joined)]
    warn(results[-1].warnings, json=json)
    if json:
        say_json({"members": [r.to_json() for r in results[:-1]], "ensemble": results[-1].to_json()})
        return wrote(save_scores)
    for path, result in zip(scores, results[:-1], strict=True):
        say(f"{path}: rsum {result.headline.rsum:.1f}")
    say(f"\nensemble ({fusion}) of {len(members)}:\n{results[-1].table()}")
    return wrote(save_scores)


def parity(folders: Strings, json: bool = False, verbose: bool = False) -> int:
    """Run golden cases: every quantity with its largest difference and its tolerance. Exit code 1 on any miss.

    Args:
        folders: folders with NAME.json (and NAME.safetensors), or single cases.
        json: print JSON.
        verbose: print every quantity, not only the misses.
    """
    from patchword.parity.run import parity as run_cases
    from patchword.parity.run import report

    ledgers = run_cases([Path(folder) for folder in folders])
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
