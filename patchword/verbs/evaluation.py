"""Verbs that end with a number."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

from patchword.errors import ConfigError
from patchword.verbs.output import Strings, json_line, say, say_json


def evaluate(
    run: Positional[Path | None] = None,
    data: Path | None = None,
    split: str = "test",
    name: str | None = None,
    protocol: str = "auto",
    scores: Path | None = None,
    save_scores: Path | None = None,
    limit: int | None = None,
    json: bool = False,
) -> int:
    """Evaluate a run or checkpoint on a split, or a saved score matrix.

    Args:
        run: run folder or checkpoint folder.
        data: data folder.
        split: split of it.
        name: data set name, when the folder does not say it.
        protocol: auto, generic, f30k-1k, coco-5k, coco-1k-5fold, flickr8k-1k.
        scores: evaluate this saved matrix instead (.safetensors of ours, or .npy).
        save_scores: also save the score matrix (.safetensors).
        limit: only the first images.
        json: print JSON.
    """
    from patchword.evaluate.result import evaluate_scores
    from patchword.evaluate.run import evaluate as run_evaluation
    from patchword.evaluate.scores_file import load_scores

    if run is not None and scores is not None:
        raise ConfigError(f"'{run}' and --scores '{scores}' were given. Evaluate a run or a saved matrix, not both.")
    if scores is not None:
        opened = None
        if data is not None:
            from patchword.data.open import open_split

            opened = open_split(data, split, name=name, limit=limit)
        result = evaluate_scores(load_scores(scores), opened, protocol=protocol)
    elif run is None or data is None:
        raise ConfigError(
            "nothing to evaluate. Give a run and its data (patchword evaluate RUN --data DIR), or --scores FILE."
        )
    else:
        result = run_evaluation(
            run,
            data,
            split=split,
            name=name,
            protocol=protocol,
            save_to=save_scores,
            limit=limit,
            console=Console(stderr=True),
        )
    if json:
        say_json(result.to_json())
    else:
        say(result.table())
    return 0


def ensemble(
    scores: Strings,
    how: Literal["mean", "zscore", "rank"] = "mean",
    weights: tuple[float, ...] = (),
    protocol: str = "auto",
    save_scores: Path | None = None,
    json: bool = False,
) -> int:
    """Join score matrices of the same images and captions, and evaluate the result.

    Args:
        scores: two or more saved matrices.
        how: mean of the raw scores (as the papers do), of their z-scores, or of reciprocal ranks.
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


def bench(
    what: Positional[Literal["score", "train", "load"]],
    method: str = "chan",
    images: int = 256,
    captions: int = 1280,
    gigabytes: float = 2.0,
    batch: int = 128,
    steps: int = 5,
) -> int:
    """Measure, with a matrix product beside the work; prints one JSON object per line.

    Args:
        what: score (pairs/s), train (pairs/s) or load (images/s and memory over a sparse feature file).
        method: vse_inf or chan.
        images: images to score.
        captions: captions to score.
        gigabytes: size of the feature file for load.
        batch: pairs per training step, or images per read.
        steps: timed repetitions.
    """
    from patchword.bench import bench_load, bench_score, bench_train

    if what == "score":
        lines = bench_score(method, images=images, captions=captions, steps=steps)
    elif what == "train":
        lines = bench_train(method, batch=batch, steps=steps)
    else:
        lines = bench_load(gigabytes=gigabytes, batch=batch)
    for one in lines:
        say(json_line(one))
    return 0
