from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchword.data.precomp import find_precomp, group_rows, read_precomp, splits_in
from patchword.errors import DataError


def write(
    folder: Path, split: str, captions: list[str], ids: list[str] | None = None, rows: np.ndarray | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_caps.txt").write_text("".join(f"{text}\n" for text in captions), encoding="utf-8")
    if ids is not None:
        (folder / f"{split}_ids.txt").write_text("".join(f"{image}\n" for image in ids), encoding="utf-8")
    if rows is not None:
        np.save(folder / f"{split}_ims.npy", rows)
    return folder


def features(rows: int) -> np.ndarray:
    return np.arange(rows * 2 * 3, dtype=np.float32).reshape(rows, 2, 3) + 1


def texts(count: int) -> list[str]:
    return [f"caption {k}" for k in range(count)]


@given(images=st.integers(1, 30), per_image=st.integers(1, 7))
def test_once_per_image(images: int, per_image: int) -> None:
    ids = [f"i{k}" for k in range(images)]
    for given_ids, rows in ((ids, images), (ids, None), (None, images)):
        found = group_rows(given_ids, images * per_image, rows, None, "x")
        assert len(found.image_ids) == images
        assert found.owner.tolist() == [k // per_image for k in range(images * per_image)]
        assert found.rows is None if rows is None else found.rows.tolist() == list(range(images))


@given(runs=st.lists(st.integers(1, 7), min_size=1, max_size=20).filter(lambda r: max(r) > 1))
def test_ids_that_repeat_give_the_runs(runs: list[int]) -> None:
    ids = [f"i{k}" for k, times in enumerate(runs) for _ in range(times)]
    starts = np.cumsum([0, *runs[:-1]]).tolist()
    for rows, expected in ((len(ids), starts), (len(runs), list(range(len(runs)))), (None, None)):
        found = group_rows(ids, len(ids), rows, None, "x")
        assert found.image_ids == [f"i{k}" for k in range(len(runs))]
        assert np.bincount(found.owner).tolist() == runs
        assert (None if found.rows is None else found.rows.tolist()) == expected


@given(images=st.integers(2, 20), per_image=st.integers(2, 7), change=st.sampled_from([-1, 1]))
def test_one_line_too_few_or_many_is_refused(images: int, per_image: int, change: int) -> None:
    ids = [f"i{k}" for k in range(images)]
    captions = images * per_image
    with pytest.raises(DataError, match=f"{captions + change:,} captions"):
        group_rows(ids, captions + change, images, None, "x")
    repeated = [image for image in ids for _ in range(per_image)]
    with pytest.raises(DataError, match="one id per caption"):
        group_rows(repeated, captions + change, captions, None, "x")
    with pytest.raises(DataError, match="feature file is short"):
        group_rows(repeated, captions, captions + change, None, "x")


def test_five_equal_rows_without_ids_are_one_image(tmp_path: Path) -> None:
    rows = np.repeat(features(4), 5, axis=0)
    split = read_precomp(write(tmp_path, "dev", texts(20), rows=rows), "dev", dataset="x")
    assert (split.n_images, split.n_captions) == (4, 20)
    assert split.captions_per_image() == {5: 4}
    assert np.array_equal(split.require_images().read([0, 3]).values.numpy(), features(4)[[0, 3]])
    assert "repeated" in split.notes[0]


def test_one_caption_per_image_without_ids(tmp_path: Path) -> None:
    split = read_precomp(write(tmp_path, "dev", texts(20), rows=features(20)), "dev", dataset="x")
    assert split.captions_per_image() == {1: 20}


def test_five_fold_repetition_by_ids(tmp_path: Path) -> None:
    ids = [image for image in ("7", "3", "11") for _ in range(5)]
    split = read_precomp(
        write(tmp_path, "test", texts(15), ids, np.repeat(features(3), 5, axis=0)), "test", dataset="x"
    )
    assert split.image_ids == ["7", "3", "11"]
    assert np.array_equal(split.require_images().read([2, 1]).values.numpy(), features(3)[[2, 1]])


def test_missing_row_is_refused_with_the_counts(tmp_path: Path) -> None:
    ids = [image for image in ("7", "3", "11") for _ in range(5)]
    write(tmp_path, "test", texts(15), ids, features(14))
    with pytest.raises(DataError, match="15 captions, 15 ids, 14 feature rows"):
        read_precomp(tmp_path, "test", dataset="x")


def test_ids_that_come_back_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "test", texts(4), ["a", "a", "b", "a"])
    with pytest.raises(DataError, match="id 'a' comes back in line 4"):
        read_precomp(tmp_path, "test", dataset="x")


def test_captions_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="add an ids file or features"):
        read_precomp(write(tmp_path, "test", texts(5)), "test", dataset="x")
    with pytest.raises(DataError, match="can not be shared evenly"):
        read_precomp(write(tmp_path, "dev", [], ["1"]), "dev", dataset="x")
    with pytest.raises(DataError, match=r"dev_ids\.txt' line 2 is empty"):
        read_precomp(write(tmp_path, "dev", texts(3), ["1", "", "2"]), "dev", dataset="x")


def test_ragged_features_with_offsets(tmp_path: Path) -> None:
    folder = write(tmp_path / "a folder", "train", texts(6), ["a", "b", "c"], np.arange(12.0).reshape(6, 2))
    np.save(folder / "train_offsets.npy", np.asarray([0, 1, 4, 6]))
    split = read_precomp(folder, "train", dataset="x")
    batch = split.require_images().read([1, 0])
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [3, 1]
    for wrong in ([0, 1, 4, 7], [0, 4, 4, 6], [1, 2, 4, 6], [0.0, 1.5, 4.0, 6.0]):
        np.save(folder / "train_offsets.npy", np.asarray(wrong))
        with pytest.raises(DataError, match=r"does not fit 'train_ims\.npy'"):
            read_precomp(folder, "train", dataset="x")


def test_features_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", texts(6), ["a", "b", "c"], np.ones((3, 8), np.float32))
    with pytest.raises(DataError, match=r"shape \(3, 8\)"):
        read_precomp(tmp_path, "train", dataset="x")


def test_boxes_once_per_image_or_per_row(tmp_path: Path) -> None:
    folder = write(tmp_path, "dev", texts(10), ["a"] * 5 + ["b"] * 5, np.repeat(features(2), 5, axis=0))
    boxes = np.random.default_rng(0).random((2, 2, 4)).astype(np.float32)
    for stored in (boxes, np.repeat(boxes, 5, axis=0)):
        np.save(folder / "dev_boxes.npy", stored)
        found = read_precomp(folder, "dev", dataset="x").boxes
        assert found is not None
        assert np.array_equal(found, boxes)
    for wrong, message in ((boxes[:1], "1 rows"), (boxes[..., :3], r"Expected \(images, regions, 4\)")):
        np.save(folder / "dev_boxes.npy", wrong)
        with pytest.raises(DataError, match=message):
            read_precomp(folder, "dev", dataset="x")


def test_u2028_and_crlf_and_bom_do_not_shift_captions(tmp_path: Path) -> None:
    write(tmp_path, "dev", [], ["ä", "ö"])
    (tmp_path / "dev_caps.txt").write_bytes("\ufeffeins\u2028\x0bnoch eins\r\nzwei\r\n".encode())
    split = read_precomp(tmp_path, "dev", dataset="x")
    assert split.captions == ["eins\u2028\x0bnoch eins", "zwei"]
    assert split.image_ids == ["ä", "ö"]


@pytest.mark.parametrize("where", ["f30k_precomp", "f30k/precomp", "f30k", "precomp", "."])
def test_every_known_folder_is_found(tmp_path: Path, where: str) -> None:
    folder = write(tmp_path / where, "train", texts(2), ["a", "b"])
    found = find_precomp(tmp_path, "f30k")
    assert found is not None
    assert found.resolve() == folder.resolve()
    unnamed = find_precomp(tmp_path)
    assert where == "f30k" or (unnamed is not None and unnamed.resolve() == folder.resolve())


def test_several_data_sets_need_a_name(tmp_path: Path) -> None:
    write(tmp_path / "coco_precomp", "train", texts(2), ["a", "b"])
    write(tmp_path / "f30k_precomp", "train", texts(2), ["a", "b"])
    assert find_precomp(tmp_path, "coco") == tmp_path / "coco_precomp"
    with pytest.raises(DataError, match="several data sets: 'coco_precomp', 'f30k_precomp'"):
        find_precomp(tmp_path)
    assert find_precomp(tmp_path / "nothing") is None


def test_missing_split_lists_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "train", texts(2), ["a", "b"])
    write(tmp_path, "testall", texts(2), ["a", "b"])
    assert splits_in(tmp_path) == ["train", "testall"]
    with pytest.raises(DataError, match=r"no split 'test'\. Splits found: train, testall"):
        read_precomp(tmp_path, "test", dataset="x")


def test_boxes_of_ragged_features_are_padded(tmp_path: Path) -> None:
    folder = write(tmp_path, "train", texts(2), ["a", "b"], np.arange(6.0).reshape(3, 2))
    np.save(folder / "train_offsets.npy", np.asarray([0, 2, 3]))
    boxes = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    np.save(folder / "train_boxes.npy", boxes)
    found = read_precomp(folder, "train", dataset="x").boxes
    assert found is not None
    assert np.array_equal(found, np.stack([boxes[:2], np.stack([boxes[2], np.zeros(4, np.float32)])]))


def test_pixel_boxes_are_divided_by_the_sizes(tmp_path: Path) -> None:
    folder = write(tmp_path, "dev", texts(10), ["a"] * 5 + ["b"] * 5, np.repeat(features(2), 5, axis=0))
    pixels = np.tile(np.asarray([10.0, 20.0, 50.0, 100.0]), (10, 2, 1))
    np.save(folder / "dev_ims_bbx.npy", pixels)
    assert read_precomp(folder, "dev", dataset="x").boxes is None
    for sizes in (np.asarray([[100, 200]] * 10), np.asarray([[100, 200]] * 2)):
        np.save(folder / "dev_ims_size.npy", sizes)
        found = read_precomp(folder, "dev", dataset="x").boxes
        assert found is not None
        assert np.allclose(found, np.tile([0.1, 0.1, 0.5, 0.5], (2, 2, 1)))
    for wrong, text in ((np.ones((3, 2)), "3 rows for 2 images"), (np.ones((10, 3)), r"Expected (rows, 2)")):
        np.save(folder / "dev_ims_size.npy", wrong)
        assert any(text in note for note in read_precomp(folder, "dev", dataset="x").notes)
    np.save(folder / "dev_ims_size.npy", np.asarray([[100, 200], [np.inf, 200]]))
    found = read_precomp(folder, "dev", dataset="x").boxes
    assert found is not None
    assert np.isnan(found).any((1, 2)).tolist() == [False, True]  # no box of a picture without a size
    np.save(folder / "dev_ims_size.npy", np.asarray([{"image_w": 100}] * 10, dtype=object), allow_pickle=True)
    split = read_precomp(folder, "dev", dataset="x")
    assert split.boxes is None
    assert any("pickled Python objects, which are never loaded" in note for note in split.notes)
