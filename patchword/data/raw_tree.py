"""Raw-image trees of LAPS, SCTA and VSE-infinity: SCAN's text files, ``id_mapping.json`` and a folder of pictures.

``{split}_caps.txt`` and ``{split}_ids.txt`` are those of the precomp layout; there are no features. Each id becomes a
picture through ``id_mapping.json``; without one, pictures are found by names that contain the id, as COCO's do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from patchword.data import precomp
from patchword.data.find_pictures import find_id_mapping, picture_folders
from patchword.data.table import Split

candidates = precomp.candidates
splits = precomp.splits


def find(root: Path, name: str | None = None) -> Path | None:
    """The folder of the text files when it has no features and a mapping or pictures are near, or None."""
    place = precomp.find(root, name)
    if place is None or any(place.glob("*_ims.npy")):
        return None
    return place if find_id_mapping(place) is not None or picture_folders(place) else None


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one split.

    Raises:
        DataError: a file is missing or inconsistent, or ``id_mapping.json`` lacks an id.
    """
    return replace(precomp.read_precomp(place, split, dataset=dataset), layout=f"raw_tree in '{place}'")
