"""Shards: immutable safetensors files with the vector sets of some thousand items each.

A shard is written once, under a temporary name, and then only read: mapped for whole blocks, by positioned reads
(several at a time) for scattered items. Its tensors, each optional one only where it says something:

- ``ids (N,)`` int64, ascending; ``lengths (N,)`` int32: vectors of each item
- ``vectors (T, D)`` float16: the rows of all items, one after the other, T = sum of the lengths
- ``pooled (N, G)`` float16: the one vector per item of the shortlist; absent when it is the item's only vector
- ``boxes (S, 4)`` float16 and ``box_counts (N,)`` int32: x1, y1, x2, y2 in 0..1 of each item's patches, where known
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import DataError
from patchword.files import sync_folder
from patchword.store.handles import HANDLES, Stamp, stamp_of

_NAMES = {"I64": np.int64, "I32": np.int32, "F16": np.float16, "F32": np.float32}
_CODES = {np.dtype(kind): name for name, kind in _NAMES.items()}
_ALIGN = 64
_MAX_HEADER = 1 << 20
_KEYS = count()
Array = NDArray[Any]


@dataclass(frozen=True)
class Written:
    """A shard file that is on the disk.

    Attributes:
        hash: blake2b of its bytes.
        bytes: its size.
    """

    hash: str
    bytes: int


@dataclass(frozen=True)
class Spec:
    """An array that is to be written, made piece by piece.

    Attributes:
        dtype, shape: of the whole.
        pieces: gives its parts, joined along the first axis.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Array]]

    @property
    def bytes(self) -> int:
        """Size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shard(path: Path, tensors: Mapping[str, Sequence[Array]]) -> Written:
    """Write a safetensors file, fsync it and put it under its name.

    Args:
        path: where to; a file that is there is replaced.
        tensors: for each name the pieces of its array, joined along the first axis as they are written, so that the
            whole is never twice in memory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    specs = {
        name: Spec(pieces[0].dtype, (sum(map(len, pieces)), *pieces[0].shape[1:]), partial(iter, pieces))
        for name, pieces in tensors.items()
    }
    try:
        written = write_tensors(fresh, specs, {"format": "patchword-index-shard"})
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise DataError(
            f"'{path}' could not be written: {error.strerror}. What the index held before is untouched. "
            "Free some space and run: patchword index sync"
        ) from None
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return written


def write_tensors(path: Path, specs: Mapping[str, Spec], about: Mapping[str, str]) -> Written:
    """Write a safetensors file and fsync it.

    Args:
        path: where to.
        specs: its tensors.
        about: its metadata.
    """
    order = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))  # each begins at a multiple of its size
    header: dict[str, Any] = {"__metadata__": dict(about)}
    place = 0
    for name in order:
        spec = specs[name]
        end = place + spec.bytes
        header[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    digest, total = blake2b(digest_size=16), 0
    with path.open("wb") as file:
        begin = memoryview(len(text).to_bytes(8, "little") + text)
        for block in chain([begin], _blocks(specs[name] for name in order)):
            digest.update(block)
            file.write(block)
            total += len(block)
        file.flush()
        os.fsync(file.fileno())
    assert total == 8 + len(text) + place, "the pieces of an array do not add up to its shape"
    return Written(digest.hexdigest(), total)


def _blocks(specs: Iterable[Spec]) -> Iterator[memoryview]:
    """The bytes of some arrays, piece by piece."""
    for spec in specs:
        for piece in spec.pieces():
            if piece.size:
                yield np.ascontiguousarray(piece, dtype=spec.dtype).reshape(-1).view(np.uint8).data


def hash_file(path: Path) -> str:
    """blake2b of a file's bytes, as `write_shard` computes it."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """An open shard. It is mapped, so that it can be read on when its name is gone.

    The map takes one file descriptor; see `patchword.store.handles` for the reading by position.

    Attributes:
        path: its file.
        arrays: its tensors by name, mapped.
        starts: byte in the file where each tensor begins.
        stamp: of the file.
        key: a number that no other open shard of this process has.
    """

    path: Path
    arrays: Mapping[str, Array]
    starts: Mapping[str, int]
    stamp: Stamp = field(repr=False)
    key: int = field(repr=False, default_factory=lambda: next(_KEYS))

    def is_in_place(self) -> bool:
        """Whether its name still leads to the file that is mapped.

        Raises:
            FileNotFoundError: it leads to none.
        """
        return stamp_of(self.path.stat()) == self.stamp

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids, ``(N,)``, ascending."""
        return self.arrays["ids"]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The number of vectors of each item, ``(N,)``."""
        return self.arrays["lengths"]

    @property
    def vectors(self) -> NDArray[np.float16]:
        """The vectors of all items, ``(T, D)``, one item after the other."""
        return self.arrays["vectors"]

    @property
    def pooled(self) -> NDArray[np.float16]:
        """The shortlist vectors, ``(N, G)``: the stored ones, or the only vector of each item."""
        return self.arrays["pooled"] if "pooled" in self.arrays else self.arrays["vectors"]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The row of ``vectors`` where each item begins, ``(N + 1,)``, with T at the end."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    @cached_property
    def box_offsets(self) -> NDArray[np.int64] | None:
        """The row of ``boxes`` where each item begins, ``(N + 1,)``; None without boxes."""
        if "box_counts" not in self.arrays:
            return None
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.arrays["box_counts"], dtype=np.int64)])

    def boxes(self, place: int) -> NDArray[np.float32] | None:
        """The boxes of one item, ``(R, 4)``; None when they are not known."""
        offsets = self.box_offsets
        if offsets is None or offsets[place] == offsets[place + 1]:
            return None
        return np.asarray(self.arrays["boxes"][offsets[place] : offsets[place + 1]], dtype=np.float32)


def open_shard(path: Path) -> Shard:
    """Map a shard file.

    Raises:
        FileNotFoundError: it is gone (a compaction has replaced it: take a new snapshot).
        DataError: it is truncated or no shard.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        shard = Shard(path, *_map(path, handle), stamp_of(os.fstat(handle)))
    finally:
        os.close(handle)
    weakref.finalize(shard, HANDLES.forget, shard.key)
    return shard


def _map(path: Path, handle: int) -> tuple[dict[str, Array], dict[str, int]]:
    """The tensors of a safetensors file as views of one private mapping, and where they begin."""
    size = os.fstat(handle).st_size
    damaged = DataError(
        f"'{path}' is damaged ({size:,} bytes). Encode its images again with: patchword index sync {path.parent.parent}"
    )
    head = os.read(handle, 8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 0 < length <= min(_MAX_HEADER, size - 8):
        raise damaged
    try:
        header = json.loads(os.read(handle, length))
    except ValueError:
        raise damaged from None
    whole = np.frombuffer(_map_privately(handle), dtype=np.uint8)
    arrays, starts = dict[str, Array](), dict[str, int]()
    try:
        header.pop("__metadata__", None)
        for name, about in header.items():
            kind, shape, (begin, end) = np.dtype(_NAMES[about["dtype"]]), about["shape"], about["data_offsets"]
            begin, end = begin + 8 + length, end + 8 + length
            if end > size or begin < 8 + length or end - begin != math.prod(shape) * kind.itemsize:
                raise damaged
            arrays[name], starts[name] = whole[begin:end].view(kind).reshape(shape), begin
        ids, lengths, vectors = arrays["ids"], arrays["lengths"], arrays["vectors"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged from None
    if ids.ndim != 1 or ids.shape != lengths.shape or vectors.ndim != 2:
        raise damaged
    return arrays, starts


def _map_privately(handle: int) -> mmap.mmap:
    """Map a whole file so that torch takes it without a copy: privately and writable, though nobody writes to it.

    Memory for the copies that are never made is not reserved, where the system lets one say so.
    """
    if os.name != "posix":
        return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    unreserved = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    flags, prot = mmap.MAP_PRIVATE | unreserved, mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return mmap.mmap(handle, 0, flags=flags, prot=prot, trackfd=False)  # and no descriptor
    return mmap.mmap(handle, 0, flags=flags, prot=prot)
