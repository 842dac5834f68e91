import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchword.data.features import RegionFeatures, require_width, scan_rows
from patchword.data.npy import open_array
from patchword.data.table import Split
from patchword.errors import DataError


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_rows_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    array = np.arange(5 * 2 * 3, dtype=np.float16).reshape(5, 2, 3)
    features = RegionFeatures(tmp_path / "a", open_array(save(tmp_path / "a.npy", array)), np.asarray([4, 0, 2]))
    batch = features.read([2, 0, 2])
    assert batch.values.dtype.is_floating_point
    assert batch.values.numpy().tolist() == array[[2, 4, 2]].astype(np.float32).tolist()
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [2, 2, 2]
    assert len(features.select([1])) == 1
    assert features.read([]).values.shape == (0, 2, 3)


def test_ragged_features_are_padded(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    offsets = np.asarray([0, 1, 4, 6])
    features = RegionFeatures(tmp_path / "a", array, np.asarray([0, 1, 2]), offsets)
    batch = features.read([2, 1])
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [2, 3]
    assert batch.values[0].tolist() == [[8, 9], [10, 11], [0, 0]]
    assert batch.values[1].tolist() == [[2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_row_is_named(tmp_path: Path, bad: float) -> None:
    array = np.ones((4, 2, 3), np.float32)
    array[3, 1, 1] = bad
    array[3, 0, 0] = np.inf
    features = RegionFeatures(tmp_path / "x_ims.npy", array, np.asarray([1, 3]))
    features.read([0])
    with pytest.raises(DataError, match="row 3 holds NaN or infinite"):
        features.read([0, 1])


@pytest.mark.parametrize("block", [1, 2, 9])
def test_all_broken_images_are_listed(block: int) -> None:
    array = np.ones((6, 2), np.float32)
    array[2, 1], array[5, 0] = np.nan, -np.inf
    ragged = RegionFeatures(Path("a"), array, np.asarray([2, 0, 1]), np.asarray([0, 1, 4, 6]))
    assert ragged.broken(block=block) == [0, 2]
    assert RegionFeatures(Path("a"), array.reshape(3, 2, 2), np.asarray([0, 1, 2])).broken(block=block) == [1, 2]
    assert ragged.select([1]).broken(block=block) == []


def test_width_is_required() -> None:
    features = RegionFeatures(Path("a_ims.npy"), np.ones((1, 2, 256), np.float32), np.asarray([0]))
    split = Split("x", "train", ["0"], ["a dog"], np.asarray([0]), features)
    require_width(split, 256)
    with pytest.raises(DataError, match=r"width 256.*takes width 2048"):
        require_width(split, 2048)


@given(block=st.integers(1, 9), n=st.integers(1, 9))
def test_scan_does_not_depend_on_the_block(block: int, n: int) -> None:
    array = np.random.default_rng(n).normal(size=(n, 2, 3)).astype(np.float32)
    array[::3] = 0
    array[1::4, 0, 1] = np.nan
    scan = scan_rows(array, block=block)
    finite = array[np.isfinite(array).all(axis=(1, 2))]
    assert scan.broken == list(range(1, n, 4))
    assert scan.empty == [k for k in range(0, n, 3) if k not in scan.broken]
    if len(finite):
        assert scan.mean == pytest.approx(float(finite.mean()), abs=1e-6)
        assert scan.std == pytest.approx(float(finite.std()), abs=1e-5)
        assert (scan.min, scan.max) == (float(finite.min()), float(finite.max()))


def test_scan_of_chosen_rows_gives_their_numbers() -> None:
    array = np.ones((10, 1, 1), np.float32)
    array[[2, 5]] = np.inf
    assert scan_rows(array, np.asarray([0, 5])).broken == [5]
    assert np.isnan(scan_rows(array, np.asarray([5])).mean)


def test_a_worker_gets_the_file_not_its_content(tmp_path: Path) -> None:
    path = tmp_path / "train_ims.npy"
    np.save(path, np.arange(600 * 6 * 8, dtype=np.float32).reshape(600, 6, 8))
    features = RegionFeatures(path, open_array(path), np.arange(600))
    packed = pickle.dumps(features)
    assert len(packed) < 8_000  # the row numbers, not 115 kB of features
    assert torch.equal(pickle.loads(packed).read([3, 599]).values, features.read([3, 599]).values)
