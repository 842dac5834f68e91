"""Actions of the verb `index` that change an index."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import loads
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.index_console import progress_console
from patchword.verbs.one_line import note_line, say_line
from patchword.verbs.options import Device, OptionalPath, OptionalText, OutPath, Strings, device_asked
from patchword.verbs.output import say_json

POOLED = ("own", "anchors", "fde", "mean")
HOW = arg(metavar="HOW", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What every action has that encodes pictures.

    Attributes:
        model: run or checkpoint folder, when it is not where it was.
        batch: images encoded at a time.
        threads: that decode.
        device: where the model computes: auto, cpu or cuda:0.
        json: print JSON.
    """

    model: OptionalText = None
    batch: int = 32
    threads: int = 2
    device: Device = "auto"
    json: bool = False

    def encoding(self) -> dict[str, Any]:
        """As the functions of the index take it."""
        return {
            "model": self.model,
            "batch": self.batch,
            "threads": self.threads,
            "device": device_asked(self.device),
            "console": progress_console(self.json),
        }


@dataclass(frozen=True, kw_only=True)
class Build(Encoding):
    """Index the pictures below a folder; run again, it goes on where it stopped.

    Attributes:
        folder: where the pictures are; without, the images of --features.
        out: the index to make.
        model: run or checkpoint folder, or a CLIP or SigLIP on the hub.
        features: data folder with region features, for models that read such.
        name: data set name, when it holds several.
        splits: of the features; all by default.
        feature_names: CSV or JSON Lines of path and id, where names do not tell.
        columns: CSV or JSON Lines of your own columns, keyed by path.
        follow_links: go through symbolic links.
        interaction: of a CLIP-like model: global or patches.
        pooled: vectors of the shortlist: own, anchors, fde or mean.
        backend: of the shortlist: exact (the default), faiss or milvus.
        backend_options: as key=value.
        shard_mb: size of a vector file.
    """

    folder: Positional[Annotated[Path | None, arg(metavar="[FOLDER]", help_behavior_hint="")]] = None
    out: OutPath = None
    model: OptionalText = None
    features: OptionalPath = None
    name: OptionalText = None
    splits: tuple[str, ...] = ()
    feature_names: OptionalPath = None
    columns: OptionalPath = None
    follow_links: bool = False
    interaction: Annotated[str | None, HOW] = None
    pooled: Annotated[str | None, HOW] = None
    backend: Annotated[str | None, HOW] = None
    backend_options: tuple[str, ...] = ()
    shard_mb: float = 256.0

    def run(self) -> int:
        """Build."""
        from patchword.index import build

        if self.out is None or self.model is None:
            raise ConfigError(
                f"`index build` lacks {'-o INDEX' if self.out is None else '--model CHECKPOINT'}. "
                "Expected: patchword index build FOLDER -o INDEX --model CHECKPOINT"
            )
        changes = build(
            self.folder,
            self.out,
            features=self.features,
            name=self.name,
            splits=self.splits,
            feature_names=self.feature_names,
            columns=self.columns,
            follow_links=self.follow_links,
            interaction=one_of("--interaction", self.interaction, ("global", "patches")),
            pooled=one_of("--pooled", self.pooled, POOLED),
            backend=self.backend,
            backend_options=dict(_pair("--backend-options", text) for text in self.backend_options),
            shard_mb=self.shard_mb,
            **self.encoding(),
        )
        _say_changes(changes, self.out, self.json)
        return 0 if changes.images else _note_empty(changes, self.out, self.folder or self.features)


@dataclass(frozen=True, kw_only=True)
class Add(Encoding):
    """Index more files or folders, or set columns; nothing is removed.

    Attributes:
        index: the index.
        paths: picture files and folders.
        columns: CSV or JSON Lines of your own columns, keyed by path.
        follow_links: go through symbolic links in new folders.
    """

    index: Positional[Path]
    paths: Strings = ()
    columns: OptionalPath = None
    follow_links: bool = False

    def run(self) -> int:
        """Add."""
        from patchword.index import add

        changes = add(
            self.index,
            self.paths,
            columns=self.columns,
            follow_links=self.follow_links,
            **self.encoding(),
        )
        return _say_changes(changes, self.index, self.json)


@dataclass(frozen=True)
class Remove:
    """Take images out for good; their files are not touched.

    Attributes:
        index: the index.
        images: ids (7, or id:7 where a folder is called 7), or paths of files or folders (./7).
        where: all for which a filter holds, such as "width < 200 or tag = 'blurred'".
        json: print JSON.
    """

    index: Positional[Path]
    images: Strings = ()
    where: OptionalText = None
    json: bool = False

    def run(self) -> int:
        """Remove."""
        from patchword.index import remove

        done = remove(self.index, self.images, where=self.where)
        if self.json:
            say_json(asdict(done))
        else:
            say_line(f"removed {len(done.removed):,} images; '{self.index}' holds {done.images:,}.")
        return 0


@dataclass(frozen=True, kw_only=True)
class Sync(Encoding):
    """Make the index hold what its folders hold now; only new and changed files are encoded.

    Attributes:
        index: the index.
        folder: only this one, of the index's folders or in one; or where its only folder is now.
        columns: CSV or JSON Lines of your own columns, keyed by path.
        allow_empty: a folder may have lost all its pictures.
        verify: read all vector files, and encode again what is damaged; missing and cut ones are seen anyway.
        restore: encode again also where most vector files are missing.
    """

    index: Positional[Path]
    folder: Positional[Annotated[Path | None, arg(metavar="[FOLDER]", help_behavior_hint="")]] = None
    columns: OptionalPath = None
    allow_empty: bool = False
    verify: bool = False
    restore: bool = False

    def run(self) -> int:
        """Sync."""
        from patchword.index import sync

        changes = sync(
            self.index,
            self.folder,
            columns=self.columns,
            allow_empty=self.allow_empty,
            verify=self.verify,
            restore=self.restore,
            **self.encoding(),
        )
        return _say_changes(changes, self.index, self.json)


@dataclass(frozen=True)
class Captions:
    """Make or extend the caption set, so that a picture finds its words.

    Attributes:
        index: the index.
        file: captions, one a line; JSON Lines or CSV of caption and image; or a data folder. Left out with --clear.
        name: data set name, when a data folder holds several.
        splits: of a data folder; all by default.
        clear: forget the captions that are there first.
        model: run or checkpoint folder, when it is not where it was.
        batch: captions encoded at a time.
        device: where the model computes: auto, cpu or cuda:0.
        json: print JSON.
    """

    index: Positional[Path]
    file: Positional[Annotated[Path | None, arg(metavar="[FILE]", help_behavior_hint="")]] = None
    name: OptionalText = None
    splits: tuple[str, ...] = ()
    clear: bool = False
    model: OptionalText = None
    batch: int = 256
    device: Device = "auto"
    json: bool = False

    def run(self) -> int:
        """Add captions."""
        from patchword.index import add_captions

        done = add_captions(
            self.index,
            self.file,
            name=self.name,
            splits=self.splits,
            clear=self.clear,
            model=self.model,
            batch=self.batch,
            device=device_asked(self.device),
            console=progress_console(self.json),
        )
        if self.json:
            say_json(asdict(done))
            return 0
        say_line(f"{done.line()}. '{self.index}' holds {done.captions:,} captions.")
        for line, reason in done.skipped[:10]:
            note_line(f"'{self.file}' line {line}: {reason}")
        return 0


@dataclass(frozen=True)
class Backend:
    """Choose what finds the shortlist of an index that is there; nothing is encoded again.

    Attributes:
        index: the index.
        kind: exact, faiss or milvus.
        options: of the backend, as key=value; the old ones are forgotten.
        pooled: other vectors for the shortlist: own, anchors, fde or mean.
        model: for --pooled: run or checkpoint folder, when it is not where it was.
        json: print JSON.
    """

    index: Positional[Path]
    kind: Positional[Annotated[str, arg(metavar="KIND")]]
    options: tuple[str, ...] = ()
    pooled: Annotated[str | None, HOW] = None
    model: OptionalText = None
    json: bool = False

    def run(self) -> int:
        """Change the backend."""
        from patchword.index import change_backend

        done = change_backend(
            self.index,
            self.kind,
            dict(_pair("--options", text) for text in self.options),
            pooled=one_of("--pooled", self.pooled, POOLED),
            model=self.model,
            console=progress_console(self.json),
        )
        if self.json:
            say_json(asdict(done))
        else:
            say_line(
                f"'{self.index}' finds the shortlist of its {done.images:,} images with {done.backend} over "
                f"{done.pooled} vectors now ({done.seconds:.1f} s)."
            )
        return 0


def one_of(option: str, value: str | None, names: tuple[str, ...]) -> Any:
    """The value of an option, which is one of a few names or left out.

    Raises:
        ConfigError: it is another one.
    """
    if value is not None and value not in names:
        raise ConfigError(f"{option} is {value!r}. Expected one of: {', '.join(names)}.")
    return value


def _pair(option: str, text: str) -> tuple[str, Any]:
    """``key=value``, where the value may be a number.

    Example:
        >>> _pair("--options", "nprobe=100"), _pair("--options", "uri=http://milvus:19530")
        (('nprobe', 100), ('uri', 'http://milvus:19530'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} has {text!r}. Expected key=value.")
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value


def _note_empty(changes: Any, place: Path, source: Path | None) -> int:
    """Say that an index was made that holds nothing; returns the exit code."""
    reason = (
        f"none of the {changes.found:,} picture files below '{source}' could be indexed{_first_reason(place)}"
        if changes.found
        else f"there are no picture files below '{source}' (.jpg, .png, .webp ...; {changes.ignored:,} other files)"
    )
    note_line(f"{reason}. '{place}' is an empty index. Add pictures with: patchword index add {place} FOLDER")
    return 2


def _first_reason(place: Path) -> str:
    """Why the first of the files that were skipped was, where the index says it."""
    skipped = place / "skipped.jsonl"
    if not skipped.is_file():
        return ""
    with skipped.open(encoding="utf-8") as lines:
        first = loads(lines.readline())
    return f". The first one: {first['path']}: {first['reason']}"


def _say_changes(changes: Any, place: Path, json: bool) -> int:
    """Print what a build, an addition or a sync did."""
    if json:
        say_json(asdict(changes))
        return 0
    say_line(f"{changes.line()}. '{place}' holds {changes.images:,} images ({changes.seconds:.1f} s).")
    for reason in changes.damage:
        note_line(f"damaged: {reason}")
    if changes.taken_back:
        note_line(f"{len(changes.taken_back):,} vector files that had been given up are whole, and are used again")
    if changes.restored_captions or changes.lost_captions:
        note_line(
            f"{changes.restored_captions:,} captions that had lost their vectors were encoded again, "
            f"{changes.lost_captions:,} were taken out: add those with patchword index captions"
        )
    if changes.without_vectors:
        note_line(
            f"{changes.without_vectors:,} images have no vectors and are not found; sync all folders of the index"
        )
    if changes.skipped:
        note_line(f"why files were skipped: '{place / 'skipped.jsonl'}'")
    if changes.model_place is not None:
        note_line(f"the model is at '{changes.model_place}' now, which the index remembers")
    for sentence in changes.column_files:
        note_line(sentence)
    if changes.unseen:
        note_line(f"{changes.unseen:,} folders could not be read; what is indexed of them was kept")
    unknown = changes.unknown_columns
    if unknown:
        from patchword.index.column_files import in_vain

        note_line(
            f"{in_vain(len(unknown), ' of --columns')}, such as {unknown[0]!r}. Expected paths below the indexed "
            "folder, without its name, or absolute ones."
        )
    return 0
