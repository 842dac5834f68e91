"""``patchword extract regions``: from pictures to region features in SCAN's layout, with a detector.

A run that was killed goes on behind the last batch that it finished. A run over a folder that has changed computes only
new and changed pictures, and drops those that are gone. Pictures that can not be decoded are left out and
listed in ``{split}_skipped.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from patchword.console import ProgressBar
from patchword.data.detector import Detector
from patchword.data.extracted_regions import (
    Earlier,
    open_rows,
    read_earlier,
    regions_file,
    stamps_of,
    write_pictures,
)
from patchword.data.find_pictures import pictures_in
from patchword.data.growing_arrays import GrowingArrays
from patchword.data.open import (
    find_places,
    guess_name,
    nothing_found,
    place_splits,
    read_place,
    require_pictures,
    resolve_split,
)
from patchword.data.pictures import Picture, PictureFiles
from patchword.errors import ConfigError, DataError
from patchword.files import write_whole

NO_CAPTIONS = "all"  # name of the split of a folder that holds pictures only


@dataclass(frozen=True)
class Extracted:
    """One split.

    Attributes:
        split: its name.
        folder: where its files are.
        images, regions, width: shape of the features.
        computed: images that were computed now; fewer when an earlier run had done some, or pictures are as they were.
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
        home: folder that the split was read from.
    """

    split: str
    ids: list[str]
    captions: list[list[str]]
    source: PictureFiles
    home: Path


@dataclass
class Seen:
    """The pictures of a split that were looked at.

    Attributes:
        count: how many, from the first one on.
        skipped: position and reason of those that can not be decoded; the others have a row.
    """

    count: int = 0
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

    Splits that are complete are kept; an unfinished one goes on. Where pictures have come, changed or gone, the rows of
    the others are taken over; a picture with the same id, size and time of change is the same;
    one inside a table, with the same id and bytes.

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
        again: also make complete splits again, from nothing.
        console: where progress goes; quiet by default.

    Raises:
        DataError: there are no pictures, or files in ``out`` are not those of this run.
        CheckpointError, ConfigError: there is no such detector, or it has fewer queries than regions.
    """
    out = Path(out)
    if out.resolve() == Path(data).resolve():
        raise ConfigError(f"'{out}' is the data folder itself. Expected another folder for the features: -o DIR.")
    jobs = find_jobs(Path(data), splits, name)
    if any(out.resolve() == one.home.resolve() for one in jobs):
        raise ConfigError(f"'{out}' is where the captions are read. Expected another folder for the features: -o DIR.")
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
        DataError: there is no picture, a split has none, or there is no data set of the name.
    """
    places = find_places(data, name=name)
    if not places and name is not None:
        raise nothing_found(data, name, None)
    if not places:
        return [_pictures_alone(data, splits)]
    path, there = places[0].path, place_splits(places[0])
    home, dataset = path if path.is_dir() else path.parent, guess_name(path) if name is None else name
    jobs = []
    for wanted in splits or there:
        split = read_place(places[0], resolve_split(path, wanted, there)[0], dataset=dataset)
        source = require_pictures(split, "a detector")
        captions: list[list[str]] = [[] for _ in split.image_ids]
        for caption, owner in zip(split.captions, split.owner.tolist(), strict=True):
            captions[owner].append(" ".join(caption.split()))
        kept = [k for k, own in enumerate(captions) if own]  # the layout has a caption for every image
        ids, told = [split.image_ids[k] for k in kept], [captions[k] for k in kept]
        jobs.append(Job(split.name, ids, told, source.select(kept), home))
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
    return Job(NO_CAPTIONS, ids, captions, PictureFiles([data / name for name in names]), data)


def run_job(
    job: Job, out: Path, detector: Detector, mark: str, *, batch: int, again: bool, console: Console
) -> Extracted:
    """Write the files of one split, or find them complete. Rows of pictures that are as they were are taken over."""
    regions, width = detector.regions, detector.width
    stamps = stamps_of(job.source)
    listed = json.dumps([job.ids, job.captions, [str(path) for path in job.source.files]])
    fingerprint = hashlib.sha256((mark + listed).encode()).hexdigest()
    kept: dict[int, int] = {}
    old: list[NDArray[np.float32]] = []
    earlier = read_earlier(out, job.split)
    if (out / f"{job.split}_ims.npy").exists() and not again and not earlier.is_unfinished:
        if earlier.is_of(fingerprint, job.ids, stamps):
            return _complete(job, out, earlier)
        _require_same_detector(job, out, earlier, mark, detector.source)
        kept, old = earlier.unchanged(job.ids, stamps), open_rows(out, job.split)
    rows_of = {out / f"{job.split}_ims.npy": (regions, width), out / f"{job.split}_boxes.npy": (regions, 4)}
    note = out / f".{job.split}_regions.partial.json"
    state = hashlib.sha256(f"{fingerprint}{stamps}{sorted(kept.items())}".encode()).hexdigest()
    computed = 0
    with GrowingArrays(rows_of, note, state) as files:
        seen = _seen(files.kept)
        with ProgressBar(len(job.ids), job.split, "pictures", console, seen.count) as report:
            for start in range(seen.count, len(job.ids), batch):
                chosen = range(start, min(start + batch, len(job.ids)))
                fresh = [k for k in chosen if k not in kept]
                good = _decoded(job.source, fresh, seen)
                found = detector.regions_of(list(good.values())) if good else ()
                made = [_finite(values.numpy(), job, chosen) for values in found]
                if len(good) + len(chosen) > len(fresh):
                    files.append(*_in_order(chosen, kept, old, list(good), made))
                seen.count, computed = chosen.stop, computed + len(good)
                if fresh or chosen.stop == len(job.ids):
                    files.save(**asdict(seen))
                report.advance(len(chosen))
        if not files.rows:
            raise DataError(f"none of the {len(job.ids):,} pictures of '{job.split}' can be used: {seen.skipped[0][1]}")
        about = regions_file(out, job.split)
        write_whole(about, json.dumps({"unfinished": True}))  # until all files are in place
        _write_texts(job, out, seen)
        write_pictures(out, job.split, job.ids, stamps, {k for k, _ in seen.skipped})
        files.finish()
        told = {"fingerprint": fingerprint, "detector": detector.source, "mark": mark, "images": files.rows}
        write_whole(about, json.dumps({**told, "skipped": len(seen.skipped)}, indent=1))
    return Extracted(job.split, out, files.rows, regions, width, computed, len(seen.skipped))


def _in_order(
    chosen: range,
    kept: Mapping[int, int],
    old: Sequence[NDArray[np.float32]],
    fresh: Sequence[int],
    made: Sequence[NDArray[np.float32]],
) -> list[NDArray[np.float32]]:
    """Features and boxes of some pictures, those of an earlier run and those of now, in the pictures' order."""
    place = {k: n for n, k in enumerate(fresh)}
    there = [k for k in chosen if k in kept or k in place]
    return [
        np.stack([old[which][kept[k]] if k in kept else made[which][place[k]] for k in there]) for which in range(2)
    ]


def _seen(kept: Mapping[str, Any]) -> Seen:
    """What an earlier run looked at; nothing where there was none."""
    return Seen(kept["count"], [(k, reason) for k, reason in kept["skipped"]]) if kept else Seen()


def _decoded(source: PictureFiles, chosen: Sequence[int], seen: Seen) -> dict[int, Picture]:
    """The pictures that can be decoded, by position; the others are noted."""
    good = {}
    for k in chosen:
        try:
            good[k] = source.picture(k)
        except DataError as error:
            seen.skipped.append((k, str(error)))
    return good


def _finite(values: NDArray[np.float32], job: Job, chosen: range) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise DataError(f"the detector gives NaN or infinite values between {job.ids[chosen.start]!r} and the next.")
    return values


def _write_texts(job: Job, out: Path, seen: Seen) -> None:
    """Ids, captions, the skipped pictures, and a way to the pictures."""
    skipped = dict(seen.skipped)
    kept = [k for k in range(len(job.ids)) if k not in skipped]
    ids = [job.ids[k] for k in kept for _ in job.captions[k]]  # one for each caption: their number is free
    captions = [caption for k in kept for caption in job.captions[k]]
    write_whole(out / f"{job.split}_ids.txt", "".join(f"{one}\n" for one in ids))
    write_whole(out / f"{job.split}_caps.txt", "".join(f"{one}\n" for one in captions))
    lines = [{"path": str(job.source.files[k]), "reason": reason} for k, reason in seen.skipped]
    write_whole(
        out / f"{job.split}_skipped.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )


def _complete(job: Job, out: Path, earlier: Earlier) -> Extracted:
    """A split that is there already."""
    images, regions, width = np.load(out / f"{job.split}_ims.npy", mmap_mode="r").shape
    return Extracted(job.split, out, images, regions, width, 0, int(earlier.about["skipped"]))


def _require_same_detector(job: Job, out: Path, earlier: Earlier, mark: str, detector: str) -> None:
    """Refuse to go on with features that another detector made.

    Raises:
        DataError: they were, or nothing tells of which detector they are.
    """
    path, before = out / f"{job.split}_ims.npy", earlier.about.get("detector", "another program")
    if "mark" not in earlier.about or earlier.stamps is None:
        raise DataError(
            f"'{path}' was not made by '{detector}' from these pictures, or by an older version that kept no list of "
            "them. Give another folder, or make it again with --again."
        )
    if earlier.about.get("images") != len(np.load(path, mmap_mode="r")):
        raise DataError(f"'{path}' is not as it was extracted. Give another folder, or make it again with --again.")
    if earlier.about["mark"] != mark:
        raise DataError(
            f"'{path}' was not made by '{detector}' with these settings, but by '{before}'. "
            "Give another folder, or make it again with --again."
        )
