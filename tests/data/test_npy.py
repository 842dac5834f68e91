"""Files of numpy: mapped as they were written, refused in one line when they are damaged or hold something else."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.data.npy import open_array, read_header
from patchword.errors import DataError


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_fortran_order_and_big_endian_are_read(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for k, stored in enumerate((np.asfortranarray(array), array.astype(">f4"))):
        opened = open_array(save(tmp_path / f"{k}.npy", stored))
        assert np.array_equal(opened, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_the_header_is_read_in_all_versions(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(np.ones((3, 4), np.float16)), version)
    with path.open("rb") as file:
        header = read_header(file)
        assert header.start == file.tell() == path.stat().st_size - 24
    assert (header.shape, header.dtype.name, header.order, header.data_bytes) == ((3, 4), "float16", "F", 24)


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.ones(3))
    raw = bytearray(path.read_bytes())
    raw[6] = 9
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"unknown version 9\.0\. Copy it again"):
        open_array(path)


def test_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a b.npy", np.ones((10, 2, 3), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"truncated: 360 bytes, but its header promises 368 for shape \(10, 2, 3\)"):
        open_array(path)
    for cut in (0, 3, 8, 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"not a readable \.npy file"):
            open_array(path)


def test_what_is_no_number_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    save(tmp_path / "text.npy", np.asarray(["a", "b"]))
    save(tmp_path / "empty.npy", np.ones((0, 36, 4)))
    (tmp_path / "lfs.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for name, message in [
        ("object", "pickled Python objects"),
        ("archive", "is an archive"),
        ("text", "Expected numbers"),
        ("empty", "empty array"),
        ("lfs", "Git LFS pointer"),
        ("absent", "is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            open_array(tmp_path / f"{name}.npy")


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 127), value=st.integers(0, 255))
def test_any_damaged_header_gives_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("header") / "a.npy"
    np.save(path, np.ones((3, 2, 2), np.float32))
    raw = bytearray(path.read_bytes())
    raw[position] = value
    path.write_bytes(bytes(raw))
    with contextlib.suppress(DataError):
        open_array(path)  # either it still reads or the error is ours
