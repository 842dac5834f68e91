"""What an earlier extraction of regions left beside its features: of which detector they are, and of which pictures.

``{split}_regions.json`` tells the detector; ``{split}_pictures.jsonl`` has a line for each picture: its id, its size
and time of change (inside a table: a hash of its bytes), and its row in the features, which a picture that could not be
decoded has not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.data.hf import TablePictures
from patchword.data.pictures import PictureFiles
from patchword.files import write_whole

Stamp = tuple[int, int]  # bytes, and time of change in ns or a hash; (-1, 0) of a file that is not there


@dataclass(frozen=True)
class Earlier:
    """The complete files of a split.

    Attributes:
        about: content of ``{split}_regions.json``; empty where it can not be read.
        stamps: of each picture, by id, in their order; None in folders of older versions.
        rows: of the pictures that have one.
    """

    about: Mapping[str, Any]
    stamps: Mapping[str, Stamp] | None
    rows: Mapping[str, int]

    @property
    def is_unfinished(self) -> bool:
        """Whether a run was killed while it put its files into place, so that they may not belong together."""
        return bool(self.about.get("unfinished"))

    def is_of(self, fingerprint: str, ids: Sequence[str], stamps: Sequence[Stamp]) -> bool:
        """Whether the files are those that would be made now."""
        if self.about.get("fingerprint") != fingerprint:
            return False
        return self.stamps is None or list(self.stamps.items()) == list(zip(ids, stamps, strict=True))

    def unchanged(self, ids: Sequence[str], stamps: Sequence[Stamp]) -> dict[int, int]:
        """Row of each picture that is as it was, by its position among the pictures of now."""
        before = self.stamps or {}
        pairs = enumerate(zip(ids, stamps, strict=True))
        return {k: self.rows[one] for k, (one, stamp) in pairs if one in self.rows and before[one] == stamp}


def regions_file(folder: Path, split: str) -> Path:
    """Where the detector of a split is told."""
    return folder / f"{split}_regions.json"


def read_about(folder: Path, split: str) -> dict[str, Any]:
    """What is told of the detector; empty where nothing is."""
    try:
        found = json.loads(regions_file(folder, split).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_earlier(folder: Path, split: str) -> Earlier:
    """What an earlier run left of a split."""
    stamps: dict[str, Stamp] = {}
    rows: dict[str, int] = {}
    about = read_about(folder, split)
    try:
        for line in (folder / f"{split}_pictures.jsonl").read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            stamps[one["id"]] = int(one["size"]), int(one["mtime"])
            if one["row"] is not None:
                rows[one["id"]] = int(one["row"])
    except (OSError, ValueError, KeyError, TypeError):
        return Earlier(about, None, {})
    return Earlier(about, stamps, rows)


def write_pictures(folder: Path, split: str, ids: Sequence[str], stamps: Sequence[Stamp], left_out: set[int]) -> None:
    """Write the list of pictures; ``left_out`` are the positions of those without a row."""
    lines, row = [], 0
    for k, (one, (size, mtime)) in enumerate(zip(ids, stamps, strict=True)):
        mine = {"id": one, "size": size, "mtime": mtime, "row": None if k in left_out else row}
        lines.append(json.dumps(mine, ensure_ascii=False) + "\n")
        row += k not in left_out
    write_whole(folder / f"{split}_pictures.jsonl", "".join(lines))


def stamp(path: Path) -> Stamp:
    """Size and time of change of a picture."""
    try:
        about = path.stat()
    except OSError:
        return -1, 0
    return about.st_size, about.st_mtime_ns


def stamps_of(source: PictureFiles) -> list[Stamp]:
    """The stamps of all pictures; those inside a table have no time of change, so their bytes are hashed."""
    if not isinstance(source, TablePictures):
        return [stamp(path) for path in source.files]
    pictures = (source.raw(k) for k in range(len(source)))
    return [(-1, 0) if raw is None else (len(raw), _hash_of(raw)) for raw in pictures]


def _hash_of(raw: bytes) -> int:
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")


def open_rows(folder: Path, split: str) -> list[NDArray[np.float32]]:
    """Features and boxes of a split, memory-mapped."""
    return [np.load(folder / f"{split}_{what}.npy", mmap_mode="r") for what in ("ims", "boxes")]
