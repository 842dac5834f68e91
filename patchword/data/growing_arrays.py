"""``.npy`` files that grow row by row and in step, over interruptions: how a long extraction keeps what it has done.

Rows are appended to files under temporary names. A note beside them says how many rows are safe on the disk and what
they depend on, so that a run that was killed goes on behind them. The finished files are ordinary ``.npy`` files.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchword.files import write_whole


@dataclass(frozen=True)
class _Draft:
    """One float32 file on its way.

    Attributes:
        path: its name in the end.
        shape: of a row.
    """

    path: Path
    shape: tuple[int, ...]

    @property
    def partial(self) -> Path:
        """Its name until then."""
        return self.path.with_name(f".{self.path.name}.partial")

    def header(self, rows: int) -> bytes:
        """What stands before so many rows; numpy leaves room for their number, so the length is always the same."""
        made = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(made, about)
        return made.getvalue()

    def end(self, rows: int) -> int:
        """Where the first so many rows end, in bytes."""
        return len(self.header(0)) + 4 * rows * math.prod(self.shape)


class GrowingArrays:
    """Float32 ``.npy`` files with a row each for the same items, open for appending inside ``with``.

    Left before ``finish``, the unfinished files and their note stay for the next run.

    Args:
        rows_of: shape of a row, by the path of the finished file.
        note: file that says how far they are.
        fingerprint: of everything the rows depend on; rows that were noted with another one are made again.

    Attributes:
        rows: complete rows; at first those that an earlier run noted.
        kept: what that run noted beside their number; empty where there is nothing to go on with.
    """

    def __init__(self, rows_of: Mapping[Path, tuple[int, ...]], note: Path, fingerprint: str) -> None:
        self._drafts = [_Draft(path, shape) for path, shape in rows_of.items()]
        self._about = {"fingerprint": fingerprint, "shapes": [list(shape) for shape in rows_of.values()]}
        self._note = note
        self._files: list[BinaryIO] = []
        self._open = ExitStack()
        self.rows, self.kept = self._noted()

    def _noted(self) -> tuple[int, dict[str, Any]]:
        """What an earlier run of the same job left, if all of it is there."""
        try:
            found = json.loads(self._note.read_text(encoding="utf-8"))
            rows, kept = int(found["rows"]), dict(found["kept"])
            is_same = {key: found[key] for key in self._about} == self._about
            is_whole = all(draft.partial.stat().st_size >= draft.end(rows) for draft in self._drafts)
        except (OSError, ValueError, KeyError, TypeError):
            return 0, {}
        return (rows, kept) if is_same and is_whole else (0, {})

    def __enter__(self) -> GrowingArrays:
        for draft in self._drafts:
            file = self._open.enter_context(draft.partial.open("r+b" if self.rows else "wb"))
            file.write(draft.header(self.rows))
            file.seek(draft.end(self.rows))
            file.truncate()
            self._files.append(file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def append(self, *values: NDArray[np.float32]) -> None:
        """Add rows to every file: one array ``(n, *shape)`` for each, in the order in which the files were named."""
        for file, block in zip(self._files, values, strict=True):
            file.write(block.astype("<f4").tobytes())
        self.rows += len(values[0])

    def save(self, **kept: Any) -> None:
        """Put all rows on the disk, then note how many there are, with values of the caller's that JSON can hold."""
        self._flush()
        write_whole(self._note, json.dumps({**self._about, "rows": self.rows, "kept": kept}))

    def finish(self) -> None:
        """Give every file its name, the first one last, and remove the note."""
        for draft, file in zip(self._drafts, self._files, strict=True):
            file.seek(0)
            file.write(draft.header(self.rows))
            assert file.tell() == draft.end(0), "numpy's header changed its length"
        self._flush()
        for draft in reversed(self._drafts):
            draft.partial.replace(draft.path)
        self._note.unlink(missing_ok=True)

    def _flush(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
