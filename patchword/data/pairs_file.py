"""Rows of image and caption: ``captions.jsonl``, ``metadata.csv``, CSV or TSV files with named columns.

A data set is one file, with an optional split column, or one file per split (``train.jsonl``, ``train/metadata.csv``).
A row holds one caption or a list of captions; rows with the same image are joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from patchword.data.find_pictures import expected_files, picture_folders
from patchword.data.open import guess_name
from patchword.data.split_names import is_split_name, splits_meant
from patchword.data.table import Split, group_by_image
from patchword.data.tabular import Row, name_columns, numbers_rows, read_rows
from patchword.data.text_files import in_split_order, missing_split, require_caption
from patchword.errors import DataError

ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
SINGLE_FILES = ("captions.jsonl", "captions.json", "captions.csv", "captions.tsv", "captions.txt",
                "metadata.jsonl", "metadata.csv", "metadata.tsv", "pairs.jsonl", "pairs.csv", "pairs.tsv")  # fmt: skip
NO_SPLIT = "all"
RESTVAL = "restval"  # the part of COCO's val2014 that everyone trains on
SHOWN_SOURCES = 8


def _folders(root: Path, name: str | None) -> list[Path]:
    return [root / name, root] if name else [root]


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every path at which such files are looked for."""
    return [
        folder / file
        for folder in _folders(root, name)
        for file in (*SINGLE_FILES, *(f"{{split}}{ending}" for ending in ENDINGS), "{split}/metadata.csv")
    ]


def split_files(folder: Path) -> dict[str, list[Path]]:
    """Files of each split: ``train.csv``, ``train/metadata.jsonl`` ...; those of ``restval`` belong to train."""
    found: dict[str, list[Path]] = {}
    names_in = (path.name.partition(".")[0] for path in folder.iterdir()) if folder.is_dir() else ()
    for split in in_split_order({name for name in names_in if is_split_name(name) or name == RESTVAL}):
        names = [f"{split}{ending}" for ending in ENDINGS] + [f"{split}/{file}" for file in SINGLE_FILES]
        for file in names:
            if (folder / file).is_file():
                found.setdefault(split, [folder / file])
    if RESTVAL in found:
        rest = found.pop(RESTVAL)
        train = next(iter(splits_meant("train", found)), "train")
        found[train] = [*found.get(train, []), *rest]
    return found


def find(root: Path, name: str | None = None) -> Path | None:
    """The rows file, or the folder that holds one file per split, or None."""
    if root.is_file():
        return root if root.suffix in (*ENDINGS, ".txt") and _has_rows(root) else None
    for folder in _folders(root, name):
        for file in SINGLE_FILES:
            if (folder / file).is_file() and _has_rows(folder / file):
                return folder / file
        files = split_files(folder)
        if files and all(_has_rows(path) for paths in files.values() for path in paths):
            return folder
    return None


def _has_rows(path: Path) -> bool:
    """Whether a file with a general name holds rows at all: ``.json`` and ``.txt`` may be anything."""
    if path.suffix not in (".json", ".txt"):
        return True
    try:
        with path.open("rb") as file:
            begin = file.read(4096).decode("utf-8-sig", errors="ignore").lstrip()
    except OSError:
        return False
    if path.suffix == ".json":
        return begin.startswith("[")
    header = begin.split("\n")[0].lower()
    return "caption" in header and ("image" in header or "file" in header) and any(mark in header for mark in ",\t;|")


def _rows_of(place: Path, split: str | None, columns: Mapping[str, str] | None) -> tuple[list[Row], list[str]]:
    """The rows of one split (None: all) and the names of the splits there are."""
    if place.is_dir():
        files = split_files(place)
        if split is not None and split not in files:
            raise missing_split(place, split, in_split_order(set(files)))
        wanted = files if split is None else {split: files[split]}
        rows = [row for paths in wanted.values() for path in paths for row in _rows_in(path, columns)]
        return rows, in_split_order(set(files))
    rows = read_rows(place, columns)
    if not any(row.split for row in rows):
        return rows, [NO_SPLIT]
    for row in rows:
        if not row.split:
            raise DataError(f"{row.where}: the row names no split, but others do. Fill in its split.")
    there = in_split_order({_split_of(row) for row in rows})
    return [row for row in rows if split is None or _split_of(row) == split], there


def _rows_in(path: Path, columns: Mapping[str, str] | None) -> list[Row]:
    """The rows of the file of one split; those of ``restval`` are marked."""
    rows = read_rows(path, columns)
    split = path.parent.name if path.name in SINGLE_FILES else path.name.partition(".")[0]
    return [replace(row, split=RESTVAL) for row in rows] if split == RESTVAL else rows


def _split_of(row: Row) -> str:
    return "train" if row.split == RESTVAL else row.split


def splits(place: Path, *, columns: Mapping[str, str] | None = None) -> list[str]:
    """Names of the splits: those of the split column or of the files, ``all`` when nothing names one."""
    if place.is_dir():
        return in_split_order(set(split_files(place)))
    return _rows_of(place, None, columns)[1]


def read(place: Path, split: str, *, dataset: str, columns: Mapping[str, str] | None = None) -> Split:
    """Read one split of a file of rows.

    When the rows have a ``source`` field and one source is called like the data set, only its rows are read. When a
    picture file has several ids, the ids are those of the captions, and images are told apart by their files, unless
    ``columns`` names the ids.

    Raises:
        DataError: the split is missing, a row is damaged, an image has two files, or the rows have sources, none of
            them called like a data set that the folder is not called like either.
    """
    rows, there = _rows_of(place, split, columns)
    if split not in there:
        raise missing_split(place, split, there)
    notes = [f"columns: {name_columns(rows)}"]
    chosen = _of_source(rows, dataset, place, split)
    if len(chosen) < len(rows):
        notes.append(f"{len(chosen):,} of {len(rows):,} rows: source {dataset!r} only")
    rows = chosen
    if "id" not in (columns or {}) and numbers_rows([row.id for row in rows], [row.image for row in rows]):
        notes.append("the ids number captions, not images: images are told apart by their files")
        rows = [replace(row, id=row.image or row.id) for row in rows]
    rest = len({row.id for row in rows if row.split == RESTVAL})
    if rest:
        notes.append(f"{rest:,} images are {RESTVAL}, which counts as train")
    texts, images, file_of = [], [], dict[str, str]()
    for row in rows:
        if file_of.setdefault(row.id, row.image) != row.image:
            raise DataError(
                f"{row.where}: image {row.id!r} has the file {row.image!r}, but earlier {file_of[row.id]!r}."
            )
        for caption in row.captions:
            texts.append(require_caption(caption, row.where))
            images.append(row.id)
    image_ids, owner = group_by_image(images, texts)
    files, note = _files(place, [file_of[image] for image in image_ids], [row.folder for row in rows])
    return Split(
        dataset=dataset,
        name=split,
        image_ids=image_ids,
        captions=texts,
        owner=owner,
        files=files,
        layout=f"pairs_file in '{place}'",
        notes=tuple(note for note in (*notes, note) if note),
    )


def _of_source(rows: list[Row], dataset: str, place: Path, split: str) -> list[Row]:
    """The rows whose source is called like the data set; all of them when the folder is called so, or none has one."""
    chosen = [row for row in rows if row.source == dataset]
    sources = Counter(row.source for row in rows if row.source)
    folder = place if place.is_dir() else place.parent
    if chosen or not sources or dataset in (place.name, folder.name, folder.parent.name, guess_name(place)):
        return chosen or rows
    shown = [f"{source!r} ({count:,} rows)" for source, count in sources.most_common(SHOWN_SOURCES)]
    shown += ["..."] if len(sources) > SHOWN_SOURCES else []
    raise DataError(
        f"'{place}': no row of split '{split}' has the source {dataset!r}. Sources found: {', '.join(shown)}. "
        "Name one of them, or leave the name out to read all rows."
    )


def _files(place: Path, names: list[str], homes: list[Path]) -> tuple[list[Path] | None, str]:
    """Where the pictures are: below the rows file as written, else in a picture folder near it."""
    if not all(names):
        return None, "no pictures found (the rows name no image file)"
    home = homes[0]
    written = [home / name.replace("\\", "/") for name in names]
    missing = sum(not path.is_file() for path in written)
    if missing == 0:
        return written, ""
    files, note = expected_files(names, picture_folders(place))
    if files is not None and not note:
        return files, ""
    if missing < len(written):
        return written, f"{missing:,} of {len(written):,} pictures are missing"
    return files, note
