"""Which images a named protocol is made of: digests of the official ids, in their order and sorted.

Data set, split and counts do not tell 1,000 photographs of Flickr30K from 1,000 others, nor COCO's 5,000 test images
from the same ones in another order, whose five folds are other rows. The lists themselves are not part of the package;
a digest of each is enough to compare with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from patchword.data.text_files import canonical_id

# official: the ids in their order.  reordered: the same ids in another order.  other: ids as the data set writes them,
# of other images.  renamed: names that the data set does not use, so that nothing is known of the images.
# numbered: the numbers of the rows, which stand where data have no ids.
Standing = Literal["official", "reordered", "other", "renamed", "numbered"]

SAYS: dict[Standing, str] = {
    "official": "official ids, official order",
    "reordered": "official ids in another order",
    "other": "not the official ids",
    "renamed": "not the official ids",
    "numbered": "official ids not checked: the data have no ids",
}


@dataclass(frozen=True)
class OfficialIds:
    """The images of a protocol.

    Attributes:
        form: pattern of every normalised id that the data set uses.
        digests: for each way in which the data set numbers its images, the digest of the ids in their order, and of the
            sorted ids.
    """

    form: str
    digests: tuple[tuple[str, str], ...]


def normalised(name: str) -> str:
    """The spelling of an id that all layouts of a data set share, without its folder, ending, zeros and prefix.

    Example:
        >>> [normalised(x) for x in ("val2014/COCO_val2014_000000391895.jpg", "coco:391895", "391895")]
        ['391895', '391895', '391895']
        >>> normalised("flickr8k:3385593926_d3e9c21170.jpg")
        '3385593926_d3e9c21170'
    """
    return canonical_id(name.rpartition(":")[2])


def digest(ids: Iterable[str]) -> str:
    """SHA-256 of normalised ids, one a line."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def official_ids(form: str, *lists: Sequence[str]) -> OfficialIds:
    """The entry of a protocol in ``OFFICIAL``, from one list of ids for each way in which its images are numbered.

    Example:
        >>> entry = official_ids(r"[0-9]+", ["7.jpg", "3.jpg"])
        >>> entry.digests[0][1] == digest(["3", "7"])
        True
    """
    plain = [[normalised(name) for name in ids] for ids in lists]
    return OfficialIds(form, tuple((digest(ids), digest(sorted(ids))) for ids in plain))


_NUMBERS = "[0-9]+"
_COCO = OfficialIds(
    _NUMBERS,
    (
        (
            "da31c1695cfabac7c9ac0176297f05c887cbbccc74d2a241017ece58a0ad2989",
            "b4f15b295a1855a8ae04635e2754c2dec5644ae7b047a9b377edd5defd876a98",
        ),
    ),
)

# Measured on the lists that tests/real reads. Flickr30K's images go by Karpathy's numbers in SCAN's files and by their
# file names elsewhere; sorted file names are in the official order. Flickr8k's order is that of its own list.
OFFICIAL: dict[str, OfficialIds] = {
    "f30k-1k": OfficialIds(
        _NUMBERS,
        (
            (
                "62dab696f5ac61c232cfec5443eb97192988cf7d5eddf6ba75b1dcf121a1232f",
                "b86fe6faf2b17eadc3f69d94f5117a14ce6a3f712ff70a92127cf56886358f39",
            ),
            (
                "3561ef20c1ce29ad8138e655ad5a6239d8c6bf191c41b495786d9b3a46d895aa",
                "3561ef20c1ce29ad8138e655ad5a6239d8c6bf191c41b495786d9b3a46d895aa",
            ),
        ),
    ),
    "coco-5k": _COCO,
    "coco-1k-5fold": _COCO,
    "coco-1k-first-fold": OfficialIds(
        _NUMBERS,
        (
            (
                "6381b3ca416d6d92597705c186af706ffafbfc418c943521a77cf25ee6790fb4",
                "2e8111c9954d8df1ae895754765e077cd3b13895ffc6dfbd442bdb870b04bca3",
            ),
        ),
    ),
    "flickr8k-1k": OfficialIds(
        "[0-9]+_[0-9a-f]{10}",
        (
            (
                "8e044199fb5894329e76b07f8377fdb59b95af1565b4478b9dfe0fa2d561320c",
                "e3ec5b26b21d07aa4e8c3568b016d206d5bc04f9d3d6caf0e87a6f6eb1aa2188",
            ),
        ),
    ),
}


def standing(protocol: str, image_ids: Sequence[str] | None) -> Standing | None:
    """What the ids of a result are to a protocol.

    Args:
        protocol: its name.
        image_ids: as the data or the score file write them; None when unknown.

    Returns:
        None where the ids are unknown, or where the protocol has no list, as ``generic``.

    Example:
        >>> standing("coco-5k", ["0", "1", "2"]), standing("coco-5k", ["a", "b"]), standing("coco-5k", ["7", "9"])
        ('numbered', 'renamed', 'other')
    """
    official = OFFICIAL.get(protocol)
    if official is None or image_ids is None:
        return None
    ids = [normalised(name) for name in image_ids]
    in_order, in_any = digest(ids), digest(sorted(ids))
    if any(in_order == first for first, _ in official.digests):
        return "official"
    if any(in_any == second for _, second in official.digests):
        return "reordered"
    if {*ids} in ({str(k + first) for k in range(len(ids))} for first in (0, 1)):
        return "numbered"
    is_form = re.compile(official.form).fullmatch
    return "other" if all(is_form(name) for name in ids) else "renamed"


def warning(protocol: str, folds: int, found: Standing | None) -> str:
    """What a reader must know of the images before comparing numbers; empty where all is well or nothing is known.

    Args:
        protocol: whose images these should be, going by data set, split and counts.
        folds: of the protocol; in one alone the order of the images changes nothing.
        found: their standing.
    """
    if found == "reordered" and folds > 1:
        return (
            f"the images are the official ones of {protocol} in another order: the {folds} folds are other rows, so "
            "the numbers are not comparable with published ones"
        )
    if found == "other":
        return f"the images are not the official ones of {protocol}: not comparable with its published numbers"
    if found == "renamed":
        return (
            f"the image ids are not the official ones of {protocol}: its name is deserved only if these are the same "
            "images under other names"
        )
    return ""
