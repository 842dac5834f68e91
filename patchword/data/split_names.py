"""What splits are called: one role, ``train``, ``dev`` or ``test``, has several names in the data sets of the field."""

from __future__ import annotations

from collections.abc import Iterable

ROLES = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
_NAMES = frozenset(name for names in ROLES.values() for name in names) | {"testall"}
_BEGINS = {"train": "train", "dev": "val"}  # COCO's train2014 and val2017


def role_of(name: str) -> str:
    """The role of a split by its name, in any letter case; empty when the name says none.

    Example:
        >>> [role_of(name) for name in ("Validation", "train", "testall")]
        ['dev', 'train', '']
    """
    return next((role for role, names in ROLES.items() if name.lower() in names), "")


def is_split_name(name: str) -> bool:
    """Whether a file or folder of this name (without its ending) holds a split, in any letter case."""
    return name.lower() in _NAMES


def splits_meant(split: str, there: Iterable[str]) -> list[str]:
    """Those of the splits ``there`` that ``split`` may stand for: itself, else other spellings, else other names.

    Example:
        >>> [splits_meant(split, ["Train", "val2014", "test"]) for split in ("train", "dev", "test", "testall")]
        [['Train'], ['val2014'], ['test'], []]
    """
    names, role = list(there), role_of(split)
    begin = _BEGINS.get(role)
    return (
        [name for name in names if name == split]
        or [name for name in names if name.lower() == split.lower()]
        or [name for name in names if role and role_of(name) == role]
        or [name for name in names if begin and name.lower().startswith(begin)]
    )
