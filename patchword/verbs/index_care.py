"""Actions of the verb `index` that look after an index: its numbers, its health, its size, its probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from patchword.errors import ConfigError
from patchword.verbs.index_console import progress_console
from patchword.verbs.one_line import note_line, say_line
from patchword.verbs.options import OptionalPath, OptionalText, OutPath
from patchword.verbs.output import say_json


@dataclass(frozen=True)
class Compact:
    """Give back the room of what was removed, and join small vector files.

    Attributes:
        index: the index.
        json: print JSON.
    """

    index: Positional[Path]
    json: bool = False

    def run(self) -> int:
        """Compact."""
        from patchword.index import compact
        from patchword.store.estimate import size_text

        done = compact(self.index, console=progress_console(self.json))
        if self.json:
            say_json(asdict(done))
        else:
            say_line(
                f"{done.shards_before:,} vector files of {size_text(done.bytes_before)} are {done.shards_after:,} of "
                f"{size_text(done.bytes_after)}; {done.dropped:,} removed items are gone"
                + (f", {done.cleared:,} files that had been given up as well." if done.cleared else ".")
            )
        return 0


@dataclass(frozen=True)
class Info:
    """What is in the index, in numbers.

    Attributes:
        index: the index.
        recall: also measure the shortlist's recall against the ranking of everything.
        queries: for the recall: sentences, one per line; made up when left out.
        model: for the recall: run or checkpoint folder, when it is not where it was.
        json: print JSON.
    """

    index: Positional[Path]
    recall: bool = False
    queries: OptionalPath = None
    model: OptionalText = None
    json: bool = False

    def run(self) -> int:
        """Info."""
        from patchword.index import info
        from patchword.store.estimate import size_text

        found = asdict(info(self.index))
        if not self.recall and (self.queries is not None or self.model is not None):
            raise ConfigError("--queries and --model are for --recall. Add it.")
        if self.recall:
            from patchword.retrieve.recall import measure_recall

            found["recall"] = asdict(measure_recall(self.index, model=self.model, queries=self.queries))
        if self.json:
            say_json(found)
            return 0
        measured = found.pop("recall", None)
        for key, value in found.items():
            if key == "bytes":
                value = ", ".join(f"{part} {size_text(size)}" for part, size in value.items())
            elif isinstance(value, dict):
                value = ", ".join(f"{part} {text}" for part, text in value.items()) or "none"
            say_line(f"{key.replace('_', ' '):<12}{value}")
        if measured is not None:
            _say_recall(measured)
        return 0


@dataclass(frozen=True)
class Verify:
    """Read everything and list what is wrong; exit code 1 when something is.

    Attributes:
        index: the index.
        json: print JSON.
    """

    index: Positional[Path]
    json: bool = False

    def run(self) -> int:
        """Verify."""
        from patchword.index import verify
        from patchword.store.estimate import size_text

        found = verify(self.index, console=progress_console(self.json))
        if self.json:
            say_json({**asdict(found), "is_clean": found.is_clean})
        else:
            for problem in found.problems:
                say_line(problem)
            say_line(
                f"{len(found.problems):,} problems in {found.shards:,} vector files ({size_text(found.bytes)}), "
                f"{found.images:,} images and {found.captions:,} captions."
            )
        if found.given_up:
            note_line(
                f"{found.given_up:,} vector files that a sync gave up as missing or damaged are still there: `index "
                "sync` uses those that are whole and needed, `index compact` deletes those of which nothing is needed"
            )
        if found.damaged:
            note_line(f"to encode again what is in damaged files: patchword index sync {self.index} --verify")
        return 0 if found.is_clean else 1


@dataclass(frozen=True)
class Export:
    """Write vectors (.npz or .safetensors) and items (.jsonl, in the same order).

    Attributes:
        index: the index.
        out: file that ends in .npz or .safetensors.
        kind: what to write.
        where: only images for which a filter holds.
        json: print JSON.
    """

    index: Positional[Path]
    out: OutPath = None
    kind: Literal["image", "caption"] = "image"
    where: OptionalText = None
    json: bool = False

    def run(self) -> int:
        """Export."""
        from patchword.index import export
        from patchword.store.estimate import size_text

        if self.out is None:
            raise ConfigError("`index export` lacks -o FILE. Expected: patchword index export INDEX -o FILE.npz")
        done = export(self.index, self.out, kind=self.kind, where=self.where)
        if self.json:
            say_json(asdict(done))
        else:
            say_line(f"wrote {done.items:,} items to '{done.vectors}' and '{done.metadata}' ({size_text(done.bytes)}).")
        return 0


@dataclass(frozen=True)
class Calibrate:
    """Fit the probability of a match on pairs that are known.

    Attributes:
        index: the index.
        data: data folder.
        split: never the one that results are reported on.
        name: data set name, when it holds several.
        model: run or checkpoint folder, when it is not where it was.
        json: print JSON.
    """

    index: Positional[Path]
    data: Positional[Path]
    split: str = "dev"
    name: OptionalText = None
    model: OptionalText = None
    json: bool = False

    def run(self) -> int:
        """Calibrate."""
        from patchword.retrieve.calibrate import calibrate

        done = asdict(calibrate(self.index, self.data, self.split, name=self.name, model=self.model))
        if self.json:
            say_json(done)
        else:
            for key, value in done.items():
                shown = f"{value:.4g}" if isinstance(value, float) else value
                say_line(f"{key.replace('_', ' '):<14}{shown}")
        return 0


def _say_recall(measured: dict[str, Any]) -> None:
    """Print how much of the true ranking the shortlist holds."""
    say_line("")
    say_line(
        f"recall@{measured['k']} of the shortlist ({measured['shortlist']}, {measured['backend']}) against the "
        f"ranking of everything, {measured['queries']:,} queries ({measured['source']}); exact takes "
        f"{measured['exact_p50_ms']:.1f} ms"
    )
    say_line("candidates   recall    least   p50 ms")
    for row in measured["rows"]:
        mark = "  <- used" if row["candidates"] == measured["recommended"] else ""
        say_line(f"{row['candidates']:>10,}{row['recall']:>9.4f}{row['least']:>9.4f}{row['p50_ms']:>9.1f}{mark}")
