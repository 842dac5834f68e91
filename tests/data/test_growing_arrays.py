"""Files that grow in step: what is finished is what numpy would write, what is not is gone on with or begun again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from patchword.data.growing_arrays import GrowingArrays

ROWS = np.arange(60, dtype=np.float32).reshape(10, 2, 3)


def arrays(folder: Path, fingerprint: str = "same") -> GrowingArrays:
    return GrowingArrays({folder / "a.npy": (2, 3), folder / "b.npy": (3,)}, folder / ".note.json", fingerprint)


def interrupted(folder: Path, noted: int, more: int = 0) -> None:
    """Leave files with so many rows on the note, and some behind them."""
    with arrays(folder) as files:
        for count in (noted, more):
            part = ROWS[files.rows : files.rows + count]
            files.append(part, part[:, 1])
            if count == noted:
                files.save(word="é")


def finished(folder: Path, fingerprint: str = "same") -> int:
    """Finish the files; gives how many rows were there."""
    with arrays(folder, fingerprint) as files:
        there = files.rows
        files.append(ROWS[there:], ROWS[there:, 1])
        files.finish()
    return there


def as_numpy_writes(values: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()


@pytest.mark.parametrize(("noted", "more"), [(0, 0), (4, 0), (4, 3), (10, 0)])
def test_finished_files_are_those_of_one_run(tmp_path: Path, noted: int, more: int) -> None:
    interrupted(tmp_path, noted, more)
    assert not (tmp_path / "a.npy").exists()
    assert arrays(tmp_path).kept == {"word": "é"}
    assert finished(tmp_path) == noted
    assert (tmp_path / "a.npy").read_bytes() == as_numpy_writes(ROWS)
    assert (tmp_path / "b.npy").read_bytes() == as_numpy_writes(ROWS[:, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_what_belongs_to_another_job_or_is_cut_off_is_begun_again(tmp_path: Path) -> None:
    interrupted(tmp_path, 4)
    assert arrays(tmp_path, "other").rows == 0
    assert GrowingArrays({tmp_path / "a.npy": (6,)}, tmp_path / ".note.json", "same").rows == 0
    partial = tmp_path / ".b.npy.partial"
    content = partial.read_bytes()
    partial.write_bytes(content[:-1])
    assert arrays(tmp_path).rows == 0
    partial.write_bytes(content)
    assert arrays(tmp_path).rows == 4
    assert finished(tmp_path, "other") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ROWS)


@pytest.mark.parametrize("note", ["", "{", "[]", "null", json.dumps({"rows": 4})])
def test_a_damaged_note_is_no_note(tmp_path: Path, note: str) -> None:
    interrupted(tmp_path, 4)
    (tmp_path / ".note.json").write_text(note, encoding="utf-8")
    assert (arrays(tmp_path).rows, arrays(tmp_path).kept) == (0, {})
