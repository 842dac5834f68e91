"""What to say about a folder in which no data set is recognised: what is there, and the most likely fix."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from patchword.data.find_pictures import pictures_in

TABLES = (".csv", ".tsv", ".jsonl")
SHOWN_NAMES, LONGEST_NAME = 3, 40


@dataclass(frozen=True)
class Contents:
    """What lies in a folder.

    Attributes:
        pictures: number of picture files in it and in its direct sub-folders.
        tables: names of the files that may hold captions, by their ending.
        others: names of the other files, and of folders without pictures; hidden ones are left out.
    """

    pictures: int
    tables: list[str]
    others: list[str]

    def __str__(self) -> str:
        """The object of "holds", such as ``40 pictures and my_captions.csv``; empty for an empty folder."""
        names = [
            name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in (*self.tables, *self.others)
        ]
        parts = [f"{self.pictures:,} pictures" if self.pictures > 1 else "1 picture"] if self.pictures else []
        parts += names[:SHOWN_NAMES] + (["more"] if len(names) > SHOWN_NAMES else [])
        return "".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def contents_of(folder: Path) -> Contents:
    """Look through a folder and its direct sub-folders."""
    pictures = list(pictures_in(folder))
    seen = {path.partition("/")[0] for path in pictures}
    with os.scandir(folder) as entries:
        rest = sorted(entry.name + "/" * entry.is_dir() for entry in entries if entry.name not in seen)
    names = [name for name in rest if not name.startswith(".")]
    tables = [name for name in names if name.lower().endswith(TABLES)]
    return Contents(len(pictures), tables, [name for name in names if name not in tables])


def likely_fix(contents: Contents, folder: Path) -> str:
    """What to do, as one or two sentences."""
    rename, search = "", ""
    if contents.tables:
        table = contents.tables[0]
        ending = os.path.splitext(table)[1].lower()
        rename = f"If {table} holds the captions, rename it to captions{ending}."
    if contents.pictures:
        search = f"Pictures without captions can be searched (patchword index build {folder})."
    return " ".join(filter(None, (rename, search))) or "Expected features or pictures, and their captions."
