from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.data.table import ImageSource, Split, group_by_image
from patchword.errors import DataError
from patchword.types import Images


class Source:
    """Feature rows 10, 20, 30 ... that remember where they come from."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, images: Sequence[int]) -> Images:
        values = torch.tensor([float(self.rows[k]) for k in images])[:, None, None]
        return Images(values, torch.ones(len(images), dtype=torch.long))

    def select(self, images: Sequence[int]) -> "Source":
        return Source([self.rows[k] for k in images])


def split(**changes: Any) -> Split:
    fields: dict[str, Any] = {
        "dataset": "toy",
        "name": "test",
        "image_ids": ["a", "b", "c"],
        "captions": ["a0", "c0", "b0", "a1", "c1", "c2"],
        "owner": np.array([0, 2, 1, 0, 2, 2]),
        "images": Source([10, 20, 30]),
        "files": [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")],
        "boxes": np.arange(24, dtype=np.float32).reshape(3, 2, 4),
    }
    return Split(**{**fields, **changes})


def test_counts() -> None:
    made = split()
    assert isinstance(made.images, ImageSource)
    assert (made.n_images, made.n_captions) == (3, 6)
    assert [made.captions_of(i) for i in range(3)] == [[0, 3], [2], [1, 4, 5]]
    assert made.captions_per_image() == {1: 1, 2: 1, 3: 1}
    assert split(image_ids=["a", "b", "c", "d"], images=None, files=None, boxes=None).captions_per_image() == {
        0: 1, 1: 1, 2: 1, 3: 1,
    }  # fmt: skip


def test_selecting_carries_everything_along() -> None:
    chosen = split().select([2, 0], note="two of three")
    assert chosen.image_ids == ["c", "a"]
    assert chosen.captions == ["c0", "c1", "c2", "a0", "a1"]
    assert chosen.owner.tolist() == [0, 0, 0, 1, 1]
    assert chosen.require_images().read([0, 1]).values.flatten().tolist() == [30, 10]
    assert chosen.files == [Path("c.jpg"), Path("a.jpg")]
    assert chosen.boxes is not None
    assert chosen.boxes[:, 0, 0].tolist() == [16, 0]
    assert chosen.notes == ("two of three",)
    assert split().select([]).n_captions == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.permutations(range(6)), st.integers(0, 6))
def test_captions_follow_their_image(owner: list[int], order: list[int], kept: int) -> None:
    names = [f"im{k}" for k in range(6)]
    captions = [f"im{o} caption {j}" for j, o in enumerate(owner)]
    chosen = Split("toy", "test", names, captions, np.asarray(owner)).select(order[:kept])
    for caption, image in zip(chosen.captions, chosen.owner.tolist(), strict=True):
        assert caption.startswith(f"{chosen.image_ids[image]} ")
    assert sorted(chosen.captions) == sorted(c for c, o in zip(captions, owner, strict=True) if o in order[:kept])


def test_limits() -> None:
    made = split()
    assert made.limit(None) is made
    assert made.limit(3) is made
    assert made.limit(2).image_ids == ["a", "b"]
    assert made.limit(1).notes == ("limited to the first 1 of 3 images",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"owner": np.array([0, 1])}, "toy/test: 6 captions but 2 owners"),
        ({"owner": np.array([0, 2, 1, 0, 3, 2])}, r"caption 4 belongs to image 3, but there are 3 images \(0..2\)"),
        ({"owner": np.array([0, -1, 1, 0, 2, 2])}, "caption 1 belongs to image -1"),
        ({"image_ids": ["a", "b", "a"]}, "image id 'a' occurs 2 times"),
        ({"images": Source([1, 2])}, "2 image rows for 3 images"),
        ({"files": [Path("a")]}, "1 files for 3 images"),
        ({"boxes": np.zeros((4, 1, 4), np.float32)}, "4 box rows for 3 images"),
    ],
)
def test_inconsistent_tables_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        split(**changes)


def test_annotations_alone_can_not_be_encoded() -> None:
    with pytest.raises(DataError, match=r"neither features nor pictures were found \(memory\)"):
        split(images=None).require_images()


def test_grouping_by_image_name() -> None:
    ids, owner = group_by_image(["z", "a", "z", "m", "a"], list("12345"))
    assert ids == ["z", "a", "m"]
    assert owner.tolist() == [0, 1, 0, 2, 1]
    with pytest.raises(DataError, match="2 captions but 1 image names"):
        group_by_image(["a"], ["x", "y"])
