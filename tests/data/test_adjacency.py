import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import refused, write_precomp
from torch import Tensor

from patchword.cli import main
from patchword.data.adjacency import BoxAdjacency, box_adjacency, box_extras, compat_fold_adjacency
from patchword.data.adjacency_files import write_adjacency
from patchword.data.extras import require_extras
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.errors import DataError

REGIONS = 6  # of write_precomp


def boxes_at(*centres: tuple[float, float], size: float = 0.05) -> Tensor:
    """Equal boxes around some points (y points down), as one image."""
    return torch.tensor([[x - size, y - size, x + size, y + size] for x, y in centres])[None]


def neighbours(boxes: Tensor, region: int = 0, sectors: str = "all") -> list[int]:
    return box_adjacency(boxes, sectors)[0, region].nonzero()[:, 0].tolist()  # type: ignore[arg-type]


def plain(boxes: Tensor, sectors: str) -> list[list[int]]:
    """The rule region by region, in float64."""
    found = []
    for i, a in enumerate(boxes.double().tolist()):
        cones: dict[int, list[tuple[float, int]]] = {}
        for j, b in enumerate(boxes.double().tolist()):
            if i == j:
                continue
            dx = (b[0] + b[2]) / 2 - (a[0] + a[2]) / 2
            dy = (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2
            angle = math.degrees(math.atan2(dy, dx))
            borders = [-150, -120, -60, -30, 30, 60, 120, 150]
            cone = next((k for k in range(7) if borders[k] <= angle < borders[k + 1]), 7)
            cones.setdefault(cone, []).append((math.hypot(dx, dy), j))
        row = {i}
        for cone, some in cones.items():
            if cone == 7 or sectors == "all":
                for _, j in sorted(some)[:2]:
                    b = boxes[j].tolist()
                    inside = b[0] >= a[0] and b[1] >= a[1] and b[2] <= a[2] and b[3] <= a[3]
                    row |= set() if inside else {j}
        found.append(sorted(row))
    return found


@pytest.mark.parametrize("sectors", ["left", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_rule_region_by_region(sectors: str, seed: int) -> None:
    corners = torch.rand(20, 2, generator=torch.Generator().manual_seed(seed))
    sizes = torch.rand(20, 2, generator=torch.Generator().manual_seed(seed + 10)) * 0.4
    boxes = torch.cat([corners, corners + sizes], 1)
    assert [neighbours(boxes[None], i, sectors) for i in range(20)] == plain(boxes, sectors)


def test_left_means_left_and_up_means_up() -> None:
    boxes = boxes_at((0.5, 0.5), (0.2, 0.5), (0.8, 0.5), (0.5, 0.2), (0.5, 0.8))
    assert neighbours(boxes, 0, "left") == [0, 1]
    assert neighbours(boxes, 2, "left") == [0, 1, 2]
    assert neighbours(boxes, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("angle", "is_left"), [(149, False), (151, True), (180, True), (-151, True), (-149, False)])
def test_borders_of_the_left_direction(angle: float, is_left: bool) -> None:
    x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    boxes = boxes_at((0.5, 0.5), (0.5 + 0.3 * x, 0.5 - 0.3 * y))
    assert (neighbours(boxes, 0, "left") == [0, 1]) is is_left
    assert neighbours(boxes, 0) == [0, 1]


def test_the_two_nearest_of_a_direction() -> None:
    assert neighbours(boxes_at((0.9, 0.5), (0.1, 0.5), (0.5, 0.5), (0.3, 0.5))) == [0, 2, 3]


def test_a_box_inside_is_dropped_and_not_replaced() -> None:
    outer, far = [0.3, 0.3, 0.9, 0.7], [0.0, 0.4, 0.1, 0.6]
    inner, near = [0.35, 0.4, 0.45, 0.6], [0.15, 0.4, 0.25, 0.6]
    boxes = torch.tensor([[outer, inner, near, far]])
    assert neighbours(boxes, 0, "left") == [0, 2]  # inner was one of the two nearest; far does not move up
    assert neighbours(boxes, 1, "left") == [1, 2, 3]


def test_equal_boxes_are_no_neighbours_of_each_other() -> None:
    boxes = boxes_at((0.5, 0.5), (0.5, 0.5), (0.2, 0.5))
    assert neighbours(boxes, 0) == [0, 2]
    assert neighbours(boxes, 1) == [1, 2]


def test_boxes_around_one_centre_lie_to_the_left() -> None:
    boxes = torch.cat([boxes_at((0.5, 0.5), size=0.25), boxes_at((0.5, 0.5), size=0.125)], 1)
    assert neighbours(boxes, 1, "left") == [0, 1]  # the outer box does not lie inside the inner one
    assert neighbours(boxes, 0, "left") == [0]


def test_padded_boxes_are_nobodys_neighbours() -> None:
    boxes = torch.zeros(1, 4, 4)
    boxes[:, :2] = boxes_at((0.8, 0.8), (0.5, 0.8))
    found = box_adjacency(boxes, "all", torch.tensor([2]))
    assert found[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert box_adjacency(boxes[:, :1]).tolist() == [[[True]]]


# ------------------------------------------------------------------ side inputs of a split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A precomp folder with boxes for train and dev, none for test."""
    place = write_precomp(tmp_path / "tiny_precomp", {"train": 6, "dev": 4, "test": 3})
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("dev", 4)):
        corner = draw.random((count, REGIONS, 2))
        np.save(place / f"{split}_boxes.npy", np.concatenate([corner, corner + 0.2], 2).astype(np.float32))
    return place


def with_boxes(split: Split) -> Split:
    return replace(split, image_extras={**split.image_extras, **box_extras(split)})


def test_boxes_give_both_adjacencies(folder: Path) -> None:
    split = with_boxes(open_split(folder, "train"))
    require_extras(split, ("adjacency_released", "adjacency_all_sectors"), ())
    assert split.boxes is not None
    for name, sectors in (("adjacency_released", "left"), ("adjacency_all_sectors", "all")):
        found = split.select([4, 1]).image_extras[name].read([1, 0])[name]
        expected = box_adjacency(torch.from_numpy(np.array(split.boxes[[1, 4]])), sectors)  # type: ignore[arg-type]
        assert torch.equal(found, expected)
    assert box_extras(open_split(folder, "test")) == {}


def test_ragged_boxes_know_their_number() -> None:
    extra = BoxAdjacency("adjacency_all_sectors", np.zeros((2, 3, 4), dtype=np.float32), np.array([3, 1]))
    assert extra.read([1, 0])["adjacency_all_sectors"].diagonal(dim1=1, dim2=2).int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert len(extra.select([1])) == 1


def test_the_authors_fold_adjacency(folder: Path) -> None:
    split = with_boxes(open_split(folder, "train"))
    moved = compat_fold_adjacency(split, folds=2)  # folds of 3 images, 5 captions each: rows 0, 0, 0 for both
    name = "adjacency_released"
    rows = [row for _ in range(2) for row in (0, 0, 0)]
    assert torch.equal(moved.image_extras[name].read(range(6))[name], split.image_extras[name].read(rows)[name])
    assert "as in the authors' 5-fold evaluation" in moved.notes[-1]
    assert moved.captions == split.captions


def test_rows_of_the_authors_fold_adjacency() -> None:
    """20 images, 2 captions each, 2 folds: image k of a fold gets row k // 2 of all."""
    boxes = np.arange(20 * 4, dtype=np.float32).reshape(20, 1, 4)
    names = [str(k) for k in range(20)]
    extra = BoxAdjacency("adjacency_released", boxes)
    split = Split(
        "x", "testall", names, names * 2, np.tile(np.arange(20), 2), image_extras={"adjacency_released": extra}
    )
    moved = compat_fold_adjacency(split, folds=2).image_extras["adjacency_released"]
    assert isinstance(moved, BoxAdjacency)
    assert (moved.boxes[:, 0, 0] / 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] * 2


def test_splits_without_folds_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="6 images do not divide into 5 folds"):
        compat_fold_adjacency(open_split(folder, "train"))
    split = open_split(folder, "train")
    uneven = replace(split, captions=split.captions[:-1], owner=split.owner[:-1])
    with pytest.raises(DataError, match=r"images have \[4, 5\] captions"):
        compat_fold_adjacency(uneven, folds=2)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("sectors", ["left", "all"])
def test_prepare_writes_what_is_computed(folder: Path, sectors: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "adjacency", str(folder), "--sectors", sectors]) == 0
    said = capsys.readouterr().out
    assert "6 images" in said
    assert "4 images" in said
    assert not (folder / "test_ims_adjacency.npy").exists()
    assert not list(folder.glob(".*"))
    split = open_split(folder, "dev")
    found = split.image_extras["adjacency"].read([3, 0])["adjacency"]
    assert split.boxes is not None
    expected = box_adjacency(torch.from_numpy(np.array(split.boxes[[3, 0]])), sectors)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    assert np.load(folder / "dev_ims_adjacency.npy").dtype == np.uint8


def test_prepare_says_how_crowded_rows_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = np.random.default_rng(0).random((6, REGIONS, 2))
    np.save(folder / "train_boxes.npy", np.concatenate([near, near + 0.01], 2).astype(np.float32))
    (written, _) = write_adjacency(folder, sectors="all")
    ones = np.load(written.path).sum(2)
    assert (written.images, written.most) == (6, int(ones.max()))
    assert written.mean == pytest.approx(float(ones.mean()))
    assert written.crowded == pytest.approx(float((ones > 5).mean()))
    assert main(["prepare", "adjacency", str(folder), "--sectors", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["most"] == written.most


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before, _) = write_adjacency(folder)
    content = before.path.read_bytes()

    def fails(*args: object) -> None:
        raise DataError("the disk is gone")

    monkeypatch.setattr(BoxAdjacency, "read", fails)
    with pytest.raises(DataError, match="the disk is gone"):
        write_adjacency(folder, sectors="all")
    assert before.path.read_bytes() == content
    assert not list(folder.glob(".*"))


def test_prepare_needs_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_precomp(tmp_path / "tiny_precomp", {"train": 2})
    said = refused(["prepare", "adjacency", place], capsys, kind="DataError")
    assert "no split has both features and boxes" in said
    assert "_boxes.npy" in said
