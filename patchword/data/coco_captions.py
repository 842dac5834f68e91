"""COCO's own caption files: ``annotations/captions_{train,val}{2014,2017}.json``.

A split is called as the file calls it, ``val2014``: the 5,000 images of ``val2017`` are another set than the 5,000
test images of Karpathy's split, so nothing here is ever named ``test``.
"""

from __future__ import annotations

from pathlib import Path

from patchword.data.find_pictures import expected_files, picture_folders
from patchword.data.json_fields import as_list, as_object, field, text_field
from patchword.data.table import Split, group_by_image
from patchword.data.text_files import in_split_order, missing_split, read_json, require_caption
from patchword.errors import DataError


def _folders(root: Path, name: str | None) -> list[Path]:
    homes = [root / name, root] if name else [root]
    return [folder for home in homes for folder in (home / "annotations", home)]


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every path at which such files are looked for."""
    return [folder / "captions_{split}.json" for folder in _folders(root, name)]


def find(root: Path, name: str | None = None) -> Path | None:
    """The folder of the caption files (or the one file given), or None."""
    if root.is_file():
        return root if _split_files(root) else None
    return next((folder for folder in _folders(root, name) if _split_files(folder)), None)


def _split_files(place: Path) -> dict[str, Path]:
    """Split to caption file."""
    paths = [place] if place.is_file() else sorted(place.glob("captions_*.json*"))
    named = {path.name.removesuffix(".gz").removesuffix(".json"): path for path in paths}
    return {name.removeprefix("captions_"): path for name, path in named.items() if name.startswith("captions_")}


def splits(place: Path) -> list[str]:
    """Names of the splits, such as ``val2014``."""
    return in_split_order(set(_split_files(place)))


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one file: images in its order, the captions of an image by annotation id.

    Raises:
        DataError: the split or a field is missing, or a caption belongs to no image.
    """
    files = _split_files(place)
    if split not in files:
        raise missing_split(place, split, in_split_order(set(files)))
    path = files[split]
    content = as_object(read_json(path), f"'{path}'")
    names: dict[str, str] = {}
    for k, entry in enumerate(as_list(field(content, "images", f"'{path}'"), f"'{path}': 'images'")):
        where = f"'{path}' image {k}"
        record = as_object(entry, where)
        image = text_field(record, "id", where)
        if image in names:
            raise DataError(f"{where}: image {image!r} is listed twice. Expected every image once.")
        names[image] = text_field(record, "file_name", where)
    captions_of: dict[str, list[tuple[int, str]]] = {image: [] for image in names}
    for k, entry in enumerate(as_list(field(content, "annotations", f"'{path}'"), f"'{path}': 'annotations'")):
        where = f"'{path}' annotation {k}"
        record = as_object(entry, where)
        image, number = text_field(record, "image_id", where), text_field(record, "id", where)
        if image not in captions_of:
            raise DataError(f"{where} describes image {image!r}, which is not among the {len(names):,} images.")
        if not number.isdigit():
            raise DataError(f"{where}: 'id' is {number!r}. Expected a whole number.")
        captions_of[image].append(
            (int(number), require_caption(field(record, "caption", where), f"{where}: the caption"))
        )
    pairs = [(image, text) for image, found in captions_of.items() for _, text in sorted(found)]
    if not pairs:
        raise DataError(f"'{path}' has no captions. Expected annotations with 'image_id' and 'caption'.")
    image_ids, owner = group_by_image([image for image, _ in pairs], [text for _, text in pairs])
    pictures, note = expected_files([names[image] for image in image_ids], picture_folders(path))
    without = len(names) - len(image_ids)
    return Split(
        dataset=dataset,
        name=split,
        image_ids=image_ids,
        captions=[text for _, text in pairs],
        owner=owner,
        files=pictures,
        layout=f"coco_captions in '{path}'",
        notes=tuple(n for n in (f"{without:,} images without a caption left out" if without else "", note) if n),
    )
