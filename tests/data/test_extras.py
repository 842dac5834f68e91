from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import write_precomp

from patchword.data.adjacency import box_extras
from patchword.data.batches import TrainingPairs
from patchword.data.doctor import check_data
from patchword.data.extras import ArrayExtra, MemoryExtra, find_extras, require_extras, require_finite
from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.errors import DataError
from patchword.types import Captions, Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """6 training images with 5 captions each; side inputs say whose they are in their first number."""
    place = write_precomp(tmp_path / "tiny_precomp", {"train": 6, "dev": 4})
    np.save(place / "train_ims_clip.npy", np.arange(6, dtype=np.float16)[:, None] + np.zeros(3))
    np.save(place / "train_caps_clip.npy", np.arange(30, dtype=np.float32)[:, None] + np.zeros(3, dtype=np.float32))
    np.save(place / "train_ims_adjacency.npy", np.stack([np.eye(4)] * 6).astype(np.uint8))
    return place


def pairs_of(split: Split, images: tuple[str, ...], captions: tuple[str, ...]) -> TrainingPairs:
    tokenizer = WordTokenizer(Vocabulary.build(split.captions, min_count=1))
    return TrainingPairs(split, tokenizer, seed=0, image_extras=images, caption_extras=captions)


def test_batches_carry_the_side_inputs_that_were_asked_for(folder: Path) -> None:
    split = open_split(folder, "train")
    batch = pairs_of(split, ("clip", "adjacency"), ("clip",)).read([7, 29, 0], epoch=0)
    assert batch.images.extra["clip"].tolist() == [[1.0] * 3, [5.0] * 3, [0.0] * 3]
    assert batch.captions.extra["clip"][:, 0].tolist() == [7.0, 29.0, 0.0]
    assert batch.images.extra["adjacency"].dtype == torch.bool
    assert pairs_of(split, (), ()).read([7], epoch=0).images.extra == {}


def test_side_inputs_follow_their_items_through_selections(folder: Path) -> None:
    split = open_split(folder, "train", captions_per_image=2).select([4, 1])
    assert split.image_extras["clip"].read([0, 1])["clip"][:, 0].tolist() == [4.0, 1.0]
    assert split.caption_extras["clip"].read(range(4))["clip"][:, 0].tolist() == [20.0, 21.0, 5.0, 6.0]


def test_a_side_file_may_repeat_images_as_the_features_do(tmp_path: Path) -> None:
    """Also where images have 1, 2 and 4 captions: the rows are those of the features."""
    (tmp_path / "dev_ids.txt").write_text("a\nb\nb\nc\nc\nc\nc\n")
    (tmp_path / "dev_caps.txt").write_text("".join(f"caption {k}\n" for k in range(7)))
    rows = np.repeat(np.arange(3.0), (1, 2, 4)).astype(np.float32)
    np.save(tmp_path / "dev_ims.npy", np.tile(rows[:, None, None], (1, 3, 4)))
    np.save(tmp_path / "dev_ims_clip.npy", rows[:, None])
    split = open_split(tmp_path, "dev")
    assert split.n_images == 3
    assert split.image_extras["clip"].read([0, 1, 2])["clip"][:, 0].tolist() == [0.0, 1.0, 2.0]
    assert split.require_images().read([0, 1, 2]).values[:, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_a_side_file_of_another_length_is_left_out_and_named(folder: Path) -> None:
    np.save(folder / "train_ims_clip.npy", np.zeros((5, 3), np.float32))
    split = open_split(folder, "train")
    assert set(split.image_extras) == {"adjacency"}
    assert "'train_ims_clip.npy' has 5 rows, not 6: left out" in split.notes


def test_pixel_boxes_are_not_side_inputs(folder: Path) -> None:
    np.save(folder / "train_ims_bbx.npy", np.zeros((6, 4, 4)))
    assert set(find_extras(folder, "train", "ims", 6)[0]) == {"clip", "adjacency"}


def test_the_doctor_knows_side_inputs(folder: Path) -> None:
    assert not [finding for finding in check_data(folder).findings if "not read" in finding.found]


def test_batches_of_inputs_move_and_cut_their_side_inputs() -> None:
    images = Images(torch.zeros(3, 2, 4), torch.tensor([2, 2, 2]), None, {"clip": torch.arange(3.0)[:, None]})
    captions = Captions(torch.ones(3, 2, dtype=torch.long), torch.tensor([2, 1, 2]), {"clip": torch.arange(3.0)})
    assert images[1:].to("cpu").extra["clip"].tolist() == [[1.0], [2.0]]
    assert captions[:2].to("cpu").extra["clip"].tolist() == [0.0, 1.0]


def test_the_authors_name_of_an_adjacency_file_is_known(folder: Path) -> None:
    (folder / "train_ims_adjacency.npy").rename(folder / "train_ims_dir_selfadj4.npy")
    split = open_split(folder, "train")
    assert torch.equal(split.image_extras["adjacency"].read([2])["adjacency"], torch.eye(4, dtype=torch.bool)[None])


def test_an_adjacency_may_hold_truth_values(folder: Path) -> None:
    near = np.stack([np.eye(4, dtype=bool)] * 6)
    np.save(folder / "train_ims_adjacency.npy", near)
    found = open_split(folder, "train").image_extras["adjacency"].read([2])["adjacency"]
    assert found.dtype == torch.bool
    assert torch.equal(found[0], torch.eye(4).bool())


def test_boxes_and_graph_files_become_side_inputs(folder: Path) -> None:
    left_right = [[0.6, 0.4, 0.8, 0.6], [0.1, 0.4, 0.3, 0.6]]
    np.save(folder / "train_boxes.npy", np.asarray([left_right * 2] * 6, dtype=np.float32))
    (folder / "train_amr_caps.txt").write_text("dog run\n" + "\n" * 29, encoding="utf-8")
    split = open_split(folder, "train").select([1, 0])
    assert {"adjacency_released", "adjacency_all_sectors"} <= set(split.image_extras)
    batch = pairs_of(split, ("adjacency_released",), ("graph",)).read([0, 5], epoch=0)
    near = batch.images.extra["adjacency_released"]
    assert near.shape == (2, 4, 4)
    assert near[0].diagonal().all()
    assert batch.captions.extra["graph_lengths"].tolist() == [0, 4]  # caption 5 is the first one of image 0


# ------------------------------------------------------------------ refused


def test_a_missing_side_input_is_named_with_its_file(folder: Path) -> None:
    with pytest.raises(DataError, match=r"`clip` of the captions.*'dev_caps_clip.npy'"):
        require_extras(open_split(folder, "dev"), (), ("clip",))


def test_another_number_of_rows_is_refused(folder: Path) -> None:
    np.save(folder / "train_ims_clip.npy", np.zeros((7, 3)))
    with pytest.raises(DataError, match=r"'train_ims_clip.npy' beside the features, with 6 rows"):
        require_extras(open_split(folder, "train"), ("clip",), ())


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asarray([[1.0], [np.nan]]))
    extra = ArrayExtra("clip", tmp_path / "x.npy", np.arange(2))
    assert extra.read([0])["clip"].tolist() == [[1.0]]
    with pytest.raises(DataError, match="row 1 holds NaN"):
        extra.read([0, 1])


def test_an_adjacency_of_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    near = np.stack([np.eye(3)] * 2)
    near[1, 0, 2] = np.nan  # is not 0, and would make a neighbour
    np.save(tmp_path / "x.npy", near)
    with pytest.raises(DataError, match="row 1 holds NaN"):
        ArrayExtra("adjacency", tmp_path / "x.npy", np.arange(2)).read([0, 1])


BROKEN = [
    ("train_ims_clip.npy", (3, 1), "clip", ""),
    ("train_caps_clip.npy", (17, 2), "", "clip"),
    ("train_ims_adjacency.npy", (4, 1, 1), "adjacency", ""),
    ("train_boxes.npy", (5, 0, 3), "adjacency_released", ""),
    ("train_ims_bbx.npy", (2, 3, 1), "adjacency_all_sectors", ""),
    ("train_ims_size.npy", (1, 0), "adjacency_released", ""),
]


@pytest.mark.parametrize(("name", "cell", "image", "caption"), BROKEN)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_every_side_input_and_box_is_looked_at_before_it_is_used(
    folder: Path, name: str, cell: tuple[int, ...], image: str, caption: str, value: float
) -> None:
    if name.endswith(("bbx.npy", "size.npy")):
        np.save(folder / "train_ims_bbx.npy", np.random.default_rng(0).random((6, 4, 4)).astype(np.float32))
        np.save(folder / "train_ims_size.npy", np.full((6, 2), 100.0, np.float32))
    elif name == "train_boxes.npy":
        np.save(folder / name, np.random.default_rng(0).random((6, 4, 4)).astype(np.float32))
    wanted = tuple(word for word in (image,) if word), tuple(word for word in (caption,) if word)
    require_finite(open_split(folder, "train"), *wanted)
    array = np.load(folder / name).astype(np.float32)
    array[cell] = value
    np.save(folder / name, array)
    split = open_split(folder, "train")
    require_finite(split, (), ())  # nobody reads it
    if name.endswith("size.npy") and value == np.inf:
        return  # boxes without extent, but numbers
    with pytest.raises(DataError, match=f"'.*{name}' row {cell[0]} ") as caught:
        require_finite(split, *wanted)
    assert "\n" not in str(caught.value)
    assert image.startswith("adjacency_") is ("image 'train_" in str(caught.value))


def test_side_inputs_at_hand_are_looked_at(folder: Path) -> None:
    split = open_split(folder, "train")
    values = torch.zeros(6, 3)
    values[4, 2] = torch.nan
    broken = replace(split, image_extras={"clip": MemoryExtra({"clip": values})})
    with pytest.raises(DataError, match="row 4 of the side input `clip`"):
        require_finite(broken, ("clip",), ())
    bare = replace(split, images=None, boxes=np.full((6, 2, 4), np.nan, np.float32))
    bare = replace(bare, image_extras=box_extras(bare))
    with pytest.raises(DataError, match=r"/train: the boxes of image 'train_0' hold NaN"):
        require_finite(bare, ("adjacency_released",), ())
