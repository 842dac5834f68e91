"""Finding the picture file of every image: by its id, by its listed file name, or through ``id_mapping.json``.

Picture folders have many names (``images``, ``flickr30k-images``, ``val2014`` ...); all that lie beside or one level
above an annotation file are searched, and their direct sub-folders. A reader gets *expected* paths for every image as
soon as one picture is there; whether all exist is decided when the split is opened.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchword.data.text_files import PICTURE_SUFFIXES, canonical_id, read_json, strip_suffix
from patchword.errors import DataError

PICTURE_FOLDERS = (
    "images",
    "Images",
    "flickr30k-images",
    "flickr30k_images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "train2014",
    "val2014",
    "train2017",
    "val2017",
    "test2015",
)


def is_picture_name(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def picture_folders(place: Path) -> list[Path]:
    """Folders with a usual picture-folder name beside ``place`` (a file or folder), in it, or one level above."""
    bases = [place, place.parent] if place.is_dir() else [place.parent, place.parent.parent]
    return [base / name for base in bases for name in PICTURE_FOLDERS if (base / name).is_dir()]


def pictures_in(folder: Path, *, levels: int = 1) -> Iterator[str]:
    """Paths below ``folder``, with ``/``, of the pictures in it and in sub-folders down to ``levels``; sorted."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            if levels > 0:
                yield from (f"{entry.name}/{below}" for below in pictures_in(Path(entry.path), levels=levels - 1))
        elif is_picture_name(entry.name):
            yield entry.name


@dataclass
class PictureIndex:
    """Where pictures are, by path below their folder, by file name, by name without ending and by canonical id.

    ``repeated`` holds the names and ids that several pictures of one folder have.
    """

    folders: list[Path] = field(default_factory=list)
    exact: dict[str, Path] = field(default_factory=dict)
    canonical: dict[str, Path] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)

    def add(self, folder: Path) -> None:
        """Index a folder; what is already known stays."""
        self.folders.append(folder)
        there = list(pictures_in(folder))
        self.repeated |= shared_names(there)
        for below in there:
            path, name = folder / below, below.rpartition("/")[2]
            for key in (below, f"{folder.name}/{below}", name, strip_suffix(name)):
                self.exact.setdefault(key, path)
            self.canonical.setdefault(canonical_id(name), path)

    def resolve(self, name: str, shared: Collection[str] = ()) -> Path | None:
        """The picture of an id or listed file name; None when there is none.

        Args:
            name: as listed. A path that is not there stands for the picture of its last part, when that is one picture
                and no other path is listed with it: pictures are moved, but ``b/1.jpg`` is not ``a/1.jpg``.
            shared: last parts that several listed paths have, see `shared_names`.
        """
        key = _path_of(name)
        if key in self.exact:
            return self.exact[key]
        folder, _, last = key.rpartition("/")
        for part, known in ((last, self.exact), (canonical_id(key), self.canonical)):
            if part in known and not (folder and (part in self.repeated or part in shared)):
                return known[part]
        return None


def _path_of(name: str) -> str:
    """A listed path with ``/`` between its parts."""
    return name.replace("\\", "/").removeprefix("./")


def shared_names(paths: Iterable[str]) -> set[str]:
    """File names, with and without ending, and canonical ids that several different paths have.

    Example:
        >>> sorted(shared_names(["a/1.jpg", "b/1.jpg", "b/2.jpg", "b/2.jpg"]))
        ['1', '1.jpg']
    """
    names = Counter[str]()
    for path in {_path_of(path) for path in paths}:
        last = path.rpartition("/")[2]
        names.update({last, strip_suffix(last), canonical_id(last)})
    return {name for name, times in names.items() if times > 1}


def index_pictures(folders: Sequence[Path]) -> PictureIndex:
    """Index several folders, earlier ones first."""
    index = PictureIndex()
    for folder in folders:
        index.add(folder)
    return index


def expected_files(names: Sequence[str], folders: Sequence[Path]) -> tuple[list[Path] | None, str]:
    """A path for every listed name: where the picture is, or where it should be.

    Returns:
        The paths, or None when no single picture was found; and a note that says what was missing.
    """
    index = index_pictures(folders)
    shared = shared_names(names)
    found = [index.resolve(name, shared) for name in names]
    n_missing = sum(path is None for path in found)
    if n_missing == len(found):
        looked = ", ".join(f"'{folder}'" for folder in folders) or "no picture folder is near"
        return None, f"no pictures found ({looked})"
    example = next(path for path in found if path is not None)
    paths = [
        path or example.parent / (name if is_picture_name(name) else f"{name}{example.suffix}")
        for name, path in zip(names, found, strict=True)
    ]
    return paths, (f"{n_missing:,} of {len(found):,} pictures are missing" if n_missing else "")


def find_id_mapping(place: Path) -> Path | None:
    """``id_mapping.json`` in or one level above an annotation folder; None when there is none."""
    for folder in (place, place.parent):
        if (folder / "id_mapping.json").is_file():
            return folder / "id_mapping.json"
    return None


def read_id_mapping(path: Path) -> dict[str, str]:
    """Image id to picture file name.

    Raises:
        DataError: the file is not a JSON object of texts.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise DataError(f'\'{path}\' is not an object of file names. Expected {{"0": "1000092795.jpg", ...}}.')
    return content


def pictures_of_ids(place: Path, image_ids: Sequence[str]) -> tuple[list[Path] | None, str]:
    """Expected picture files of images that are known by id.

    With an ``id_mapping.json`` its names are looked for; without one, pictures named like the ids: ``<id>.png``,
    ``COCO_val2014_<id, 12 digits>.jpg`` and so on.

    Raises:
        DataError: there is a mapping and it lacks an id.
    """
    folders = picture_folders(place)
    mapping_path = find_id_mapping(place)
    if mapping_path is None:
        files, note = expected_files(image_ids, folders)
        return files, note if folders else ""
    mapping = read_id_mapping(mapping_path)
    unknown = [image for image in image_ids if image not in mapping]
    if unknown:
        raise DataError(
            f"'{mapping_path}' has no entry for {len(unknown):,} of {len(image_ids):,} images, first {unknown[0]!r}. "
            f"Its {len(mapping):,} keys belong to other ids; use the mapping of this data set."
        )
    return expected_files([mapping[image] for image in image_ids], folders)
