"""The named protocols: which split, how many images and captions, and in how many folds.

A number is comparable with a paper's only if it was made over the same rows. So a name is given only to a result with
the official counts and, where the ids are known, of the official images; everything else is called ``generic``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from patchword.errors import ScoreError
from patchword.evaluate.official import SAYS, standing, warning

ProtocolName = Literal["f30k-1k", "coco-5k", "coco-1k-5fold", "coco-1k-first-fold", "flickr8k-1k", "generic"]


@dataclass(frozen=True)
class Protocol:
    """One way of evaluating that papers share.

    Attributes:
        name: as given on the command line.
        title: as printed.
        dataset: short name of the data set; empty for any.
        splits: names that layouts in use give to these rows; empty for any.
        images: official number of images; 0 for any.
        captions: official number of captions; 0 for any.
        folds: consecutive blocks whose numbers are averaged.
    """

    name: ProtocolName
    title: str
    dataset: str = ""
    splits: tuple[str, ...] = ()
    images: int = 0
    captions: int = 0
    folds: int = 1


COCO_TEST = (5_000, 25_000)  # images and captions of the whole split

# COCO: SCAN's layout calls the 5,000 test images `testall` and their first 1,000 `test`.
# Karpathy's JSON calls all 5,000 `test`.
PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("f30k-1k", "Flickr30K test, 1,000 images", "f30k", ("test",), 1_000, 5_000),
        Protocol("coco-5k", "COCO test, 5,000 images", "coco", ("testall", "test"), *COCO_TEST),
        Protocol("coco-1k-5fold", "COCO 1K, mean of 5 folds", "coco", ("testall", "test"), *COCO_TEST, folds=5),
        Protocol("coco-1k-first-fold", "COCO 1K, first fold only (not comparable)", "coco", ("test",), 1_000, 5_000),
        Protocol("flickr8k-1k", "Flickr8k test, 1,000 images", "flickr8k", ("test",), 1_000, 5_000),
        Protocol("generic", "all images against all captions"),
    )
}

_ALIASES = {
    "f30k": "f30k",
    "flickr30k": "f30k",
    "coco": "coco",
    "mscoco": "coco",
    "flickr8k": "flickr8k",
    "f8k": "flickr8k",
}


def protocol_named(name: str) -> Protocol:
    """Look a protocol up.

    Raises:
        ScoreError: no such protocol.

    Example:
        >>> protocol_named("coco-1k-5fold").folds
        5
    """
    if name not in PROTOCOLS:
        raise ScoreError(f"Unknown protocol '{name}'. Expected one of: {', '.join(PROTOCOLS)}, or auto.")
    return PROTOCOLS[name]


def guess_protocol(
    dataset: str, split: str, n_images: int, n_captions: int, image_ids: Sequence[str] | None = None
) -> Protocol:
    """The protocol that data set, split, counts and ids all fit, else ``generic``.

    COCO's 5,000 images give ``coco-5k``; ``coco-1k-5fold`` has to be asked for, and so has the first fold alone. Ids in
    another order fit, and so do unknown ones (None, or numbers of rows).

    Example:
        >>> guess_protocol("f30k", "test", 1000, 5000).name, guess_protocol("f30k", "dev", 1014, 5070).name
        ('f30k-1k', 'generic')
    """
    for protocol in PROTOCOLS.values():
        official = (protocol.images, protocol.captions) == (n_images, n_captions)
        if official and protocol.name != "coco-1k-first-fold" and _same_rows(protocol, dataset, split):
            is_other = standing(protocol.name, image_ids) in ("other", "renamed")
            return PROTOCOLS["generic"] if is_other else protocol
    return PROTOCOLS["generic"]


def check_protocol(
    protocol: Protocol,
    n_images: int,
    n_captions: int,
    *,
    dataset: str = "",
    split: str = "",
    image_ids: Sequence[str] | None = None,
) -> None:
    """Refuse to give a result a name that its rows have not earned.

    Args:
        protocol: the name asked for.
        n_images: N of the result.
        n_captions: M of the result.
        dataset: data set of the result; empty when unknown, which is accepted.
        split: split of the result; empty when unknown, which is accepted.
        image_ids: of the result; None when unknown, which is accepted. Names that the data set does not use are
            accepted too: pictures may have been renamed, and `compare_ids` warns that nothing is known of them.

    Raises:
        ScoreError: other counts, another split, another data set or other images than the protocol's.

    Example:
        >>> check_protocol(protocol_named("f30k-1k"), 1000, 5000, dataset="f30k", split="test")
    """
    if protocol.images and (n_images, n_captions) != (protocol.images, protocol.captions):
        coco_1k = protocol.name == "coco-1k-5fold" and n_images == 1_000
        hint = " (these are the first fold: protocol coco-1k-first-fold)" if coco_1k else ""
        raise ScoreError(
            f"Protocol {protocol.name} expects {protocol.images:,} images and {protocol.captions:,} captions, found "
            f"{n_images:,} and {n_captions:,}{hint}. Use the protocol generic."
        )
    if protocol.dataset and not _same_rows(protocol, dataset or protocol.dataset, split or protocol.splits[0]):
        raise ScoreError(
            f"Protocol {protocol.name} expects {protocol.dataset}, split {' or '.join(protocol.splits)}, found "
            f"{dataset or 'an unnamed data set'}, split {split or 'unnamed'}. Use the protocol generic."
        )
    if image_ids is not None and standing(protocol.name, image_ids) == "other":
        raise ScoreError(
            f"Protocol {protocol.name} expects the {protocol.images:,} images of {protocol.dataset}, split "
            f"{' or '.join(protocol.splits)}, found the ids of others ({', '.join(image_ids[:3])} ...). Use the "
            "protocol generic."
        )


@dataclass(frozen=True)
class IdsFound:
    """How the ids of a result compare with the official ones.

    Attributes:
        says: in words, to stand behind what else is known of the ids; empty where nothing is.
        warning: what a reader must know before comparing numbers; empty where all is well or nothing is known.
    """

    says: str = ""
    warning: str = ""


def compare_ids(
    protocol: Protocol, image_ids: Sequence[str] | None, n_captions: int, *, dataset: str = "", split: str = ""
) -> IdsFound:
    """Compare the ids of a result with the official ones.

    Args:
        protocol: of the result. Where it is ``generic``, the one is meant that data set, split and counts fit.
        image_ids: of the result; None when unknown.
        n_captions: M of the result.
        dataset, split: names of the rows.

    Example:
        >>> compare_ids(protocol_named("coco-5k"), ["0", "1"], 10).says
        'official ids not checked: the data have no ids'
    """
    if image_ids is None:
        return IdsFound()
    is_generic = protocol.name == "generic"
    meant = guess_protocol(dataset, split, len(image_ids), n_captions) if is_generic else protocol
    found = standing(meant.name, image_ids)
    return IdsFound() if found is None else IdsFound(SAYS[found], warning(meant.name, protocol.folds, found))


def canonical_dataset(dataset: str) -> str:
    """Short name of a data set under any of its usual names; other names pass unchanged.

    Example:
        >>> canonical_dataset("coco_precomp"), canonical_dataset("Flickr30K"), canonical_dataset("holidays")
        ('coco', 'f30k', 'holidays')
    """
    plain = dataset.lower().removesuffix("_precomp").removesuffix("_butd").replace("-", "").replace("ms_coco", "coco")
    return _ALIASES.get(plain, dataset)


def _same_rows(protocol: Protocol, dataset: str, split: str) -> bool:
    return canonical_dataset(dataset) == protocol.dataset and split in protocol.splits
