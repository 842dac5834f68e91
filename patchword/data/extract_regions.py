"""``patchword extract regions``: from pictures to region features in SCAN's layout, with a detector.

Rows are appended to files under temporary names, and a note after every batch says how far they are, so a run that was
killed goes on. Pictures that can not be decoded are left out and listed in ``{split}_skipped.jsonl``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from patchword.console import Report
from patchword.data.detector import Detector
from patchword.data.find_pictures import pictures_in
from patchword.data.open import find_places, place_splits, read_place, resolve_split
from patchword.data.pictures import Picture, PictureFiles
from patchword.errors import ConfigError, DataError

NO_CAPTIONS = "all"  # name of the split of a folder that holds pictures only


@dataclass(frozen=True)
class Extracted:
    """One split.

    Attributes:
        split: its name.
        folder: where its files are.
        images, regions, width: shape of the features.
        computed: images that were computed now; fewer when an earlier run had done some.
        skipped: pictures left out.
    """

    split: str
    folder: Path
    images: int
    regions: int
    width: int
    computed: int
    skipped: int


@dataclass(frozen=True)
class Job:
    """The pictures of a split with what is written beside their features.

    Attributes:
        split: its name.
        ids: of the images.
        captions: those of each image.
        source: the pictures.
    """

    split: str
    ids: list[str]
    captions: list[list[str]]
    source: PictureFiles


@dataclass
class Progress:
    """How far a split is.

    Attributes:
        fingerprint: of detector, pictures and captions.
        done: pictures that were looked at.
        rows: of them, those with features.
        skipped: position and reason of the others.
    """

    fingerprint: str
    done: int = 0
    rows: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)


def extract_regions(
    data: Path | str,
    out: Path | str,
    detector: Detector | str | Path,
    *,
    regions: int = 36,
    splits: Sequence[str] = (),
    name: str | None = None,
    batch: int = 8,
    device: str = "cpu",
    again: bool = False,
    console: Console | None = None,
) -> list[Extracted]:
    """Write ``{split}_ims.npy``, ``{split}_boxes.npy``, ``{split}_ids.txt`` and ``{split}_caps.txt`` of some pictures.

    Splits that are complete are kept; an unfinished one goes on.

    Args:
        data: a data folder of any layout with pictures, or a folder of pictures alone; those become the split ``all``,
            and each picture's name stands in for its caption, because the layout has a caption for every image.
        out: folder to write, another one than ``data``.
        detector: a loaded detector, or where it is.
        regions: of each picture, when ``detector`` is not loaded.
        splits: which; all that are there by default.
        name: data set name, for folders that hold several.
        batch: pictures at a time.
        device: where the detector runs.
        again: also make complete splits again.
        console: where progress goes; quiet by default.

    Raises:
        DataError: there are no pictures, or files in ``out`` are not those of this run.
        CheckpointError, ConfigError: there is no such detector, or it has fewer queries than regions.
    """
    out = Path(out)
    if out.resolve() == Path(data).resolve():
        raise ConfigError(f"'{out}' is the data folder itself. Expected another folder for the features: -o DIR.")
    jobs = find_jobs(Path(data), splits, name)
    if any(out.resolve() == one.source.files[0].parent.resolve() for one in jobs):
        raise ConfigError(f"'{out}' holds the pictures. Expected another folder for the features: -o DIR.")
    made = detector if isinstance(detector, Detector) else Detector(detector, regions=regions, device=device)
    mark = made.fingerprint()
    out.mkdir(parents=True, exist_ok=True)
    shown = console if console is not None else Console(quiet=True)
    return [run_job(job, out, made, mark, batch=batch, again=again, console=shown) for job in jobs]


def find_jobs(data: Path, splits: Sequence[str], name: str | None) -> list[Job]:
    """The splits of a data folder, or all pictures of a folder that holds nothing else.

    Raises:
        DataError: there is no picture, or a split has none.
    """
    places = find_places(data, name=name)
    if not places:
        return [_pictures_alone(data, splits)]
    there = place_splits(places[0])
    jobs = []
    for wanted in splits or there:
        split = read_place(places[0], resolve_split(places[0].path, wanted, there)[0], dataset=data.name)
        if isinstance(split.images, PictureFiles):
            source = split.images
        elif split.files is not None:
            source = PictureFiles(split.files)
        else:
            because = next((note for note in split.notes if "pictures" in note), "no picture folder is near")
            raise DataError(
                f"{split.dataset}/{split.name}: a detector needs pictures, and there are none: {because}. "
                "Put them into 'images' beside the captions, named after the ids, or add id_mapping.json."
            )
        captions: list[list[str]] = [[] for _ in split.image_ids]
        for caption, owner in zip(split.captions, split.owner.tolist(), strict=True):
            captions[owner].append(" ".join(caption.split()))
        kept = [k for k, own in enumerate(captions) if own]  # the layout has a caption for every image
        ids, told = [split.image_ids[k] for k in kept], [captions[k] for k in kept]
        jobs.append(Job(split.name, ids, told, source.select(kept)))
    return jobs


def _pictures_alone(data: Path, splits: Sequence[str]) -> Job:
    if splits and list(splits) != [NO_CAPTIONS]:
        raise DataError(
            f"'{data}' holds pictures without captions: its one split is '{NO_CAPTIONS}'. Leave out splits."
        )
    names = list(pictures_in(data, levels=8))
    if not names:
        raise DataError(f"'{data}' holds no pictures. Expected a data folder with pictures, or a folder of pictures.")
    ids = [" ".join(name.split()) for name in names]  # an id is one line
    if len(set(ids)) < len(ids):
        raise DataError(f"'{data}' holds pictures whose names differ in blanks only. Rename them.")
    captions = [[re.sub(r"[\s_-]+", " ", Path(name).stem).strip() or "picture"] for name in ids]
    return Job(NO_CAPTIONS, ids, captions, PictureFiles([data / name for name in names]))


def run_job(
    job: Job, out: Path, detector: Detector, mark: str, *, batch: int, again: bool, console: Console
) -> Extracted:
    """Write the files of one split, or find them complete."""
    regions, width = detector.regions, detector.width
    listed = json.dumps([job.ids, job.captions, [str(path) for path in job.source.files]])
    fingerprint = hashlib.sha256((mark + listed).encode()).hexdigest()
    about = out / f"{job.split}_regions.json"
    if (out / f"{job.split}_ims.npy").exists() and not again:
        return _complete(job, out, about, fingerprint, detector.source)
    note = out / f".{job.split}_regions.partial.json"
    progress = _read_note(note, fingerprint)
    files = [
        Rows(out / f"{job.split}_ims.npy", (regions, width)),
        Rows(out / f"{job.split}_boxes.npy", (regions, 4)),
    ]
    if not all(file.holds(progress.rows) for file in files):
        progress = Progress(fingerprint)
    before = progress.rows
    with ExitStack() as stack, Report(len(job.ids), job.split, "pictures", console, progress.done) as report:
        for file in files:
            stack.enter_context(closing(file))
            file.begin(progress.rows)
        for start in range(progress.done, len(job.ids), batch):
            chosen = range(start, min(start + batch, len(job.ids)))
            good = _decoded(job.source, chosen, progress)
            if good:
                for file, values in zip(files, detector.regions_of(good), strict=True):
                    file.append(_finite(values.numpy(), job, chosen))
            progress.done, progress.rows = chosen.stop, progress.rows + len(good)
            for file in files:
                file.flush()
            _write(note, json.dumps(asdict(progress)))
            report.advance(len(chosen))
    if not progress.rows:
        raise DataError(f"none of the {len(job.ids):,} pictures of '{job.split}' can be used: {progress.skipped[0][1]}")
    _write_texts(job, out, progress)
    found = {"fingerprint": fingerprint, "detector": detector.source, "images": progress.rows}
    _write(about, json.dumps({**found, "skipped": len(progress.skipped)}, indent=1))
    for file in reversed(files):  # the features last: where they are, the split is complete
        file.finish(progress.rows)
    note.unlink()
    return Extracted(job.split, out, progress.rows, regions, width, progress.rows - before, len(progress.skipped))


def _decoded(source: PictureFiles, chosen: range, progress: Progress) -> list[Picture]:
    """The pictures that can be decoded; the others are noted."""
    good = []
    for k in chosen:
        try:
            good.append(source.picture(k))
        except DataError as error:
            progress.skipped.append((k, str(error)))
    return good


def _finite(values: NDArray[np.float32], job: Job, chosen: range) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise DataError(f"the detector gives NaN or infinite values between {job.ids[chosen.start]!r} and the next.")
    return values


def _write_texts(job: Job, out: Path, progress: Progress) -> None:
    """Ids, captions, the skipped pictures, and a way to the pictures."""
    skipped = dict(progress.skipped)
    kept = [k for k in range(len(job.ids)) if k not in skipped]
    ids = [job.ids[k] for k in kept for _ in job.captions[k]]  # one for each caption: their number is free
    captions = [caption for k in kept for caption in job.captions[k]]
    _write(out / f"{job.split}_ids.txt", "".join(f"{one}\n" for one in ids))
    _write(out / f"{job.split}_caps.txt", "".join(f"{one}\n" for one in captions))
    lines = [{"path": str(job.source.files[k]), "reason": reason} for k, reason in progress.skipped]
    _write(out / f"{job.split}_skipped.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _complete(job: Job, out: Path, about: Path, fingerprint: str, detector: str) -> Extracted:
    """A split that is there already.

    Raises:
        DataError: it was made from other pictures or by another detector.
    """
    try:
        found: Any = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    path = out / f"{job.split}_ims.npy"
    if not isinstance(found, dict) or found.get("fingerprint") != fingerprint:
        raise DataError(
            f"'{path}' was not made by '{detector}' from these pictures. "
            "Give another folder, or make it again with --again."
        )
    images, regions, width = np.load(path, mmap_mode="r").shape
    return Extracted(job.split, out, images, regions, width, 0, int(found["skipped"]))


def _read_note(note: Path, fingerprint: str) -> Progress:
    """How far an earlier run of the same job came."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["fingerprint"] == fingerprint:
            skipped = [(int(k), str(reason)) for k, reason in found["skipped"]]
            return Progress(fingerprint, int(found["done"]), int(found["rows"]), skipped)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Progress(fingerprint)


def _write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


class Rows:
    """A float32 ``.npy`` file that grows row by row under a temporary name.

    Args:
        path: its name in the end.
        shape: of a row.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self.partial = path.with_name(f".{path.name}.partial")
        self.row = 4 * int(np.prod(shape))
        self.start = len(self._header(0))

    def _header(self, rows: int) -> bytes:
        """The header for so many rows; numpy leaves room for the count, so its length is always the same."""
        header = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(header, about)
        return header.getvalue()

    def holds(self, rows: int) -> bool:
        """Whether the unfinished file has so many rows."""
        return rows == 0 or (self.partial.is_file() and self.partial.stat().st_size >= self.start + rows * self.row)

    def begin(self, rows: int) -> None:
        """Open the file behind its first ``rows`` rows."""
        self.file = self.partial.open("r+b" if rows else "wb")
        self.file.write(self._header(rows))
        self.file.seek(self.start + rows * self.row)
        self.file.truncate()

    def append(self, values: NDArray[np.float32]) -> None:
        """Add rows."""
        self.file.write(values.astype("<f4").tobytes())

    def flush(self) -> None:
        """Put what was written on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Leave the unfinished file as it is."""
        self.file.close()

    def finish(self, rows: int) -> None:
        """Write the header, and give the file its name."""
        header = self._header(rows)
        assert len(header) == self.start, "numpy's header changed its length"
        with self.partial.open("r+b") as file:
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        self.partial.replace(self.path)
