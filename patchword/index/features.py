"""Region features of a data folder as the input of an index: found by a picture's name, or indexed by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from patchword.data.extras import read_extras
from patchword.data.features import RegionFeatures, require_width
from patchword.data.open import open_split, splits_of
from patchword.data.table import Split
from patchword.data.text_files import canonical_id, strip_suffix
from patchword.errors import ConfigError, DataError
from patchword.index.scan import Seen
from patchword.index.tables import read_by_path
from patchword.model import Model
from patchword.store.manifest import FeatureSource
from patchword.types import Images


@dataclass(frozen=True, order=True)
class Spot:
    """An image of a feature folder: which split, and the position in it."""

    split: int
    row: int


class FeatureFolder:
    """The region features that an index reads.

    Args:
        source: data folder, name and splits.

    Raises:
        DataError: a split is missing or has no features, or the file of names can not be read.
    """

    def __init__(self, source: FeatureSource) -> None:
        self.source = source
        self.splits = [open_split(source.root, split, name=source.name, images="features") for split in source.splits]
        for split in self.splits:
            split.require_images()
        self.keys: dict[str, Spot] = {}
        self._by_label: dict[str, Spot] = {}
        for number, split in enumerate(self.splits):
            for row, name in enumerate(split.image_ids):
                self._by_label[f"{split.name}/{name}"] = Spot(number, row)
        for make in (str, strip_suffix, canonical_id):  # exact names of all splits come before shortened ones
            for number, split in enumerate(self.splits):
                for row in range(split.n_images):
                    for name in _names(split, row):
                        self.keys.setdefault(make(name), Spot(number, row))
        self.names = Names({} if source.names is None else read_names(Path(source.names)))

    def find(self, path: str) -> Spot | None:
        """The features of a picture: those that the file of names gives it, see `Names`; else by its path, its name,
        its name without ending or its canonical id."""
        given = self.names.find(path)
        wanted = path if given is None else given
        name = wanted.rpartition("/")[2]
        if given is not None and wanted not in self.keys:
            name = name.rpartition(":")[2]
        for key in (wanted, name, strip_suffix(name), canonical_id(name)):
            if key in self.keys:
                return self.keys[key]
        return None

    def label(self, spot: Spot) -> str:
        """``split/image id``."""
        split = self.splits[spot.split]
        return f"{split.name}/{split.image_ids[spot.row]}"

    def labelled(self, label: str) -> Spot:
        """The inverse of `label`.

        Raises:
            DataError: there is no such image (any more).
        """
        if label not in self._by_label:
            raise DataError(f"'{self.source.root}' has no features of {label!r} any more. Sync the index.")
        return self._by_label[label]

    def check(self, model: Model) -> None:
        """Refuse features that do not fit a model.

        Raises:
            DataError: their width differs, or a side input is missing.
        """
        for split in self.splits:
            require_width(split, int(model.method.config.image.width))
            _require_extras(split, model.method.image_extras)

    def read(self, spots: Sequence[Spot], extras: Sequence[str]) -> Images:
        """A batch for the encoder; all of one split.

        Raises:
            DataError: the features hold NaN or an infinity, or a side input is missing.
        """
        split = self.splits[spots[0].split]
        _require_extras(split, extras)
        rows = [spot.row for spot in spots]
        images = split.require_images().read(rows)
        return replace(images, extra=read_extras(split.image_extras, extras, rows))

    def boxes(self, spot: Spot, count: int) -> np.ndarray | None:
        """``(R, 4)`` boxes of an image with ``count`` regions; None when they are not known."""
        boxes = self.splits[spot.split].boxes
        return None if boxes is None else np.asarray(boxes[spot.row][:count], dtype=np.float16)

    def folders(self) -> set[Path]:
        """The folders in which the feature files lie."""
        sources = [split.require_images() for split in self.splits]
        return {one.path.parent if isinstance(one, RegionFeatures) else Path(self.source.root) for one in sources}

    @cached_property
    def alone(self) -> dict[str, Spot]:
        """Every image by its name where it is indexed by itself: its id, with its split where the id is in several."""
        counts = Counter(name for split in self.splits for name in split.image_ids)
        return {
            name if counts[name] == 1 else f"{split.name}/{name}": Spot(number, row)
            for number, split in enumerate(self.splits)
            for row, name in enumerate(split.image_ids)
        }

    def seen(self, root: int) -> list[Seen]:
        """Every image as if it were a file, sorted by path: rows have the size and the time of their file."""
        files = [split.require_images() for split in self.splits]
        paths = [one.path if isinstance(one, RegionFeatures) else Path(self.source.root) for one in files]
        abouts = [path.stat() for path in paths]
        return [
            Seen(root, name, abouts[spot.split].st_size, abouts[spot.split].st_mtime_ns)
            for name, spot in sorted(self.alone.items())
        ]

    def hash(self, images: Images, row: int, spot: Spot) -> str:
        """Hash of all that an image of a batch is encoded from, and of its boxes.

        Args:
            images: as read, with the side inputs that the model reads.
            row: position in the batch.
            spot: where the image is.
        """
        count = images.values.shape[1] if images.lengths is None else int(images.lengths[row])
        values = images.values[row, :count].to(torch.float32).contiguous().numpy()
        digest, boxes = blake2b(values.tobytes(), digest_size=16), self.boxes(spot, count)
        if boxes is not None:
            digest.update(boxes.tobytes())
        for side in images.extra.values():
            digest.update(side[row].contiguous().numpy().tobytes())
        return digest.hexdigest()


class Names:
    """Which image of the features a picture is, as a file of names says it.

    A row is about a picture where its path, or the end of one of the two paths in whole parts, is the other: so
    ``/photos/a/x.png`` and ``a/x.png`` are one picture, and ``a/x.png`` and ``b/x.png`` are two.

    Args:
        ids: path to image id.

    Example:
        >>> names = Names({"images/x.png": "1", "y.png": "2", "a/z.png": "3", "b/z.png": "4"})
        >>> [names.find(path) for path in ("x.png", "other/x.png", "deep/y.png", "z.png", "b/z.png")]
        ['1', None, '2', None, '4']
    """

    def __init__(self, ids: dict[str, str]) -> None:
        self._rows: dict[str, list[tuple[tuple[str, ...], str]]] = {}  # by name: parts of the path, and id
        for path, given in ids.items():
            parts = _parts(path)
            self._rows.setdefault(parts[-1] if parts else "", []).append((parts, given))

    def find(self, path: str) -> str | None:
        """The id that is given to a picture; None where no row is about it, or several that differ are."""
        parts = _parts(path)
        rows = self._rows.get(parts[-1], []) if parts else []
        found = {given for own, given in rows if own == parts}
        found = found or {given for own, given in rows if own[-len(parts) :] == parts or parts[-len(own) :] == own}
        return found.pop() if len(found) == 1 else None


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, without its root.

    Example:
        >>> _parts("/photos//./a.png")
        ('photos', 'a.png')
    """
    pure = PurePosixPath(path)
    return pure.parts[1:] if pure.anchor else pure.parts


def _require_extras(split: Split, names: Sequence[str]) -> None:
    for name in names:
        if name not in split.image_extras:
            raise DataError(
                f"this model also reads `{name}` of the images, which {split.dataset}/{split.name} lacks. "
                "Make it with: patchword prepare, or patchword extract."
            )


def _names(split: Split, row: int) -> list[str]:
    """What an image is called: its id, and its file's path and name."""
    names = [split.image_ids[row]]
    if split.files is not None:
        names.append(split.files[row].name)
    return names


def read_names(file: Path) -> dict[str, str]:
    """Picture to image id: from columns ``path`` and ``id``, where an id may carry its data set (``flickr8k:1.jpg``).

    Raises:
        DataError: it can not be read, or a row has no id.
    """
    _, rows = read_by_path(file)
    found = {}
    for path, (line, fields) in rows.items():
        image = fields.get("id")
        if not isinstance(image, str | int) or image == "":
            raise DataError(f"'{file}' line {line}: `id` is {image!r}. Expected the image's id in the features.")
        found[path] = str(image)
    return found


def feature_source(
    features: Path | str, *, name: str | None = None, splits: Sequence[str] = (), names: Path | str | None = None
) -> FeatureSource:
    """What the manifest says about a feature folder: all its splits, unless some are named.

    Raises:
        DataError: no data set is recognised there.
        ConfigError: there is no split.
    """
    chosen = tuple(splits) or tuple(splits_of(features, name=name))
    if not chosen:
        raise ConfigError(f"'{features}' has no splits.")
    listing = None if names is None else str(Path(names).resolve())
    return FeatureSource(root=str(Path(features).resolve()), name=name, splits=chosen, names=listing)
