"""The verb that evaluates: runs, score files or an ensemble, under a protocol or against a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.options import (
    Device,
    Directory,
    File,
    Flag,
    Fusion,
    OptionalCount,
    OptionalPath,
    OptionalText,
    ProtocolName,
    Weights,
    device_of,
)
from patchword.verbs.output import say, say_json, show, wrote
from patchword.verbs.processes import speaks, together
from patchword.verbs.sizes import OptionalSize, bytes_of
from patchword.verbs.warned import warn

if TYPE_CHECKING:
    from patchword.evaluate.members import Member
    from patchword.evaluate.outcome import Outcome
    from patchword.evaluate.result import Evaluation
    from patchword.evaluate.setting import Setting
    from patchword.evaluate.slices import Slice

HOW = arg(metavar="HOW", help_behavior_hint="")


@dataclass(frozen=True)
class Options:
    """What can be asked of an evaluation.

    Attributes:
        run: run or checkpoint folder; several are fused.
        data: data folder.
        split: split of it.
        name: data set name, when the folder does not say it.
        protocol: auto, coco-1k-5fold, cxc ... (docs/evaluate.md)
        scores: a saved matrix instead (.safetensors or .npy).
        fusion: several are fused by their mean, zscore or rank.
        weights: one for each of several.
        ranks: from the matrix; without it: streamed or certified.
        seeds: several runs of one recipe: mean and deviation.
        banks: mean and deviation over N random parts (SCTA).
        annotations: files of cxc, eccv, sugarcrepe, rococo ...
        caption_ids: COCO number of every caption (cxc, eccv).
        intra: auto, dot, score or pooled: two captions (cxc).
        save_scores: also save the matrix (.safetensors).
        per_query: also write every query's rank (.jsonl).
        html: also write a report that is read offline.
        slices: also show recall over parts of the queries.
        compat_fold_adjacency: the authors' 5-fold mistake (CEFG).
        eval_batch: items encoded at a time; else as in training.
        limit: only the first images.
        skip_broken: leave out pictures that do not decode.
        device: auto, cpu or cuda:0.
        memory: of scoring, beside vectors and scores: 2GiB.
        resume: keep finished parts there, and go on from them.
        json: print JSON.
    """

    run: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN ...", help_behavior_hint="")]] = ()
    data: Directory = None
    split: str = "test"
    name: OptionalText = None
    protocol: ProtocolName = "auto"
    scores: File = None
    fusion: Fusion = "mean"
    weights: Weights = ()
    ranks: Annotated[Literal["matrix", "streamed", "certified"], HOW] = "matrix"
    seeds: Flag = False
    banks: OptionalCount = None
    annotations: OptionalPath = None
    caption_ids: File = None
    intra: Annotated[Literal["auto", "dot", "score", "pooled"], HOW] = "auto"
    save_scores: File = None
    per_query: File = None
    html: File = None
    slices: Flag = False
    compat_fold_adjacency: Flag = False
    eval_batch: OptionalCount = None
    limit: OptionalCount = None
    skip_broken: Flag = False
    device: Device = "auto"
    memory: OptionalSize = None
    resume: Directory = None
    json: Flag = False

    def evaluate(self) -> int:
        """Evaluate what was asked for.

        Raises:
            ConfigError: nothing was named, or options contradict each other.
        """
        from patchword.evaluate.benchmarks import BENCHMARKS
        from patchword.evaluate.pmrp import require_instances
        from patchword.evaluate.scores_file import load_scores

        if self.run and self.scores is not None:
            raise ConfigError(
                f"'{self.run[0]}' and --scores '{self.scores}' were given. Evaluate a run or a saved matrix, not both."
            )
        if self.scores is not None and self.runs:
            load_scores(self.scores)  # refuses it: its name is that of no score file
        if self.runs and self.data is None:
            raise ConfigError(f"'{self.runs[0]}' is a run and needs its data. Add --data DIR.")
        if not self.sources:
            raise ConfigError(
                "nothing to evaluate. Give a run and its data (patchword evaluate RUN --data DIR), or --scores FILE."
            )
        if not self.runs:
            self._refuse("saved scores: nothing is scored", *SCORING, "eval_batch", "compat_fold_adjacency")
        if self.compat_fold_adjacency and not has_folds(self.protocol):
            raise ConfigError(
                f"--compat-fold-adjacency imitates the authors' evaluation over 5 folds, and --protocol "
                f"{self.protocol} has none. Add --protocol coco-1k-5fold, or leave it out."
            )
        if self.protocol in BENCHMARKS:
            if not BENCHMARKS[self.protocol]:
                self._refuse(f"--protocol {self.protocol}, which scores captions or pictures of its own", *SCORING)
            return self._benchmark()
        self._refuse("a named protocol", "caption_ids")
        if not self.slices:
            self._refuse("a named protocol without --slices", "annotations")
        elif self.annotations is not None:
            require_instances(self.annotations)  # before anything is scored
        if not self.runs and self.data is None:
            self._refuse(
                "saved scores without --data: --protocol says what they are", "name", "split", "limit", "skip_broken"
            )
        if self.seeds:
            return self._seeds()
        if self.banks is not None:
            return self._banks(self.banks)
        return self._recall()

    @property
    def sources(self) -> list[Path]:
        """Runs and score files."""
        return [self.scores] if self.scores is not None else list(self.run)

    @property
    def setting(self) -> Setting:
        """How the runs are opened and scored."""
        from patchword.evaluate.setting import Setting
        from patchword.scoring.matrix import MEMORY

        return Setting(
            split=self.split,
            name=self.name,
            limit=self.limit,
            device=device_of(self.device),
            memory=MEMORY if self.memory is None else bytes_of(self.memory),
            resume=self.resume,
            console=Console(stderr=True, quiet=not speaks()),
            skip_broken=self.skip_broken,
            eval_batch=self.eval_batch,
            compat_fold_adjacency=self.compat_fold_adjacency,
        )

    @property
    def runs(self) -> list[Path]:
        """Those of them that are no score files."""
        from patchword.evaluate.members import is_score_file

        return [source for source in self.sources if not is_score_file(source)]

    def _one_run(self, option: str) -> tuple[Path, Path]:
        """The only run and its data.

        Raises:
            ConfigError: there are others.
        """
        if len(self.sources) != 1 or not self.runs or self.data is None:
            raise ConfigError(f"{option} needs one run and its data: patchword evaluate RUN --data DIR {option} ...")
        return self.runs[0], self.data

    def _benchmark(self) -> int:
        from patchword.evaluate.benchmarks import evaluate_benchmark
        from patchword.report.write import write_benchmark

        self._refuse(f"--protocol {self.protocol}", *MATRIX_OUTPUTS, "slices", "seeds", "banks", "ranks")
        found = evaluate_benchmark(
            self.protocol,
            self.sources,
            self.data,
            self.setting,
            annotations=self.annotations,
            caption_ids=self.caption_ids,
            intra=self.intra,
            fusion=self.fusion,
            weights=list(self.weights) or None,
        )
        if not speaks():
            return 0
        if self.html is not None:
            write_benchmark(self.html, found)
        warn(found.warnings, json=self.json)
        show(found.to_json(), found.table(), json=self.json)
        return wrote(self.html)

    def _seeds(self) -> int:
        from patchword.evaluate.seeds import evaluate_seeds

        self._refuse("--seeds", *MATRIX_OUTPUTS, "slices", "html", "banks", "fusion", "weights", "ranks")
        report = evaluate_seeds(self.sources, self.data, self.setting, protocol=self.protocol)
        return show(report.to_json(), report.table(), json=self.json) if speaks() else 0

    def _banks(self, count: int) -> int:
        from patchword.evaluate.banks import evaluate_banks_of

        self._refuse("--banks", *MATRIX_OUTPUTS, "slices", "html", "fusion", "weights", "ranks")
        run, data = self._one_run("--banks")
        spread = evaluate_banks_of(run, data, count, self.setting, protocol=self.protocol)
        if not speaks():
            return 0
        warn(spread.together.warnings, json=self.json)
        return show(spread.to_json(), spread.table(), json=self.json)

    def _recall(self) -> int:
        """One run or matrix, or the ensemble of several, under a named protocol."""
        from patchword.evaluate.outcome import evaluate_sources
        from patchword.evaluate.queries import write_queries
        from patchword.evaluate.scores_file import write_scores

        if self.ranks != "matrix":
            self._refuse(f"--ranks {self.ranks}", "save_scores", "html")
            self._one_run("--ranks")
        if self.html is not None and self.data is None:
            raise ConfigError("--html shows captions and pictures, which a score file does not hold. Add --data DIR.")
        found = evaluate_sources(
            self.sources,
            self.data,
            self.setting,
            protocol=self.protocol,
            fusion=self.fusion,
            weights=list(self.weights) or None,
            ranks=self.ranks,
        )
        each = [(member, member.evaluate(self.protocol)) for member in found.members]
        if not speaks():
            return 0
        if self.save_scores is not None and found.one is not None:
            write_scores(self.save_scores, found.one.saved)
        if self.per_query is not None:  # ranks alone where no scores were kept
            captions = None if found.split is None else found.split.captions
            write_queries(
                self.per_query, found.scores, found.result.queries, image_ids=found.image_ids, captions=captions
            )
        if self.html is not None and found.one is not None and found.split is not None:
            from patchword.report.rows import report_row
            from patchword.report.write import write_report

            rows = [report_row(member, result) for member, result in (*each, (found.one, found.result))]
            write_report(self.html, runs=rows, split=found.split)
        self._say(found, each)
        return wrote(self.save_scores, self.per_query, self.html)

    def _say(self, found: Outcome, each: Sequence[tuple[Member, Evaluation]]) -> None:
        """Print an evaluation, with its slices and the members of an ensemble."""
        from patchword.evaluate.slices import annotated_objects, objects_of, slice_queries, slices_table

        result, split = found.result, found.split
        parts: tuple[Slice, ...] = ()
        if self.slices:
            captions, objects = (None, None) if split is None else (split.captions, objects_of(split))
            if self.annotations is not None:
                objects = annotated_objects(self.annotations, found.image_ids if split is None else split.image_ids)
            parts = slice_queries(result.queries, captions, objects=objects)
        warn(result.warnings, json=self.json)
        if self.json:
            members_json = {"members": [one.to_json() for _, one in each]} if each else {}
            slices_json = {"slices": [part.to_json() for part in parts]} if self.slices else {}
            say_json({**result.to_json(), **members_json, **slices_json})
            return
        for member, one in each:
            say(f"{member.name}: rsum {one.headline.rsum:.1f}")
        if each:
            say(f"\nensemble ({self.fusion}) of {len(each)}:")
        say(result.table())
        if self.slices:
            say(f"\n{slices_table(parts) or 'all queries are of one kind'}")

    def _refuse(self, beside: str, *options: str) -> None:
        """Refuse options that say nothing here, rather than ignore them.

        Raises:
            ConfigError: naming the first.
        """
        for option in options:
            if getattr(self, option) != getattr(Options, option):
                raise ConfigError(f"--{option.replace('_', '-')} does not go with {beside}. Leave one of them out.")


def has_folds(protocol: str) -> bool:
    """Whether a protocol averages over folds; ``auto`` never chooses one that does."""
    from patchword.evaluate.protocols import PROTOCOLS

    return protocol in PROTOCOLS and PROTOCOLS[protocol].folds > 1


MATRIX_OUTPUTS = ("save_scores", "per_query")
SCORING = ("memory", "resume")


def evaluate(options: Annotated[Options, arg(name="")]) -> int:
    """Evaluate a run or checkpoint on a split, or a saved score matrix; several of them as an ensemble.

    Under torchrun the processes share the encoding and the scoring; the first one prints and writes.

    Args:
        options: what is evaluated, and how.
    """
    return together(options.evaluate)
