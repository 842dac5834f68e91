"""The single checks of the data doctor: a captions file, a feature file, pictures, ids, a vocabulary.

Each takes what it checks and returns findings; none raises for broken data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from patchword.data.features import RegionFeatures, scan_rows
from patchword.data.find_pictures import is_picture_name
from patchword.data.npy import header_of, open_array
from patchword.data.pictures import PictureFiles
from patchword.data.table import Split
from patchword.data.text_files import ASK_DOCTOR, LFS_MARK, is_bytes_literal, read_json, read_lines
from patchword.errors import DataError

Level = Literal["ok", "warning", "error"]
LONG_CAPTION_WORDS = 500
ALL_PICTURES, SAMPLE_PICTURES = 300, 200


@dataclass(frozen=True)
class Finding:
    """One row of a report.

    Attributes:
        level: ``ok``, ``warning`` (usable, but look at it) or ``error`` (not usable as it is).
        what: the split, file or thing.
        found: what there is.
        expected: what there should be; empty when that is what was found.
        fix: what to do; empty when nothing.
    """

    level: Level
    what: str
    found: str
    expected: str = ""
    fix: str = ""


def problem_of(error: Exception) -> str:
    """What an error says, without the advice to ask the doctor."""
    return str(error).partition(f" {ASK_DOCTOR}")[0]


def first_few(items: Sequence[object], count: int = 5) -> str:
    """The first items of a list and how many there are in all.

    Example:
        >>> first_few([3, 8, 9], 2)
        '3, 8 ... (3 in all)'
    """
    shown = ", ".join(str(item) for item in items[:count])
    return shown if len(items) <= count else f"{shown} ... ({len(items):,} in all)"


def numbered(numbers: Sequence[int], one: str, more: str, said: str) -> str:
    """How many rows (images, regions) something is said of, and which.

    Example:
        >>> numbered([3], "row", "rows", "with NaN"), numbered([3, 8], "row", "rows", "with NaN")
        ('1 row with NaN: number 3', '2 rows with NaN: numbers 3, 8')
    """
    if len(numbers) == 1:
        return f"1 {one} {said}: number {numbers[0]}"
    return f"{len(numbers):,} {more} {said}: numbers {first_few(numbers)}"


def check_captions_file(path: Path) -> list[Finding]:
    """Empty lines and Python bytes literals, all of them, by line number."""
    try:
        lines = read_lines(path)
    except DataError as error:
        return [Finding("error", path.name, problem_of(error))]
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    literal = [number for number, line in enumerate(lines, start=1) if is_bytes_literal(line)]
    found = [Finding("ok", path.name, f"{len(lines):,} lines")]
    if empty:
        found.append(
            Finding(
                "error",
                path.name,
                f"{len(empty):,} empty lines: {first_few(empty)}",
                "a caption on every line",
                "restore the captions; a dropped line shifts all later ones to the wrong image",
            )
        )
    if literal:
        found.append(
            Finding(
                "error",
                path.name,
                f"{len(literal):,} lines are Python bytes literals (b'...'): {first_few(literal)}",
                "plain text",
                "decode the captions as UTF-8 and write the file again",
            )
        )
    return found


def check_array_file(path: Path) -> list[Finding]:
    """The header of a ``.npy`` file against its size, without reading the data."""
    try:
        header = header_of(path)
        shape, dtype = header.shape, header.dtype
        size, expected = path.stat().st_size, header.start + header.data_bytes
        if size < expected and not header.dtype.hasobject:  # a pickle may be shorter than the pointers it stands for
            return [
                Finding(
                    "error",
                    path.name,
                    f"{size:,} bytes",
                    f"{expected:,} bytes for shape {shape} of {dtype}",
                    "the file is truncated: copy or download it again",
                )
            ]
        open_array(path)
    except (DataError, OSError) as error:
        return [Finding("error", path.name, problem_of(error))]
    extra = [] if size == expected else [
        Finding("warning", path.name, f"{size - expected:,} bytes after the data", "none", "check where it comes from")
    ]  # fmt: skip
    return [Finding("ok", path.name, f"shape {shape}, {dtype}, {size:,} bytes"), *extra]


def check_captions(split: Split) -> list[Finding]:
    """Counts, captions per image, first and last id, long and repeated captions."""
    per_image = split.captions_per_image()
    shape = ", ".join(f"{k} x {n:,}" for k, n in per_image.items())
    found = [
        Finding("ok", split.name, f"{split.n_images:,} images, {split.n_captions:,} captions ({split.layout})"),
        Finding("ok", split.name, f"captions per image x images: {shape}"),
        Finding("ok", split.name, f"first id {split.image_ids[0]!r}, last id {split.image_ids[-1]!r}"),
    ]
    if 0 in per_image:
        found.append(Finding("warning", split.name, f"{per_image[0]:,} images have no caption", "at least one each"))
    long = [j + 1 for j, text in enumerate(split.captions) if len(text.split()) > LONG_CAPTION_WORDS]
    if long:
        found.append(
            Finding(
                "warning",
                split.name,
                f"{len(long):,} captions have more than {LONG_CAPTION_WORDS} words: number {first_few(long)}",
                "sentences",
                "look whether lines were joined; encoders cut what is longer than their limit",
            )
        )
    repeated = split.n_captions - len(set(split.captions))
    if repeated:
        text, times = Counter(split.captions).most_common(1)[0]
        found.append(
            Finding("ok", split.name, f"{repeated:,} captions repeat another one, {text[:50]!r} {times} times")
        )
    return found


def check_features(split: Split) -> list[Finding]:
    """Every feature row: NaN, infinity, all zero; statistics; whether repeated rows are equal."""
    source = split.images
    if not isinstance(source, RegionFeatures):
        return []
    what = source.path.name
    if source.offsets is None:
        scan = scan_rows(source.array, source.rows)
        regions = f"{source.array.shape[1]} regions"
    else:
        scan = scan_rows(source.array)
        counts = np.diff(source.offsets)
        regions = f"{counts.min()} to {counts.max()} regions"
    unit = ("row", "rows") if source.offsets is None else ("region row", "region rows")
    found = [
        Finding(
            "ok",
            what,
            f"{len(source):,} images x {regions} x {source.width}, {source.array.dtype}: mean {scan.mean:.4g}, "
            f"std {scan.std:.4g}, min {scan.min:.4g}, max {scan.max:.4g}",
        )
    ]
    if scan.broken:
        said = numbered(scan.broken, *unit, "with NaN or infinity")
        found.append(Finding("error", what, said, "finite numbers", "extract again"))
    if scan.empty:
        said = numbered(scan.empty, *unit, "with zeros only")
        found.append(Finding("warning", what, said, "features", "extract them again"))
    if scan.min < 0:
        found.append(
            Finding(
                "warning",
                what,
                f"negative values (min {scan.min:.4g})",
                "none, if these are bottom-up-attention (BUTD) features",
                "not BUTD-like: published numbers need SCAN's own features; other extractors train differently",
            )
        )
    return found + _check_repeats(source, split)


def check_widths(splits: Sequence[Split]) -> list[Finding]:
    """The features of all splits must have one width: a model reads no other."""
    widths = {split.name: split.images.width for split in splits if isinstance(split.images, RegionFeatures)}
    if len(set(widths.values())) < 2:
        return []
    return [
        Finding(
            "error",
            "features",
            f"the splits differ in width: {', '.join(f'{name} {width}' for name, width in widths.items())}",
            "one width in all splits",
            "take the features of all splits from the same network",
        )
    ]


def _check_repeats(source: RegionFeatures, split: Split) -> list[Finding]:
    """Rows that are taken for copies of one image must be copies; looked at in a few places."""
    if source.offsets is not None or len(source.array) != split.n_captions or split.n_captions == split.n_images:
        return []
    ends = np.append(source.rows[1:], len(source.array))
    places = np.unique(np.linspace(0, len(source) - 1, num=min(len(source), 20)).astype(int))
    differ = [
        int(source.rows[i])
        for i in places
        if not all(
            np.array_equal(source.array[source.rows[i]], source.array[k], equal_nan=True)
            for k in range(source.rows[i] + 1, ends[i])
        )
    ]
    if not differ:
        return []
    return [
        Finding(
            "error",
            source.path.name,
            f"rows of one image differ, at row {first_few(differ)}",
            "the same row once per caption",
            "ids and features do not belong together: take both from the same archive",
        )
    ]


def check_boxes(split: Split) -> list[Finding]:
    """Boxes lie in 0..1 and have an area."""
    if split.boxes is None:
        return []
    boxes = split.boxes
    wrong = ~np.isfinite(boxes).all(axis=-1) | (boxes < -1e-4).any(axis=-1) | (boxes > 1 + 1e-4).any(axis=-1)
    wrong |= (boxes[..., 2] < boxes[..., 0]) | (boxes[..., 3] < boxes[..., 1])
    rows = np.flatnonzero(wrong.any(axis=1)).tolist()
    if not rows:
        return [Finding("ok", f"{split.name}_boxes.npy", f"{boxes.shape[1]} boxes per image, all in 0..1")]
    return [
        Finding(
            "warning",
            f"{split.name}_boxes.npy",
            numbered(rows, "image", "images", "with boxes outside 0..1 or turned around"),
            "x1, y1, x2, y2 in 0..1",
            "divide pixel boxes by the width and height of their picture",
        )
    ]


def check_pictures(split: Split, files: Sequence[Path] | None) -> list[Finding]:
    """Ids without a picture, and a sample of pictures decoded (all when there are few)."""
    source: PictureFiles
    if isinstance(split.images, PictureFiles):
        source, there = split.images, list(range(split.n_images))
    elif files is not None:
        source = PictureFiles(list(files))
        there = [i for i, path in enumerate(files) if path.is_file()]
    else:
        return []
    found = []
    absent = sorted(set(range(split.n_images)) - set(there))
    if absent:
        found.append(
            Finding(
                "warning" if split.images is not None else "error",
                split.name,
                f"{len(absent):,} ids without a picture: {first_few([split.image_ids[i] for i in absent])}",
                f"{split.n_images:,} pictures",
                "add them, or leave their images out with skip_broken",
            )
        )
    level: Level = "warning" if isinstance(split.images, RegionFeatures) else "error"
    return found + check_decoding(split.name, source, there, level)


def check_decoding(what: str, source: PictureFiles, there: list[int], level: Level) -> list[Finding]:
    """A sample of the pictures that are there decoded (all when there are few).

    Args:
        what: the split, for the report.
        source: its pictures.
        there: the numbers of those that are not missing.
        level: of pictures that do not decode.
    """
    if len(there) <= ALL_PICTURES:
        sample = there
    else:
        sample = [there[k] for k in np.linspace(0, len(there) - 1, num=SAMPLE_PICTURES).astype(int)]
    problems = []
    for i in sample:
        try:
            source.picture(i)
        except DataError as error:
            problems.append(problem_of(error))
    share = f"all {len(sample):,}" if len(sample) == len(there) else f"a sample of {len(sample):,} of {len(there):,}"
    if problems:
        found = f"{len(problems):,} pictures do not decode ({share} tried): {first_few(problems)}"
        fix = "replace them, or leave their images out with skip_broken"
        return [Finding(level, what, found, "pictures that decode", fix)]
    return [Finding("ok", what, f"pictures: {share} decode")] if sample else []


def check_unused_pictures(files_of: Mapping[str, Sequence[Path]]) -> list[Finding]:
    """Pictures in the same folders that no split uses."""
    used = {path for files in files_of.values() for path in files}
    unused: list[str] = []
    for folder in sorted({path.parent for path in used}):
        if folder.is_dir():
            names = (entry.name for entry in os.scandir(folder) if is_picture_name(entry.name))
            unused += sorted(name for name in names if folder / name not in used)
    if not unused:
        return []
    return [
        Finding(
            "warning",
            "pictures",
            f"{len(unused):,} pictures without an id: {first_few(unused)}",
            "none, if the data set is complete",
        )
    ]


def check_overlap(splits: Sequence[Split]) -> list[Finding]:
    """Images that are in the training split and in another one: pictures where they are known, else ids."""
    found = []
    for train in (split for split in splits if split.name.lower().startswith("train")):
        for other in (split for split in splits if not split.name.lower().startswith("train")):
            files = train.files is not None and other.files is not None
            mine, theirs = ((one.files if files else one.image_ids) or [] for one in (train, other))
            seen = set(mine)
            both = sorted(image for image, key in zip(other.image_ids, theirs, strict=True) if key in seen)
            numbered = other.image_ids == [str(i) for i in range(other.n_images)]
            if both and not numbered:
                said = f"{len(both):,} images in both: {first_few(both)}"
                found.append(Finding("warning", f"{train.name} and {other.name}", said, "none", "remove from train"))
    return found


def check_lfs_pointers(folder: Path) -> list[Finding]:
    """Git LFS pointers in place of files."""
    pointers = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_file() and entry.stat().st_size < 1024:
            with open(entry.path, "rb") as file:
                if file.read(len(LFS_MARK)) == LFS_MARK:
                    pointers.append(entry.name)
    if not pointers:
        return []
    return [
        Finding("error", "Git LFS", f"pointers instead of files: {first_few(pointers)}", "the files", "git lfs pull")
    ]


def check_vocabulary(path: Path, splits: Sequence[Split]) -> list[Finding]:
    """A SCAN vocabulary: well formed, and how many words of the captions it lacks (words parted at blanks)."""
    try:
        content = read_json(path)
    except DataError as error:
        return [Finding("error", path.name, problem_of(error))]
    words = content.get("word2idx") if isinstance(content, dict) else None
    if not isinstance(words, dict) or not words:
        return [
            Finding("error", path.name, "no 'word2idx'", "an object with word2idx, idx2word and idx", "use SCAN's file")
        ]
    found = []
    if sorted(words.values(), key=str) != sorted(range(len(words)), key=str):
        found.append(Finding("error", path.name, "word numbers with gaps or repeats", f"0 to {len(words) - 1:,}"))
    for split in splits:
        tokens = Counter(word for text in split.captions for word in text.lower().split())
        total = sum(tokens.values())
        unknown = Counter({word: n for word, n in tokens.items() if word not in words})
        missing = sum(unknown.values())
        common = ", ".join(word for word, _ in unknown.most_common(5))
        text = f"{len(words):,} words; {missing:,} of {total:,} words unknown ({100 * missing / max(1, total):.2f} %)"
        level: Level = "warning" if missing > 0.05 * total else "ok"
        found.append(Finding(level, f"{path.name}, {split.name}", f"{text}{': ' + common if common else ''}"))
    return found
