"""A folder of pictures, each with a text file of the same name that holds its captions, one per line.

Sub-folders called like splits (``train/``, ``test/``) are splits; otherwise everything is one split, ``all``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from patchword.data.find_pictures import is_picture_name
from patchword.data.split_names import is_split_name
from patchword.data.table import Split
from patchword.data.text_files import ASK_DOCTOR, in_split_order, missing_split, read_captions
from patchword.errors import DataError

NO_SPLIT = "all"


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every folder that is looked at."""
    return [root / name, root] if name else [root]


def find(root: Path, name: str | None = None) -> Path | None:
    """The folder that holds pictures with texts beside them, or None."""
    return next((folder for folder in candidates(root, name) if folder.is_dir() and _has_pair(folder)), None)


def _has_pair(folder: Path) -> bool:
    """Whether any picture below has its text; stops at the first."""
    for home, folders, names in os.walk(folder):
        folders.sort()
        there = set(names)
        if any(is_picture_name(name) and f"{os.path.splitext(name)[0]}.txt" in there for name in names):
            return True
        if home.count(os.sep) - str(folder).count(os.sep) >= 3:
            folders.clear()
    return False


def splits(place: Path) -> list[str]:
    """Names of the sub-folders called like splits that hold pairs, or ``all``."""
    called = (path for path in place.iterdir() if is_split_name(path.name))
    named = {path.name for path in called if path.is_dir() and _has_pair(path)}
    return in_split_order(named) or [NO_SPLIT]


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one split: pictures sorted by path; pictures without a text are left out and counted in ``notes``.

    Raises:
        DataError: the split is missing, a text is empty, or two pictures share a text.
    """
    there = splits(place)
    if split not in there:
        raise missing_split(place, split, there)
    home = home_of(place, split, there)
    described, bare = pairs_below(home)
    files, captions, owner = list[Path](), list[str](), list[int]()
    for text_path, pictures in described.items():
        if len(pictures) > 1:
            raise DataError(f"'{text_path}' belongs to two pictures of the same name. Rename one with its own text.")
        texts = read_captions(text_path)
        if not texts:
            raise DataError(
                f"'{text_path}' is empty. Expected the captions of '{pictures[0].name}', one per line. "
                f"{ASK_DOCTOR} {place}"
            )
        owner += [len(files)] * len(texts)
        files.append(pictures[0])
        captions += texts
    return Split(
        dataset=dataset,
        name=split,
        image_ids=[path.relative_to(home).as_posix() for path in files],
        captions=captions,
        owner=np.asarray(owner, dtype=np.int64),
        files=files,
        layout=f"folder '{home}'",
        notes=(f"{len(bare):,} pictures without a .txt left out",) if bare else (),
    )


def home_of(place: Path, split: str, there: list[str]) -> Path:
    """The folder of a split, of those that are ``there``."""
    return place if there == [NO_SPLIT] else place / split


def pairs_below(home: Path) -> tuple[dict[Path, list[Path]], list[Path]]:
    """The texts below a folder, each with its pictures (one, if all is well), and the pictures without a text."""
    described: dict[Path, list[Path]] = {}
    bare = []
    for path in pictures_below(home):
        text = path.with_suffix(".txt")
        if text.is_file():
            described.setdefault(text, []).append(path)
        else:
            bare.append(path)
    return described, bare


def pictures_below(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by path."""
    return sorted(Path(home) / name for home, _, names in os.walk(folder) for name in names if is_picture_name(name))
