"""Which COCO image and which COCO caption every row and column of a score matrix is.

CxC and ECCV-Caption name captions by their annotation number, which SCAN's files do not hold. It is read from a file,
or from the package ``eccv_caption``, and then checked: the image of every caption must be the image of its column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int

from patchword.data.json_fields import as_list, as_object, field
from patchword.data.text_files import canonical_id, read_json, read_lines
from patchword.errors import DataError, ScoreError
from patchword.evaluate.cxc_files import caption_id
from patchword.evaluate.npy import read_numbers

ECCV_IDS = "coco_test_ids.npy"  # of the package eccv_caption: the 25,000 captions in SCAN's order


@dataclass(frozen=True)
class Gallery:
    """Rows and columns of a score matrix by id.

    Attributes:
        image_ids: N different ids, in one spelling.
        caption_ids: M different ids.
        owner: image of each caption.
        notes: where the ids come from and how they were checked.
    """

    image_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    owner: Int[np.ndarray, " M"]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """N and M."""
        return len(self.image_ids), len(self.caption_ids)

    def __post_init__(self) -> None:
        if len(self.caption_ids) != len(self.owner):
            raise ScoreError(
                f"{len(self.caption_ids):,} caption ids for {len(self.owner):,} captions. Expected one id a caption, "
                "in the order of the captions."
            )
        for what, ids in (("image", self.image_ids), ("caption", self.caption_ids)):
            for name, times in Counter(ids).most_common(1):
                if times > 1:
                    raise ScoreError(f"{what} id {name!r} occurs more than once. Expected every {what} once.")


def make_gallery(
    owner: Int[np.ndarray, " M"],
    n_images: int,
    *,
    image_ids: Sequence[str] | None,
    caption_ids: Path | Sequence[str] | None,
    image_of: Mapping[str, str],
    folder: Path | None = None,
    split: str = "",
) -> Gallery:
    """Find the ids of a score matrix, and check captions against images.

    Args:
        owner: image of each caption.
        n_images: N.
        image_ids: N ids; None when the scores have none (they follow from the captions then).
        caption_ids: M ids, or a file of them: ``.npy``, ``.txt`` (one a line) or Karpathy's ``dataset_coco.json``.
        image_of: image of each caption according to the annotations.
        folder: annotations; ``{split}_capids.txt`` and ``coco_test_ids.npy`` are looked for there.
        split: name of the split, for these files.

    Raises:
        ScoreError: no ids can be found, or they contradict each other; the first contradiction is named.
    """
    if caption_ids is None or isinstance(caption_ids, Path):
        path = caption_ids or find_caption_ids(len(owner), folder, split)
        captions = read_caption_ids(path, owner, n_images, split)
        origin = f"caption ids of '{path.name}'"
        if len(captions) > len(owner) and image_ids is not None:  # whose order is checked below
            origin = f"the first {len(owner):,} of {len(captions):,} {origin}"
            captions = captions[: len(owner)]
    else:
        captions, origin = [caption_id(str(name)) for name in caption_ids], "caption ids as given"
    if not image_of:
        if image_ids is None:
            raise ScoreError("Neither the scores nor the annotations name the images. Save scores with --save-scores.")
        rows = tuple(canonical_id(name) for name in image_ids)
        return Gallery(rows, tuple(captions), owner, (f"{origin}; not checked: the annotations do not pair captions",))
    gallery = Gallery(_image_ids(image_ids, captions, owner, n_images, image_of), tuple(captions), owner)
    known = 0
    for column, (name, image) in enumerate(zip(captions, owner.tolist(), strict=True)):
        if name in image_of:
            known += 1
            if image_of[name] != gallery.image_ids[image]:
                raise ScoreError(
                    f"Caption {column} has the id {name}, which is a caption of image {image_of[name]}, but belongs to "
                    f"image {gallery.image_ids[image]} here. The caption ids are in another order than the captions."
                )
    if not known:
        raise ScoreError(
            f"None of the {len(captions):,} caption ids (first: {captions[0]!r}) occurs in the annotations. Expected "
            "COCO annotation numbers."
        )
    checked = f"{origin}; the images of {known:,} of {len(captions):,} captions agree with the annotations"
    return Gallery(gallery.image_ids, gallery.caption_ids, owner, (checked,))


def _image_ids(
    given: Sequence[str] | None,
    captions: Sequence[str],
    owner: Int[np.ndarray, " M"],
    n_images: int,
    image_of: Mapping[str, str],
) -> tuple[str, ...]:
    """Ids of the rows: as given, else those that the captions name."""
    if given is not None:
        return tuple(canonical_id(name) for name in given)
    found: list[str | None] = [None] * n_images
    for name, image in zip(captions, owner.tolist(), strict=False):
        found[image] = found[image] or image_of.get(name)
    missing = [k for k, name in enumerate(found) if name is None]
    if missing:
        raise ScoreError(
            f"The scores have no image ids, and the captions of {len(missing):,} rows (the first is row {missing[0]}) "
            "are not in the annotations. Save the scores with --save-scores, which keeps the ids."
        )
    return tuple(name or "" for name in found)


def eccv_folder() -> Path | None:
    """Data folder of the installed package ``eccv_caption``, which is not imported."""
    spec = find_spec("eccv_caption")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) / "data" if places and (Path(places[0]) / "data").is_dir() else None


def find_caption_ids(n_captions: int, folder: Path | None, split: str = "") -> Path:
    """A file of at least so many caption ids in the annotations, or in ``eccv_caption``.

    Raises:
        ScoreError: there is none.
    """
    places = [place for place in (folder, eccv_folder()) if place is not None]
    names = [*([f"{split}_capids.txt"] if split else []), "testall_capids.txt", ECCV_IDS]
    for path in (place / name for name in dict.fromkeys(names) for place in places):
        if path.is_file() and len(_plain_ids(path)) >= n_captions:
            return path
    raise ScoreError(
        f"No ids of the {n_captions:,} captions were found. Pass --caption-ids FILE (.npy or .txt with one COCO "
        "annotation number a caption, or dataset_coco.json), or, for COCO's test split, pip install --no-deps "
        "eccv_caption, which holds those of its 25,000 captions."
    )


def read_caption_ids(path: Path, owner: Int[np.ndarray, " M"], n_images: int, split: str = "") -> list[str]:
    """Read caption ids from ``.npy``, ``.txt`` or Karpathy's JSON.

    Raises:
        DataError: missing or of another kind.
    """
    if not path.is_file():
        raise DataError(f"'{path}' is not a file. Expected caption ids: .npy, .txt or dataset_coco.json.")
    if path.suffix in (".npy", ".txt"):
        return _plain_ids(path)
    return _karpathy_ids(path, owner, n_images, split)


def _plain_ids(path: Path) -> list[str]:
    """Ids of a ``.npy`` or ``.txt`` file."""
    if path.suffix == ".txt":
        return [caption_id(line) for line in read_lines(path)]
    numbers = read_numbers(path)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(f"'{path}' holds {numbers.dtype} of shape {numbers.shape}. Expected one number a caption.")
    return [str(number) for number in numbers.tolist()]


def _karpathy_ids(path: Path, owner: Int[np.ndarray, " M"], n_images: int, split: str) -> list[str]:
    """``sentids`` of the images of a split, as many of each image as it has captions here."""
    wanted = "test" if split.startswith("test") or not split else "val" if split in ("dev", "val") else split
    where = f"'{path}'"
    images = as_list(field(as_object(read_json(path), where), "images", where), f"{where} images")
    rows = [as_object(image, where) for image in images]
    lists = [as_list(field(row, "sentids", where), where) for row in rows if row.get("split") == wanted]
    if len(lists) < n_images:
        raise DataError(f"{where} has {len(lists):,} images of the split {wanted!r}. Expected {n_images:,}.")
    per_image: np.ndarray = np.bincount(owner, minlength=n_images)
    return [str(number) for one, count in zip(lists, per_image.tolist(), strict=False) for number in one[:count]]
