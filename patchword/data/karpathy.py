"""Karpathy's split files, ``dataset_{flickr8k,flickr30k,coco}.json``, and the lists that BLIP made of them.

One JSON object with every image of a data set, its split and its sentences; or one list per split,
``coco_karpathy_test.json``, of file names with their captions. Image ids are the ones SCAN uses: COCO's own number, or
the running number ``imgid``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from patchword.data.find_pictures import expected_files, picture_folders
from patchword.data.json_fields import as_list, as_object, field, text_field
from patchword.data.open import guess_name
from patchword.data.table import Split, group_by_image
from patchword.data.text_files import canonical_id, in_split_order, missing_split, read_json, require_caption
from patchword.errors import DataError

_LIST_NAME = re.compile(r"(?P<set>(?P<stem>\w+)_karpathy|flickr30k|flickr8k)_(?P<split>train|val|test)\.json(?:\.gz)?")
_SYNONYMS = {"f30k": ("flickr30k",), "f8k": ("flickr8k",)}


def _folders(root: Path, name: str | None) -> list[Path]:
    homes = [root / name, root] if name else [root]
    return [folder for home in homes for folder in (home, home / "annotations", home / "karpathy")]


def candidates(root: Path, name: str | None) -> list[Path]:
    """Every path at which such files are looked for."""
    stems = [name, *_SYNONYMS.get(name, ())] if name else ["*"]
    return [
        folder / file
        for folder in _folders(root, name)
        for file in (*(f"dataset_{stem}.json" for stem in stems), "dataset.json", "*_karpathy_*.json")
    ]


def find(root: Path, name: str | None = None) -> Path | None:
    """The JSON file, or the folder of BLIP-style lists, or ``<set>_*.json`` in a folder with lists of several, or None.

    Raises:
        DataError: files of several data sets lie side by side and no name was given.
    """
    if root.is_file():
        named = root.name.startswith("dataset") and root.name.removesuffix(".gz").endswith(".json")
        return root if named or _LIST_NAME.fullmatch(root.name) else None
    for path in candidates(root, name):
        if path.name.startswith("dataset"):
            found = sorted({*path.parent.glob(path.name), *path.parent.glob(f"{path.name}.gz")})
            found = [file for file in found if file.name.partition(".")[0] not in ("dataset_info", "dataset_dict")]
            if len(found) > 1:
                raise _several(path.parent, [file.name for file in found])
            if found:
                return found[0]
        elif (place := _place_of_lists(path.parent, name)) is not None:
            return place
    return None


def _several(folder: Path, names: list[str]) -> DataError:
    return DataError(f"'{folder}' holds several data sets: {', '.join(names)}. Name the one that is meant.")


def _place_of_lists(folder: Path, name: str | None) -> Path | None:
    """Where the BLIP-style lists of a data set are, see `find`; lists of another name count in a folder of this name.

    Raises:
        DataError: there are lists of several data sets, and the name fits none of them or all.
    """
    stem_of = {named["set"]: named["stem"] or named["set"] for named, _ in _lists_in(folder)}
    meant = list(stem_of)
    if name is not None:
        wanted = [known for known, stem in stem_of.items() if stem in (name, *_SYNONYMS.get(name, ()))]
        meant = wanted or (meant if name in (folder.name, guess_name(folder)) else [])
    if len(meant) > 1:
        raise _several(folder, [f"{known}_*.json" for known in meant])
    if not meant:
        return None
    return folder if len(stem_of) == 1 else folder / f"{meant[0]}_*.json"


def _lists_in(folder: Path) -> list[tuple[re.Match[str], Path]]:
    """The BLIP-style lists of a folder, with the parts of their names; sorted."""
    if not folder.is_dir():
        return []
    named = ((_LIST_NAME.fullmatch(path.name), path) for path in sorted(folder.iterdir()) if path.is_file())
    return [(parts, path) for parts, path in named if parts]


def _lists(place: Path) -> dict[str, Path]:
    """BLIP-style lists of a folder, those of one data set in it (``<set>_*.json``), or the one given: split to file."""
    if place.is_file():
        named = _LIST_NAME.fullmatch(place.name)
        return {named["split"]: place} if named else {}
    known = place.name.removesuffix("_*.json") if place.name.endswith("_*.json") else None
    found: dict[str, Path] = {}
    for parts, path in _lists_in(place if known is None else place.parent):
        if known in (None, parts["set"]):
            found.setdefault(parts["split"], path)
    return found


def splits(place: Path) -> list[str]:
    """Names of the splits; ``restval`` is part of ``train``."""
    lists = _lists(place)
    if lists:
        return in_split_order(set(lists))
    return in_split_order({_split_of(image, where) for where, image in _images(place)})


def read(place: Path, split: str, *, dataset: str) -> Split:
    """Read one split, its captions in the order of the file.

    Raises:
        DataError: the split or a field is missing.
    """
    lists = _lists(place)
    if lists:
        if split not in lists:
            raise missing_split(place, split, in_split_order(set(lists)))
        return _read_list(lists[split], split, dataset)
    images = [(where, image) for where, image in _images(place) if _split_of(image, where) == split]
    if not images:
        raise missing_split(place, split, splits(place))
    ids: list[str] = []
    names: list[str] = []
    captions: list[str] = []
    owner: list[str] = []
    rest = 0
    for where, image in images:
        identity = text_field(image, "cocoid" if "cocoid" in image else "imgid", where)
        name = text_field(image, "filename", where)
        sentences = as_list(field(image, "sentences", where), f"{where}: 'sentences'")
        if not sentences:
            raise DataError(f"{where} ({name}) has no sentences. Expected at least one caption.")
        ids.append(identity)
        names.append(f"{text_field(image, 'filepath', where)}/{name}" if image.get("filepath") else name)
        captions += [_sentence(sentence, f"{where} sentence {k}") for k, sentence in enumerate(sentences)]
        owner += [identity] * len(sentences)
        rest += image["split"] == "restval"
    notes = [f"{rest:,} of {len(ids):,} images are restval, which counts as train"] if rest else []
    return _split(place, "karpathy", split, dataset, (ids, names, captions, owner), notes)


def _images(path: Path) -> list[tuple[str, Mapping[str, object]]]:
    """Entries of the ``images`` list with their place for messages."""
    content = as_object(read_json(path), f"'{path}'")
    entries = as_list(field(content, "images", f"'{path}'"), f"'{path}': 'images'")
    return [(f"'{path}' image {k}", as_object(entry, f"'{path}' image {k}")) for k, entry in enumerate(entries)]


def _split_of(image: Mapping[str, object], where: str) -> str:
    named = text_field(image, "split", where)
    return "train" if named == "restval" else named


def _sentence(sentence: object, where: str) -> str:
    """The raw text of a sentence, or its tokens when there is no raw text."""
    record = as_object(sentence, where)
    if "raw" in record:
        return require_caption(record["raw"], where)
    return require_caption(" ".join(str(word) for word in as_list(field(record, "tokens", where), where)), where)


def _read_list(path: Path, split: str, dataset: str) -> Split:
    """A BLIP-style list: ``caption`` is a list (val, test) or one text per row (train)."""
    ids: dict[str, str] = {}
    captions: list[str] = []
    owner: list[str] = []
    for k, entry in enumerate(as_list(read_json(path), f"'{path}'")):
        where = f"'{path}' entry {k}"
        record = as_object(entry, where)
        name = text_field(record, "image", where)
        identity = canonical_id(name)
        if ids.setdefault(identity, name) != name:
            raise DataError(f"{where}: image {identity!r} is {name!r} here and {ids[identity]!r} before.")
        texts = field(record, "caption", where)
        for text in texts if isinstance(texts, list) else [texts]:
            captions.append(require_caption(text, f"{where}: the caption"))
            owner.append(identity)
    without = set(ids) - set(owner)
    if without:
        raise DataError(f"'{path}': image {min(without)!r} has no captions. Expected at least one.")
    return _split(path, "karpathy list", split, dataset, (list(ids), list(ids.values()), captions, owner), [])


def _split(
    path: Path,
    layout: str,
    split: str,
    dataset: str,
    found: tuple[list[str], list[str], list[str], list[str]],
    notes: list[str],
) -> Split:
    """The table from ids, file names, captions and the image id of each caption."""
    ids, names, captions, image_of_caption = found
    if len(set(ids)) == len(ids):
        name_of = dict(zip(ids, names, strict=True))
        ids, owner = group_by_image(image_of_caption, captions)  # in the order of the captions
    else:
        again = Counter(ids).most_common(1)[0][0]
        raise DataError(f"'{path}': image {again!r} is listed twice in split {split!r}. Expected every image once.")
    files, note = expected_files([name_of[image] for image in ids], picture_folders(path))
    return Split(
        dataset=dataset,
        name=split,
        image_ids=ids,
        captions=captions,
        owner=owner,
        files=files,
        layout=f"{layout} in '{path}'",
        notes=tuple(note for note in (*notes, note) if note),
    )
