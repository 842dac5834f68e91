"""What the well-known data sets hold: images and captions of every split, and where a missing one comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Images and captions of a split; captions None when the number differs between copies."""

    images: int
    captions: int | None


_FLICKR30K = {"train": Counts(29_000, 145_000), "dev": Counts(1_014, 5_070), "test": Counts(1_000, 5_000)}
_FLICKR8K = {"train": Counts(6_000, 30_000), "dev": Counts(1_000, 5_000), "test": Counts(1_000, 5_000)}

# SCAN's files; also every other layout that keeps Karpathy's splits with five captions per image.
STANDARD: dict[str, dict[str, Counts]] = {
    "f30k": _FLICKR30K,
    "flickr8k": _FLICKR8K,
    "coco": {
        "train": Counts(113_287, 566_435),
        "dev": Counts(1_000, 5_000),
        "test": Counts(1_000, 5_000),
        "testall": Counts(5_000, 25_000),
    },
}

# Layouts that cut COCO in another way: layout -> data set -> split.
OF_LAYOUT: dict[str, dict[str, dict[str, Counts]]] = {
    "karpathy": {
        "coco": {"train": Counts(113_287, 566_747), "val": Counts(5_000, 25_010), "test": Counts(5_000, 25_010)},
        "f30k": {("val" if split == "dev" else split): counts for split, counts in _FLICKR30K.items()},
        "flickr8k": {("val" if split == "dev" else split): counts for split, counts in _FLICKR8K.items()},
    },
    "coco_captions": {
        "coco": {
            "train2014": Counts(82_783, None),
            "val2014": Counts(40_504, None),
            "train2017": Counts(118_287, None),
            "val2017": Counts(5_000, None),
        }
    },
    "hf": {"coco": {"train": Counts(113_287, 566_747), "val": Counts(5_000, 25_010), "test": Counts(5_000, 25_010)}},
}

_SCAN = "SCAN's data archive (captions, ids and features of f30k_precomp and coco_precomp)"
_LAPS = "the data archive of LAPS or of VSE-infinity (captions, ids, id_mapping.json)"
_KARPATHY = "Karpathy's caption_datasets archive (dataset_*.json)"
_ARCHIVES = {
    ("f30k", "precomp"): _SCAN,
    ("coco", "precomp"): _SCAN,
    ("f30k", "raw_tree"): _LAPS,
    ("coco", "raw_tree"): _LAPS,
    ("f30k", "karpathy"): _KARPATHY,
    ("coco", "karpathy"): _KARPATHY,
    ("flickr8k", "karpathy"): _KARPATHY,
    ("coco", "coco_captions"): "COCO's annotations_trainval2014 and annotations_trainval2017 archives",
    ("flickr8k", "token_files"): "the Flickr8k_text archive",
    ("f30k", "token_files"): "the Flickr30K captions archive, with split lists from Multi30k's image_splits",
}


def archive_of(name: str, layout: str) -> str | None:
    """The archive in which a missing split of a known data set normally lies."""
    return _ARCHIVES.get((name, layout))


def expected_counts(name: str, layout: str) -> dict[str, Counts]:
    """Counts of every split that a data set normally has in a layout; empty when the data set is not known.

    Example:
        >>> expected_counts("f30k", "precomp")["dev"]
        Counts(images=1014, captions=5070)
        >>> expected_counts("my_photos", "precomp")
        {}
    """
    if layout in OF_LAYOUT and name in OF_LAYOUT[layout]:
        return OF_LAYOUT[layout][name]
    return STANDARD[name] if name in STANDARD else {}  # noqa: SIM401
