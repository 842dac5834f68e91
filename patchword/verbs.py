"""The verbs of the command line: parse, call the public function of the same name, print. No work is done here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rich.console import Console
from tyro.conf import Positional, Suppress, arg

from patchword.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
Strings = Positional[tuple[str, ...]]


def takes_overrides(function: F) -> F:
    """Mark a verb that accepts dotted options (``--train.lr 1e-4``) beside its own."""
    function.takes_overrides = True  # type: ignore[attr-defined]
    return function


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Print a result as JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Print something beside the result."""
    sys.stderr.write(text + "\n")


def demo(
    out: Path = Path("runs/demo"), epochs: int = 6, images: int = 900, seed: int = 0, pictures: bool = True
) -> int:
    """Make data, train CHAN and VSE-infinity, evaluate, write the report, answer three queries.

    Args:
        out: everything is written here; what is finished is reused, what was interrupted goes on.
        epochs: of each of the two trainings.
        images: training images to draw.
        seed: of the data and the trainings.
        pictures: also draw the pictures; without them the report shows ids.
    """
    from patchword.demo import run_demo
    from patchword.train.loop import Interrupted

    try:
        run_demo(out, epochs=epochs, images=images, seed=seed, pictures=pictures, console=Console())
    except Interrupted:
        note("stopped and saved. The same command goes on from here.")
        return 130
    return 0


def scenes(folder: Positional[Path], train: int = 2000, dev: int = 250, test: int = 500, seed: int = 0) -> int:
    """Write the generated scenes data set in the layouts of real data.

    Args:
        folder: where to.
        train: training images.
        dev: development images.
        test: test images.
        seed: of everything drawn.
    """
    from patchword.data.scenes import write_scenes

    write_scenes(folder, train=train, dev=dev, test=test, seed=seed)
    say(f"wrote {train + dev + test:,} scenes to '{folder}'. Next: patchword train chan_scenes --data.root {folder}")
    return 0


def doctor(
    what: Positional[Literal["data", "recipe"]], path: Positional[Path], name: str | None = None, json: bool = False
) -> int:
    """Check a data folder or a recipe file.

    Args:
        what: ``data`` or ``recipe``.
        path: the folder or file.
        name: known data set to compare with: f30k, coco, flickr8k.
        json: print JSON.
    """
    if what == "data":
        from patchword.data.doctor import check_data

        report = check_data(path, name=name)
        say(report.to_json() if json else "\n".join(report.lines()))
        return 0 if report.usable else 2
    from patchword.recipe import load_recipe, to_yaml

    recipe = load_recipe(path)
    if json:
        say_json(recipe.dump())
    else:
        say(f"'{path}' is a valid recipe of {recipe.method}. With all defaults:\n\n{to_yaml(recipe.dump())}")
    return 0


@takes_overrides
def train(
    recipe: Positional[str], out: Path | None = None, json: bool = False, overrides: Suppress[tuple[str, ...]] = ()
) -> int:
    """Train a recipe. Any setting of it can be changed with a dotted option, such as --train.lr 1e-4.

    Args:
        recipe: file or name (see recipes/).
        out: run folder; runs/NAME by default. An unfinished run there is resumed.
        json: print the outcome as JSON.
        overrides: dotted options.
    """
    from patchword.train.distributed import world
    from patchword.train.loop import Interrupted
    from patchword.train.run import train as run_training

    console = Console(stderr=json, soft_wrap=True, markup=False)
    try:
        result = run_training(recipe, out, overrides=list(overrides), console=console)
    except Interrupted:
        if world()[0] == 0:
            note("stopped and saved. The same command goes on from here.")
        return 130
    place = result.position
    if world()[0] > 0:  # one of several processes speaks
        return 0
    if json:
        say_json({"run": str(result.run), **asdict(place), "peak_memory_gib": result.peak_memory_gib})
    else:
        chosen = f"best epoch {place.best_epoch + 1}, rsum {place.best_rsum:.1f}"
        if place.best_rsum < 0:
            chosen = f"last epoch {place.epoch}, not selected"
        say(f"{chosen}, in '{result.run}/best'. Next: patchword evaluate {result.run} --data DIR")
    return 0


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


def search(
    run: Positional[Path],
    query: Strings = (),
    *,
    data: Path,
    split: str = "test",
    name: str | None = None,
    image: str | None = None,
    k: Annotated[int, arg(aliases=["-k"])] = 5,
    json: bool = False,
) -> int:
    """Search a split exactly: sentences find images, an image finds captions.

    Args:
        run: run folder or checkpoint folder.
        query: one or more sentences.
        data: data folder.
        split: split to search.
        name: data set name, when the folder does not say it.
        image: id or file of an image, to find captions for.
        k: results for each query.
        json: print JSON.
    """
    from patchword.search import search as run_search

    if not query and image is None:
        raise ConfigError("nothing to search for. Give a sentence, or --image ID.")
    if k < 1:
        raise ConfigError(f"`k` is {k}. Expected 1 or more.")
    found = run_search(run, list(query), data=data, split=split, name=name, image=image, k=k)
    if json:
        say_json({q: [asdict(hit) for hit in hits] for q, hits in found.items()})
        return 0
    for q, hits in found.items():
        say(f"{q}")
        for hit in hits:
            what = hit.caption if hit.caption is not None else (hit.file or hit.image_id)
            say(f"  {hit.rank:>2}  {hit.score:8.4f}  {what}")
    return 0


def import_(
    method: Positional[str],
    file: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])],
    vocab: Path | None = None,
    bert: Path | None = None,
    json: bool = False,
) -> int:
    """Import an authors' checkpoint. Nothing pickled in it is run.

    Args:
        method: vse_inf or chan.
        file: model_best.pth or checkpoint.pth of the authors' code.
        out: checkpoint folder to write.
        vocab: vocabulary JSON of a BiGRU model.
        bert: local BERT folder of a BERT model.
        json: print JSON.
    """
    from patchword.importers.checkpoint import import_checkpoint

    result = import_checkpoint(method, file, out, vocab=vocab, bert=bert)
    if json:
        say_json(asdict(result))
        return 0
    say(
        f"imported {method}: {len(result.used)} keys used, {len(result.dead)} dead keys left out, "
        f"into '{result.folder}'"
    )
    for key in result.dead:
        say(f"  dead (stored, but never used by the authors' code): {key}")
    if result.tokenizer is None:
        say(
            "no vocabulary came with it, so it can not read captions yet: "
            "import again with --vocab FILE (BiGRU) or --bert DIR"
        )
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


def json_line(value: Any) -> str:
    """One JSON object on one line."""
    return json.dumps(value, ensure_ascii=False)
