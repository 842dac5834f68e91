"""Open a data set of any known layout: one table of layouts, one function that finds, reads and cuts a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from patchword.data.pictures import SKIP_ADVICE, PictureFiles
from patchword.data.split_names import splits_meant
from patchword.data.table import Split
from patchword.data.text_files import ASK_DOCTOR, in_split_order, missing_split
from patchword.data.unrecognised import contents_of, likely_fix
from patchword.errors import ConfigError, DataError


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    The module offers ``candidates(root, name) -> list[Path]``, ``find(root, name) -> Path | None``,
    ``splits(place) -> list[str]`` and ``read(place, split, *, dataset) -> Split``; with ``has_columns`` the last two
    also take ``columns``.

    Attributes:
        name: what ``layout=`` takes.
        module: module path, imported when needed.
        looks_like: the files that make it up, for messages.
        has_columns: whether columns can be named by the user.
        replaces: a more general layout that fits whenever this one does, and is not offered beside it.
    """

    name: str
    module: str
    looks_like: str
    has_columns: bool = False
    replaces: str = ""

    def reader(self) -> ModuleType:
        """The module that reads this layout."""
        return import_module(self.module)


LAYOUTS = (
    Layout(
        "raw_tree",
        "patchword.data.raw_tree",
        "{split}_ids.txt + {split}_caps.txt + id_mapping.json or images/",
        replaces="precomp",
    ),
    Layout("precomp", "patchword.data.precomp", "<name>_precomp/{split}_caps.txt + {split}_ims.npy + {split}_ids.txt"),
    Layout("karpathy", "patchword.data.karpathy", "dataset_<name>.json, or <name>_karpathy_{train,val,test}.json"),
    Layout("coco_captions", "patchword.data.coco_captions", "annotations/captions_{train,val}{2014,2017}.json"),
    Layout("token_files", "patchword.data.token_files", "Flickr8k.token.txt, results_20130124.token or results.csv"),
    Layout(
        "pairs_file",
        "patchword.data.pairs_file",
        "captions.jsonl, metadata.csv, {split}.tsv: rows with image, caption and split",
        has_columns=True,
    ),
    Layout(
        "hf",
        "patchword.data.hf",
        "dataset_dict.json or state.json (save_to_disk), or *.parquet",
        has_columns=True,
    ),
    Layout("folder", "patchword.data.folder", "pictures, each with a .txt of the same name that holds its captions"),
)
ADD_SPLITS = "Add a split column or one file per split (a column of another name: --data.columns '{split: NAME}')"
TAKE_ALL = "--data.train all --train.select_on none"  # training on data that have one split
_SYNONYMS = {"flickr30k": "f30k", "mscoco": "coco", "coco2014": "coco", "f8k": "flickr8k"}


@dataclass(frozen=True)
class Place:
    """A layout and where it was found."""

    layout: Layout
    path: Path


def guess_name(root: Path) -> str:
    """Short name of a data set from the folder that it is or lies in.

    Example:
        >>> [guess_name(Path(p)) for p in ("/data/f30k_precomp", "/data/coco/precomp", "/data/Flickr30K")]
        ['f30k', 'coco', 'f30k']
    """
    folder = root.resolve()
    generic = {"precomp", "annotations", "images", "data"}
    for home in ([] if folder.is_file() else [folder]) + list(folder.parents):
        short = home.name.removesuffix("_precomp")
        if short and short not in generic:
            lower = short.lower()
            return _SYNONYMS.get(lower, short)
    return "data"


def layout_named(name: str) -> Layout:
    """The layout of this name.

    Raises:
        ConfigError: there is none; the message lists all.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise ConfigError(f"There is no layout {name!r}. Layouts: {', '.join(layout.name for layout in LAYOUTS)}.")


def find_places(root: Path | str, *, name: str | None = None, layout: str | None = None) -> list[Place]:
    """Every layout that fits a data folder (or a single annotation file), preferred first.

    Args:
        root: the data folder, a folder above it, or an annotation file.
        name: short name of the data set (``f30k``, ``coco`` ...), for folders that hold several.
        layout: look for this layout only.
    """
    base = Path(root)
    if not base.exists():
        raise DataError(f"'{base}' is missing. Expected a folder with a data set.")
    wanted = LAYOUTS if layout is None else (layout_named(layout),)
    places: list[Place] = []
    for entry in wanted:
        path = entry.reader().find(base, name)
        if path is not None and entry.name not in [place.layout.replaces for place in places]:
            places.append(Place(entry, path))
    return places


def nothing_found(root: Path, name: str | None, layout: str | None) -> DataError:
    """The error for a place in which no data set is recognised: what is there, and the most likely fix."""
    wanted = "known data set" if layout is None else f"data set of layout {layout}: {layout_named(layout).looks_like}"
    wanted += f" called {name!r}" if name else ""
    if root.is_file():
        return DataError(f"'{root}' is no {wanted}. Expected a folder, or a file of captions (.jsonl, .csv, .tsv).")
    ask = f"{ASK_DOCTOR} {root}" + (f" --name {name}" if name else "")
    if name and (other := name_there(root, layout)):
        return DataError(
            f"'{root}' holds no {wanted}, but one called {other!r}. The name comes from the recipe (`data.name`) or "
            f"from --name. Read what is there: --data.name {other} to train, --name {other} for other verbs. {ask}"
        )
    contents = contents_of(root)
    fix = likely_fix(contents, root) if layout is None else "Leave out `layout` to try the others."
    found = f"holds {contents}, but" if str(contents) else "is empty:"
    return DataError(f"'{root}' {found} no {wanted}. {fix} {ask}")


def name_there(root: Path, layout: str | None) -> str:
    """A name under which a folder's data set is found; empty when nothing is recognised, or several are."""
    try:
        places = find_places(root, layout=layout)
    except DataError:
        return ""
    names = [name for place in places[:1] for name in (guess_name(place.path), place.path.name)]
    return next((name for name in names if find_places(root, name=name, layout=layout)), "")


def layouts_tried(root: Path, name: str | None) -> list[str]:
    """One line for each layout: what it looks like, and every path at which it was looked for."""
    lines = []
    for entry in LAYOUTS:
        names_in: dict[Path, list[str]] = {}
        for path in entry.reader().candidates(root, name):
            names_in.setdefault(path.parent, []).append(path.name)
        folders_with: dict[str, list[str]] = {}
        for folder, names in names_in.items():
            folders_with.setdefault(", ".join(dict.fromkeys(names)), []).append(f"'{folder}'")
        tried = "; ".join(f"{names} in {', '.join(folders)}" for names, folders in folders_with.items())
        lines.append(f"  {entry.name} is {entry.looks_like}. Tried {tried}.")
    return lines


def require_place(root: Path, name: str | None, layout: str | None) -> tuple[Place, list[Place]]:
    """The preferred layout of a folder and the others that fit too.

    Raises:
        DataError: nothing was recognised.
    """
    places = find_places(root, name=name, layout=layout)
    if not places:
        raise nothing_found(root, name, layout)
    return places[0], places[1:]


def read_place(place: Place, split: str, *, dataset: str, columns: Mapping[str, str] | None = None) -> Split:
    """Read one split of a recognised layout, uncut."""
    if not columns:
        read: Split = place.layout.reader().read(place.path, split, dataset=dataset)
    elif place.layout.has_columns:
        read = place.layout.reader().read(place.path, split, dataset=dataset, columns=columns)
    else:
        raise ConfigError(f"Layout {place.layout.name!r} has no columns that could be named. Leave out `columns`.")
    return read


def place_splits(place: Place, *, columns: Mapping[str, str] | None = None) -> list[str]:
    """Names of the splits of a recognised layout."""
    reader = place.layout.reader()
    found: list[str] = (
        reader.splits(place.path, columns=columns)
        if columns and place.layout.has_columns
        else reader.splits(place.path)
    )
    return found


def splits_of(
    root: Path | str, *, name: str | None = None, layout: str | None = None, columns: Mapping[str, str] | None = None
) -> list[str]:
    """Names of the splits of a data set.

    Raises:
        DataError: nothing was recognised.
    """
    place, _ = require_place(Path(root), name, layout)
    return place_splits(place, columns=columns)


def resolve_split(place: Path, split: str, there: list[str]) -> tuple[str, str]:
    """The split on disk that is meant, and a note when it has another name.

    Where no split has the name itself, other letter cases and other names of its role are taken (``training``,
    ``valid`` ...), then the only split whose name begins like it (``train2014``).

    Raises:
        DataError: there is no such split, or it is not clear which is meant.
    """
    alike = splits_meant(split, there)
    if len(alike) != 1:
        whole = f"or use everything: --split all to search and evaluate, {TAKE_ALL} to train"
        hint = f" {ADD_SPLITS}, {whole}." if there == ["all"] else ""
        raise missing_split(place, split, in_split_order(there), hint=hint)
    return alike[0], "" if alike[0] == split else f"split '{alike[0]}' was read for '{split}'"


def open_split(
    root: Path | str,
    split: str,
    *,
    name: str | None = None,
    layout: str | None = None,
    images: str = "auto",
    limit: int | None = None,
    captions_per_image: int | None = None,
    skip_broken: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Split:
    """Open one split of a data set, whatever its layout.

    Args:
        root: the data folder, a folder above it, or an annotation file.
        split: ``train``, ``dev``, ``test``, ``testall`` ...
        name: short name of the data set; None takes it from the folder.
        layout: one of the names in ``LAYOUTS``; None takes the first that fits.
        images: ``features``, ``pictures``, or ``auto`` (features when there are any).
        limit: keep the first N images.
        captions_per_image: keep the first k captions of each image; None keeps all.
        skip_broken: picture data sets: leave out missing or undecodable pictures, and list them in ``notes``.
        columns: rows of a table: our column (``image``, ``caption``, ``id``, ``split``) to the file's.

    Raises:
        DataError: nothing was recognised, the split is missing, or its files do not fit together.
        ConfigError: an argument has no such value.
    """
    if images not in ("auto", "features", "pictures"):
        raise ConfigError(f"`images` is {images!r}. Expected 'features', 'pictures' or 'auto'.")
    for what, number in (("limit", limit), ("captions_per_image", captions_per_image)):
        if number is not None and number < 1:
            raise ConfigError(f"`{what}` is {number}. Expected 1 or more, or none for all.")
    place, others = require_place(Path(root), name, layout)
    found, alias = resolve_split(place.path, split, place_splits(place, columns=columns))
    read = read_place(place, found, dataset=guess_name(place.path) if name is None else name, columns=columns)
    notes = [alias] if alias else []
    if others:
        fitting = ", ".join(f"{other.layout.name} ('{other.path}')" for other in others)
        notes.append(f"layout {place.layout.name} was chosen; these fit too: {fitting}")
    read = replace(read, notes=(*read.notes, *notes))
    read = first_captions(read, captions_per_image).limit(limit)
    return choose_images(read, images, skip_broken=skip_broken)


def first_captions(split: Split, per_image: int | None) -> Split:
    """A new split with the first ``per_image`` captions of each image, in their order (None: all of them).

    COCO has images with six or seven captions, of which SCAN's files keep five.
    """
    if per_image is None:
        return split
    order = np.argsort(split.owner, kind="stable")
    counts = np.bincount(split.owner, minlength=split.n_images)
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(split.n_captions, dtype=np.int64)
    rank[order] = np.arange(split.n_captions) - begins  # how many captions of the same image come before
    kept = np.flatnonzero(rank < per_image)
    if len(kept) == split.n_captions:
        return split
    return replace(
        split,
        captions=[split.captions[j] for j in kept],
        owner=split.owner[kept],
        caption_extras={name: extra.select(kept.tolist()) for name, extra in split.caption_extras.items()},
        notes=(*split.notes, f"first {per_image} captions of each image: {split.n_captions - len(kept):,} left out"),
    )


def choose_images(split: Split, images: str, *, skip_broken: bool) -> Split:
    """A new split whose ``images`` are the features or the pictures, with missing and broken pictures settled.

    Raises:
        DataError: what was asked for is not there, or some pictures are missing.
    """
    where = f"{split.dataset}/{split.name}"
    has_features = split.images is not None and not isinstance(split.images, PictureFiles)
    if images == "features" and not has_features:
        raise DataError(f"{where}: no features were found ({split.layout}). Expected '{split.name}_ims.npy'.")
    if has_features and images != "pictures":
        return split
    if isinstance(split.images, PictureFiles):
        return leave_out_broken(split, split.images) if skip_broken else split
    if split.files is None:
        if images == "pictures":
            require_pictures(split, "what is asked for")
        return split
    if skip_broken:
        split = leave_out_broken(split, PictureFiles(split.files))
    files = split.files or []
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(
            f"{where}: {len(missing):,} of {split.n_images:,} pictures are missing, first '{missing[0]}'. "
            "Add them. " + SKIP_ADVICE
        )
    return replace(split, images=PictureFiles(files))


def require_pictures(split: Split, reader: str) -> PictureFiles:
    """The pictures of a split, whether or not it has features.

    Args:
        split: as read.
        reader: what needs them, for the error.

    Raises:
        DataError: no picture files are known; the message says why, and where they belong.
    """
    if isinstance(split.images, PictureFiles):
        return split.images
    if split.files is None:
        because = next((note for note in split.notes if "pictures" in note), "no picture folder is near")
        raise DataError(
            f"{split.dataset}/{split.name}: {reader} needs pictures, and there are none ({split.layout}): {because}. "
            "Put them into 'images' beside the captions, named after the ids, or add id_mapping.json."
        )
    return PictureFiles(split.files)


def leave_out_broken(split: Split, source: PictureFiles) -> Split:
    """The images whose picture in ``source`` is there and decodes; the others are listed in ``notes``.

    Raises:
        DataError: none is left.
    """
    problems = [source.problem(i) for i in range(len(source))]
    bad = [i for i, problem in enumerate(problems) if problem is not None]
    if not bad:
        return split
    if len(bad) == split.n_images:
        raise DataError(f"{split.dataset}/{split.name}: none of {split.n_images:,} pictures can be used: {problems[0]}")
    listed = "; ".join(f"{split.image_ids[i]}: {problems[i]}" for i in bad)
    kept = [i for i, problem in enumerate(problems) if problem is None]
    return split.select(kept, note=f"{len(bad):,} broken pictures left out: {listed}")
