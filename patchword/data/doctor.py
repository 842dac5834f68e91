"""The data doctor: what a data folder holds, what is missing, short or wrong, and what to do about it.

``patchword doctor data DIR`` prints the report and exits with 0 when the data can be used, with 2 when not. A broken
file is a finding, never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from patchword.data.doctor_checks import (
    Finding,
    check_array_file,
    check_boxes,
    check_captions,
    check_captions_file,
    check_features,
    check_lfs_pointers,
    check_overlap,
    check_pictures,
    check_unused_pictures,
    check_vocabulary,
    check_widths,
    first_few,
    problem_of,
)
from patchword.data.doctor_expect import Counts, archive_of, expected_counts
from patchword.data.doctor_folder import check_described_pictures, check_texts
from patchword.data.extras import KNOWN
from patchword.data.find_pictures import pictures_of_ids
from patchword.data.folder import home_of
from patchword.data.open import (
    ADD_SPLITS,
    TAKE_ALL,
    Place,
    find_places,
    guess_name,
    layouts_tried,
    nothing_found,
    place_splits,
    read_place,
)
from patchword.data.split_names import role_of, splits_meant
from patchword.data.table import Split
from patchword.data.text_files import in_split_order
from patchword.errors import PatchwordError

_SPLIT_FILES = ("_caps.txt", "_ids.txt", "_ims.npy", "_boxes.npy", "_offsets.npy", "_ims_bbx.npy", "_ims_size.npy")
_FOR_TRAINING = ("train", "dev")


@dataclass
class DataReport:
    """What the doctor found.

    Attributes:
        root: the folder that was checked.
        name: short name of the data set, given or guessed.
        layout: the layout that was recognised; empty when none was.
        findings: one row each, in the order of the checks.
        lacks_for_training: ``train`` and ``dev``, where no split is clearly meant by the name.
    """

    root: str
    name: str
    layout: str = ""
    lacks_for_training: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of searching and evaluating with the splits of this folder."""
        return bool(self.layout) and all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps({**asdict(self), "usable": self.usable}, indent=2)

    def lines(self) -> list[str]:
        """The report for printing, one line each."""
        shown = [f"{self.root}: {self.name}, layout {self.layout or 'not recognised'}"]
        for finding in self.findings:
            text = f"{finding.level:<8} {finding.what}: {finding.found}"
            text += f" | expected: {finding.expected}" if finding.expected else ""
            text += f" | fix: {finding.fix}" if finding.fix else ""
            shown += text.split("\n")
        wrong = sum(finding.level == "error" for finding in self.findings)
        odd = sum(finding.level == "warning" for finding in self.findings)
        answer = "yes" if self.usable else "no"
        if self.usable and self.lacks_for_training:
            answer = f"for search and evaluation; not for training (no {', no '.join(self.lacks_for_training)})"
        return [*shown, f"usable: {answer} ({wrong} errors, {odd} warnings)"]


def check_data(
    root: Path | str,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> DataReport:
    """Check a data folder of any known layout.

    Args:
        root: the folder (or annotation file).
        name: ``f30k``, ``coco`` and ``flickr8k`` are compared with their known counts; None takes it from the folder.
        columns: rows of a table: our column (``image``, ``caption``, ``id``, ``split``) to the file's.
        progress: called with one line before every longer step.
    """
    base = Path(root)
    report = DataReport(str(base), name or guess_name(base))
    recognised = _recognise(report, base, name, columns)
    if recognised is None:
        return report
    place, there = recognised
    add, tell = report.findings, progress or (lambda _: None)
    expected = expected_counts(report.name, place.layout.name)
    report.lacks_for_training = [role for role in _FOR_TRAINING if len(splits_meant(role, there)) != 1]
    missing = _missing_splits(place, report.name, expected, there)
    told = [role_of(finding.what) for finding in missing]
    add += missing
    add += [_not_trainable(role, there) for role in report.lacks_for_training if role not in told]
    if place.layout.name in ("precomp", "raw_tree"):
        add += _half_present(place.path, there)
    splits: list[Split] = []
    files_of: dict[str, list[Path]] = {}
    for split in there:
        tell(f"checking {split}")
        read, found = _read_split(place, split, report.name, columns)
        add += found
        if read is not None:
            splits.append(read)
            add += _check_split(place, read, expected, files_of, is_named=name is not None)
    add += check_widths(splits)
    add += check_overlap(splits)
    add += check_unused_pictures(files_of)
    vocabulary = find_vocabulary(base, _folder_of(place), report.name)
    if vocabulary is not None:
        add += check_vocabulary(vocabulary, splits)
    if splits and not any(split.images is not None or split.name in files_of for split in splits):
        add.append(
            Finding(
                "error",
                "images",
                "neither features nor pictures: annotations only",
                "'{split}_ims.npy' or a folder 'images' beside the captions",
                "enough to evaluate a saved score matrix; training and encoding need images",
            )
        )
    return report


def _folder_of(place: Place) -> Path:
    """The folder in which a layout lies."""
    return place.path if place.path.is_dir() else place.path.parent


def _recognise(
    report: DataReport, base: Path, name: str | None, columns: Mapping[str, str] | None
) -> tuple[Place, list[str]] | None:
    """The layout and its splits, written into the report; None when nothing can be read."""
    add = report.findings
    try:
        places = find_places(base, name=name)
        if not places:
            said = [problem_of(nothing_found(base, name, None)), "What is read:", *layouts_tried(base, name)]
            add.append(Finding("error", "layout", "\n".join(said)))
            return None
        place = places[0]
        report.layout = place.layout.name
        report.name = name or guess_name(place.path)
        add.append(Finding("ok", "layout", f"{place.layout.name} in '{place.path}'"))
        for other in places[1:]:
            text = f"{other.layout.name} fits too, in '{other.path}' (choose it with layout='{other.layout.name}')"
            add.append(Finding("ok", "layout", text))
        add += check_lfs_pointers(_folder_of(place))
        return place, place_splits(place, columns=columns)
    except (PatchwordError, OSError) as error:
        add.append(Finding("error", "layout", problem_of(error)))
        return None


def _missing_splits(place: Place, name: str, expected: dict[str, Counts], there: list[str]) -> list[Finding]:
    """Splits that a known data set has and this folder has not."""
    archive = archive_of(name, place.layout.name)
    fix = f"it is normally in {archive}" if archive else "get the complete data set"
    return [
        Finding("warning", split, "missing", f"{counts.images:,} images", fix)
        for split, counts in expected.items()
        if split not in there and not (role_of(split) and role_of(split) in map(role_of, there))
    ]


def _not_trainable(role: str, there: list[str]) -> Finding:
    """The warning for a split that training asks for and that is not clearly there."""
    alike = splits_meant(role, there)
    found, expected = (f"may be any of {', '.join(alike)}" if alike else "missing"), f"one split that is clearly {role}"
    if alike:
        fix = f"name it: --data.{role} {alike[0]}"
    elif role == "dev":
        fix = "add one, or train with --train.select_on none"
    else:
        fix = (
            f"{ADD_SPLITS[0].lower()}{ADD_SPLITS[1:]}, or train on everything: {TAKE_ALL}"
            if there == ["all"]
            else f"name one that is there: --data.train {there[0]}"
        )
    return Finding("warning", role, found, expected, fix)


def _half_present(folder: Path, there: list[str]) -> list[Finding]:
    """Ids, features or boxes of a split that has no captions, and arrays that nothing reads."""
    found = []
    stems: dict[str, list[str]] = {}
    unread = []
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in _SPLIT_FILES if path.name.endswith(ending)), None)
        if ending is not None:
            stems.setdefault(path.name.removesuffix(ending), []).append(path.name)
        elif path.suffix == ".npy" and not _is_extra(path.name, there):
            unread.append(path.name)
    for split in in_split_order(set(stems)):
        if split not in there:
            names = ", ".join(stems[split])
            found.append(
                Finding("warning", split, f"{names} without '{split}_caps.txt'", "captions", "add the captions")
            )
    if unread:
        found.append(
            Finding("warning", "arrays", f"not read: {first_few(unread)}", "{split}_ims.npy", "rename or convert")
        )
    return found


def _is_extra(name: str, splits: list[str]) -> bool:
    """Whether a file is a side input of a split (``data/extras.py``)."""
    return any(name == f"{split}_{side}_{known}.npy" for split in splits for side in ("ims", "caps") for known in KNOWN)


def _read_split(
    place: Place, split: str, name: str, columns: Mapping[str, str] | None
) -> tuple[Split | None, list[Finding]]:
    """A split and what its single files look like; None when it can not be read."""
    found: list[Finding] = []
    if place.layout.name in ("precomp", "raw_tree"):
        found += check_captions_file(place.path / f"{split}_caps.txt")
        for ending in ("_ims.npy", "_offsets.npy", "_boxes.npy"):
            if (place.path / f"{split}{ending}").exists():
                found += check_array_file(place.path / f"{split}{ending}")
    home = home_of(place.path, split, place_splits(place)) if place.layout.name == "folder" else None
    if home is not None:
        found += check_texts(split, home)
    try:
        return read_place(place, split, dataset=name, columns=columns), found
    except (PatchwordError, OSError) as error:
        if home is not None:
            found += check_described_pictures(split, home)
        if all(finding.level != "error" for finding in found):
            found.append(Finding("error", split, problem_of(error)))
        return None, found


def _check_split(
    place: Place, split: Split, expected: dict[str, Counts], files_of: dict[str, list[Path]], *, is_named: bool
) -> list[Finding]:
    """Everything about one split that could be read; its pictures are added to ``files_of``."""
    found = check_captions(split)
    found += [Finding("ok", split.name, note) for note in split.notes]
    found += _compare(split, expected, is_named=is_named)
    found += check_features(split)
    found += check_boxes(split)
    files = split.files
    if files is None and split.images is not None and place.layout.name == "precomp":
        try:  # the reader leaves incomplete pictures out; here they are counted
            files, _ = pictures_of_ids(place.path, split.image_ids)
        except PatchwordError as error:
            found.append(Finding("warning", split.name, problem_of(error)))
    if files is not None:
        files_of[split.name] = files
    return found + check_pictures(split, files)


def _compare(split: Split, expected: dict[str, Counts], *, is_named: bool) -> list[Finding]:
    """The counts of a split against those of the data set it says it is."""
    same = [known for known in expected if known == split.name or role_of(known) == role_of(split.name) != ""]
    if not same:
        return []
    counts = expected[same[0]]
    captions = split.n_captions if counts.captions is None else counts.captions
    if (split.n_images, split.n_captions) == (counts.images, captions):
        return [Finding("ok", split.name, f"the counts of {split.dataset}")]
    how = "short" if split.n_images < counts.images or split.n_captions < captions else "wrong"
    return [
        Finding(
            "error" if is_named else "warning",
            split.name,
            f"{how}: {split.n_images:,} images, {split.n_captions:,} captions",
            f"{counts.images:,} images, {captions:,} captions in {split.dataset}",
            "get the complete files; a data set of your own needs another name",
        )
    ]


def find_vocabulary(root: Path, home: Path, name: str) -> Path | None:
    """A vocabulary JSON in a folder ``vocab`` in or beside the data: the one of this data set, or the only one."""
    folders = [base / "vocab" for base in (home, root, home.parent, root.parent)]
    for folder in folders:
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        named = [path for path in files if name in path.name]
        if named or len(files) == 1:
            return (named or files)[0]
    return None
