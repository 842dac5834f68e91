"""Flickr8k and Flickr30K as their authors and Kaggle give them out: one caption per line, named after the picture.

``Flickr8k.token.txt`` and ``results_20130124.token`` hold ``name.jpg#k<TAB>caption``; Kaggle's ``results.csv`` holds
``name.jpg| k| caption``. Lists of names, ``Flickr_8k.trainImages.txt``, say which picture is in which split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from patchword.data.find_pictures import expected_files, picture_folders
from patchword.data.table import Split, group_by_image
from patchword.data.text_files import (
    in_split_order,
    missing_split,
    read_bytes,
    read_lines,
    require_caption,
    strip_suffix,
)
from patchword.errors import DataError

NO_SPLIT = "all"
_TOKEN_LINE = re.compile(r"(?P<name>\S.*?)#(?P<k>\d+)\s+(?P<caption>\S.*)", re.DOTALL)
_BAR_LINE = re.compile(r"(?P<name>[^|]+)\|\s*(?P<k>\d+)\s*\|?\s*(?P<caption>\S.*)", re.DOTALL)
_SPLIT_LIST = re.compile(
    r"(?:.*[._-])?(?P<split>train|dev|val|test)(?:[._-]?images)?\.(?:txt|lst)", re.IGNORECASE | re.DOTALL
)


def _folders(root: Path, name: str | None) -> list[Path]:
    homes = [root / name, root] if name else [root]
    return [folder for home in homes for folder in (home, home / "annotations", home / "text")]


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every path at which such files are looked for."""
    return [folder / file for folder in _folders(root, name) for file in ("*.token.txt", "*.token", "results.csv")]


def find(root: Path, name: str | None = None) -> Path | None:
    """The file of captions, or None."""
    if root.is_file():
        return root if _is_token_file(root) else None
    for pattern in candidates(root, name):
        there = sorted(path for path in pattern.parent.glob(pattern.name) if _is_token_file(path))
        if there:  # Flickr8k comes with ``Flickr8k.lemma.token.txt``, whose words are base forms, not sentences
            return next((path for path in there if ".lemma." not in path.name), there[0])
    return None


def _is_token_file(path: Path) -> bool:
    """Whether the name fits and, for ``results.csv``, whether bars part the columns."""
    if path.name != "results.csv":
        return path.is_file() and path.name.endswith((".token", ".token.txt"))
    return path.is_file() and b"|" in read_bytes(path)[:200].split(b"\n")[0]


def split_lists(place: Path) -> dict[str, Path]:
    """Lists of picture names near a captions file: split to file."""
    found: dict[str, Path] = {}
    for folder in (place.parent, place.parent / "image_splits", place.parent / "splits"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            named = _SPLIT_LIST.fullmatch(path.name)
            if named and path.is_file():
                found.setdefault(named.group("split").lower(), path)
    return found


def splits(place: Path) -> list[str]:
    """Names of the splits that have a list of pictures; ``all`` without lists."""
    return in_split_order(set(split_lists(place))) or [NO_SPLIT]


def read_token_lines(path: Path) -> dict[str, list[str]]:
    """Captions of each picture by their number, pictures in order of first appearance.

    Two blanks in place of the tab and a missing second bar occur in the files that are passed around, and are read.

    Raises:
        DataError: a line has no picture name, number or caption.
    """
    lines = read_lines(path)
    barred = path.name == "results.csv"
    numbered: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines, start=1):
        if barred and number == 1:
            continue  # header
        parts = (_BAR_LINE if barred else _TOKEN_LINE).fullmatch(line)
        if parts is None:
            expected = "name.jpg| 0| caption" if barred else "name.jpg#0<TAB>caption"
            raise DataError(f"'{path}' line {number} is {line[:60]!r}. Expected {expected!r}.")
        caption = require_caption(parts["caption"], f"'{path}' line {number}")
        numbered.setdefault(parts["name"].strip(), []).append((int(parts["k"]), caption))
    if not numbered:
        raise DataError(f"'{path}' has no captions. Expected one in each line.")
    return {name: [text for _, text in sorted(found, key=lambda item: item[0])] for name, found in numbered.items()}


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one split, in the order of its list of pictures.

    Names in the list that have no caption are left out and counted in ``notes``: copies with foreign names appended
    are passed around.

    Raises:
        DataError: the split is missing, a line is damaged, or no name of the list has captions.
    """
    there = splits(place)
    if split not in there:
        raise missing_split(place, split, there)
    captions_of = read_token_lines(place)
    names, note = list(captions_of), ""
    if split != NO_SPLIT:
        names, note = _listed(split_lists(place)[split], captions_of)
    texts = [text for name in names for text in captions_of[name]]
    image_ids, owner = group_by_image([name for name in names for _ in captions_of[name]], texts)
    files, picture_note = expected_files(image_ids, picture_folders(place))
    return Split(
        dataset=dataset,
        name=split,
        image_ids=image_ids,
        captions=texts,
        owner=owner,
        files=files,
        layout=f"token_files in '{place}'",
        notes=tuple(n for n in (note, picture_note) if n),
    )


def _listed(path: Path, captions_of: Iterable[str]) -> tuple[list[str], str]:
    """Names of a split list that have captions, spelt as the captions file spells them."""
    known = {strip_suffix(name): name for name in reversed(list(captions_of))}
    listed = [strip_suffix(line) for line in read_lines(path) if line]
    names = [known[name] for name in dict.fromkeys(listed) if name in known]
    foreign = [name for name in listed if name not in known]
    if not names:
        raise DataError(f"'{path}' lists {len(listed):,} pictures, none of which has a caption. It is of other data.")
    return names, f"{len(foreign):,} listed names without a caption left out, first {foreign[0]!r}" if foreign else ""
