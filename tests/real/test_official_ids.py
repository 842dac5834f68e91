"""The digests of the official ids are those of the real lists, in every layout at hand."""

import json
from pathlib import Path

import pytest

from patchword.data.open import open_split
from patchword.evaluate.official import OFFICIAL, official_ids, standing


@pytest.mark.parametrize(
    ("folder", "layout", "name", "split", "protocol", "expected"),
    [
        ("f30k", None, None, "test", "f30k-1k", "official"),
        ("coco", "precomp", None, "testall", "coco-5k", "official"),
        ("coco", "precomp", None, "testall", "coco-1k-5fold", "official"),
        ("coco", "karpathy", None, "test", "coco-1k-5fold", "official"),
        ("coco", "karpathy", None, "val", "coco-5k", "other"),
        ("flickr8k", None, None, "test", "flickr8k-1k", "official"),
        ("flickr8k", None, None, "dev", "flickr8k-1k", "other"),
        ("flickr8k_regions", None, None, "test", "flickr8k-1k", "reordered"),
        ("real_images", None, "flickr8k", "test", "flickr8k-1k", "official"),
    ],
)
def test_splits(
    shared: Path, folder: str, layout: str | None, name: str | None, split: str, protocol: str, expected: str
) -> None:
    read = open_split(shared / "data" / folder, split, layout=layout, name=name)
    assert standing(protocol, read.image_ids) == expected


def test_the_table_is_that_of_the_lists(shared: Path) -> None:
    ids = {
        name: open_split(shared / "data" / name, split).image_ids
        for name, split in (("f30k", "test"), ("coco", "testall"), ("flickr8k", "test"))
    }
    files = json.loads((shared / "data" / "f30k" / "id_mapping.json").read_text(encoding="utf-8"))
    lists = {
        "f30k-1k": [ids["f30k"], [files[number] for number in ids["f30k"]]],
        "coco-5k": [ids["coco"]],
        "coco-1k-5fold": [ids["coco"]],
        "coco-1k-first-fold": [ids["coco"][:1_000]],
        "flickr8k-1k": [ids["flickr8k"]],
    }
    assert {name: official_ids(OFFICIAL[name].form, *found) for name, found in lists.items()} == OFFICIAL


def test_images_of_another_split_are_found_out(shared: Path) -> None:
    dev = open_split(shared / "data" / "f30k", "dev").image_ids
    assert standing("f30k-1k", dev[:1_000]) == "other"
    coco = open_split(shared / "data" / "coco", "testall").image_ids
    assert standing("coco-1k-5fold", coco[::-1]) == "reordered"
    assert standing("coco-1k-first-fold", coco[1_000:2_000]) == "other"
