"""Writing an index as plain files: vectors as .npz or .safetensors, items as JSON Lines in the same order."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import ConfigError
from patchword.index.results import Exported
from patchword.store.catalog import Catalog
from patchword.store.estimate import require_space
from patchword.store.shards import Array, Spec, write_tensors
from patchword.store.snapshot import Snapshot, open_snapshot

SUFFIXES = (".npz", ".safetensors")
BLOCK = 2048


def export(
    index: Path | str, out: Path | str, *, kind: str = "image", where: str | None = None, pooled: bool = True
) -> Exported:
    """Write the vectors to ``out`` and the items, one JSON object per line in the same order, beside it.

    The arrays are ``ids (N,)``, ``lengths (N,)``, ``vectors (T, D)`` float16 with the rows of all items one after the
    other, and ``pooled (N, G)`` float16. Memory does not grow with the index.

    Args:
        index: index folder.
        out: file that ends in ``.npz`` or ``.safetensors``; the items go to the same name with ``.jsonl``.
        kind: ``image`` or ``caption``.
        where: a filter; only the images for which it holds.
        pooled: also write the shortlist's vectors.

    Raises:
        ConfigError: the name ends otherwise, a filter was given for captions, or the items of another export, or a file
            of somebody else, would be overwritten. An export under the very same name is replaced as a whole.
        DataError: there is no index, or the disk has not enough room.
    """
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"'{path}' ends in '{path.suffix}'. Expected a file that ends in {' or '.join(SUFFIXES)}.")
    if kind == "caption" and where is not None:
        raise ConfigError("a filter is about images. Leave out --where, or export images.")
    items = path.with_suffix(".jsonl")
    _require_own(path, items)
    snapshot = open_snapshot(index, kind)
    with Catalog(index) as catalog:
        rows = np.arange(len(snapshot)) if where is None else snapshot.known(catalog.where(where))
        specs = _specs(snapshot, rows, pooled=pooled)
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, sum(spec.bytes for spec in specs.values()))
        fresh = path.with_name(f".{path.name}.new")
        try:
            if path.suffix.lower() == ".npz":
                _write_npz(fresh, specs)
            else:
                write_tensors(fresh, specs, {"format": "patchword-index-export", "kind": kind})
            fresh_items = items.with_name(f".{items.name}.new")
            _write_items(fresh_items, catalog, snapshot, rows)
            os.replace(fresh, path)
            os.replace(fresh_items, items)
        finally:
            fresh.unlink(missing_ok=True)
            path.with_name(f".{path.stem}.jsonl.new").unlink(missing_ok=True)
    return Exported(str(path), str(items), len(rows), path.stat().st_size + items.stat().st_size)


def _require_own(path: Path, items: Path) -> None:
    """Refuse to overwrite items that belong to other vectors.

    Raises:
        ConfigError: there are such.
    """
    others = [path.with_suffix(suffix) for suffix in SUFFIXES if suffix != path.suffix.lower()]
    other = next((one for one in others if one.exists()), None)
    if items.exists() and (other is not None or not path.exists()):
        belongs = "is there already" if other is None else f"holds the items of '{other}'"
        raise ConfigError(f"'{items}' {belongs}, and would be overwritten. Choose another name than '{path.stem}'.")


def _specs(snapshot: Snapshot, rows: NDArray[np.int64], *, pooled: bool) -> dict[str, Spec]:
    """The arrays of an export, each read block by block when it is written."""
    lengths = snapshot.lengths[rows]

    def vectors() -> Iterator[Array]:
        for start in range(0, len(rows), BLOCK):
            yield snapshot.sets(rows[start : start + BLOCK]).vectors.half().numpy()  # they were float16: exact

    def shortlist() -> Iterator[Array]:
        for where, block in snapshot.pooled_blocks():
            chosen = rows[(rows >= where.start) & (rows < where.stop)] - where.start
            yield block.numpy()[chosen]

    found = {
        "ids": Spec(np.dtype(np.int64), (len(rows),), lambda: [snapshot.ids[rows]]),
        "lengths": Spec(np.dtype(np.int32), (len(rows),), lambda: [lengths]),
        "vectors": Spec(np.dtype(np.float16), (int(lengths.sum()), snapshot.width), vectors),
    }
    if pooled:
        found["pooled"] = Spec(np.dtype(np.float16), (len(rows), snapshot.pooled_width), shortlist)
    return found


def _write_npz(path: Path, specs: dict[str, Spec]) -> None:
    """What ``numpy.savez`` writes, without holding the arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, spec in specs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(spec.dtype),
                    "fortran_order": False,
                    "shape": spec.shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                for piece in spec.pieces():
                    file.write(np.ascontiguousarray(piece, dtype=spec.dtype).tobytes())


def _write_items(path: Path, catalog: Catalog, snapshot: Snapshot, rows: NDArray[np.int64]) -> None:
    """One JSON object per item; an item that was removed meanwhile keeps its line, with its id alone."""
    find: Callable[[Iterable[int]], dict[int, Any]] = (
        catalog.find if snapshot.kind == "image" else catalog.find_captions
    )
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(rows), BLOCK):
            ids = snapshot.ids[rows[start : start + BLOCK]].tolist()
            found = find(ids)
            for one in ids:
                line = asdict(found[one]) if one in found else {"id": one}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
