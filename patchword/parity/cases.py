"""Golden cases: numbers measured from the authors' own code, and the ledger of what was compared with them.

A case is ``NAME.json`` with, where it holds tensors, ``NAME.safetensors`` beside it. Every quantity in it is either an
input that was used, a value that was compared, or is listed as not compared: nothing passes by being overlooked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from patchword.errors import DataError

CAP = 6e-4  # largest tolerance of any comparison

# Fields of a case that describe it; every other leaf is a quantity that must be used or compared.
DESCRIPTIVE = frozenset(
    {"method", "kind", "what", "reference", "notes", "torch", "dtype", "tensors", "config", "note", "case"}
)


@dataclass(frozen=True)
class Case:
    """One golden case as read from disk."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def name(self) -> str:
        """Folder and file name, as printed."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def config(self) -> dict[str, Any]:
        """The options of the authors' code that made the case."""
        return dict(self.fields.get("config", {}))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix``, with the prefix removed."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def whole(self, name: str) -> Tensor:
        """A tensor of whole numbers (lengths, ids) as integers, however it is stored.

        Raises:
            DataError: one of them is a fraction, NaN or infinite.
        """
        values = self.tensors[name]
        odd = (~(values.isfinite() & (values == values.round()))).flatten().nonzero().flatten().tolist()
        if odd:
            raise DataError(
                f"'{self.path}' tensor `{name}` holds {float(values.flatten()[odd[0]]):.7g} as number {odd[0]}. "
                "Expected whole numbers. Copy the case again."
            )
        return values.long()


def read_case(path: Path) -> Case:
    """Read ``NAME.json`` and its tensors, and check that the file holds just the tensors that the JSON lists.

    Raises:
        DataError: a file is unreadable, or a listed tensor is missing or has another shape.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is not a readable golden case: {error}") from None
    if not isinstance(fields, dict) or "method" not in fields:
        raise DataError(f"'{path}' is not a golden case: expected a JSON object with a field `method`.")
    beside = path.with_suffix(".safetensors")
    try:
        tensors = load_file(beside) if beside.exists() else {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"'{beside}' is not a readable safetensors file: {error}") from None
    listed = fields.get("tensors")
    if isinstance(listed, dict):
        for name, about in listed.items():
            shape = shape_of(about)
            if shape is None:
                continue
            if name not in tensors:
                raise DataError(f"'{beside}' lacks the tensor `{name}` that '{path.name}' lists.")
            if list(tensors[name].shape) != shape:
                raise DataError(
                    f"'{beside}' tensor `{name}` has shape {list(tensors[name].shape)}, '{path.name}' says {shape}."
                )
    return Case(path, fields, tensors)


def shape_of(about: Any) -> list[int] | None:
    """The shape in a JSON entry about a tensor: ``{"shape": [2, 3]}``, or a list of dtype and shape; None without one.

    Example:
        >>> [shape_of(about) for about in ({"shape": [2, 3]}, ["float32", [6, 16]], [[5], "torch.int64"], "text")]
        [[2, 3], [6, 16], [5], None]
    """
    if isinstance(about, dict):
        return list(about["shape"]) if "shape" in about else None
    shapes = [part for part in about if isinstance(part, list)] if isinstance(about, list) else []
    return shapes[0] if len(shapes) == 1 else None


def find_cases(folders: Iterable[Path]) -> list[Path]:
    """Every ``NAME.json`` in the folders (or the files given), sorted.

    Raises:
        DataError: a folder is missing or holds no case.
    """
    found: list[Path] = []
    for folder in folders:
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else [folder] if folder.is_file() else []
        if not paths:
            raise DataError(f"'{folder}' holds no golden case. Expected a folder with NAME.json files.")
        found += paths
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON value with its dotted path; a list of numbers counts as one leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for k, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{k}")
    else:
        yield path, value


@dataclass(frozen=True)
class Row:
    """One compared quantity."""

    name: str
    max_abs: float
    max_rel: float
    tolerance: str
    passed: bool
    note: str = ""


@dataclass
class Ledger:
    """What was used, compared and left over of one case.

    Args:
        case: the case.
        ignored: quantities that are known not to be comparable, with the reason.
    """

    case: Case
    rows: list[Row] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    excused: dict[str, str] = field(default_factory=dict)

    def input(self, name: str) -> Tensor:
        """Take an input tensor, marking it as used.

        Raises:
            DataError: the case has no such tensor.
        """
        if name not in self.case.tensors:
            raise DataError(f"'{self.case.path}' has no tensor `{name}`, which this kind of case needs.")
        self.used.add(name)
        return self.case.tensors[name]

    def whole(self, name: str) -> Tensor:
        """Take an input tensor of whole numbers as integers, marking it as used.

        Raises:
            DataError: the case has no such tensor, or it holds something else.
        """
        self.input(name)
        return self.case.whole(name)

    def use(self, *names: str) -> None:
        """Mark quantities as used (inputs and settings)."""
        self.used.update(names)

    def excuse(self, name: str, reason: str) -> None:
        """Leave a quantity out on purpose, saying why; it is still listed as not compared."""
        self.excused[name] = reason

    def close(self, name: str, found: Any, expected: Any, *, atol: float, rtol: float, note: str = "") -> None:
        """Compare numbers: |found - expected| <= atol + rtol * |expected| everywhere; NaN equals NaN.

        No tolerance exceeds ``CAP``, however large the values, so that a value off by 1e-3 never passes.
        """
        self.used.add(name)
        a = torch.as_tensor(found, dtype=torch.float64).detach()  # a Python float would pass through float32 otherwise
        b = torch.as_tensor(expected, dtype=torch.float64).detach()
        tolerance = f"atol {atol:g}, rtol {rtol:g}"
        if a.shape != b.shape:
            self.rows.append(
                Row(
                    name,
                    float("inf"),
                    float("inf"),
                    tolerance,
                    False,
                    f"shape {list(a.shape)}, expected {list(b.shape)}",
                )
            )
            return
        both_nan = a.isnan() & b.isnan()
        same = both_nan | (a == b)  # equal infinities too
        difference = torch.where(same, 0.0, (a - b).abs())
        difference = torch.where(difference.isnan(), torch.inf, difference)
        relative = torch.where(difference == 0, 0.0, difference / b.abs().clamp_min(1e-30))
        largest = float(difference.max()) if difference.numel() else 0.0
        passed = bool((same | (difference <= (atol + rtol * b.abs()).clamp_max(CAP))).all())
        self.rows.append(
            Row(name, largest, float(relative.max()) if relative.numel() else 0.0, tolerance, passed, note)
        )

    def exact(self, name: str, found: Any, expected: Any, *, note: str = "") -> None:
        """Compare values that must be equal (ids, ranks, texts, flags)."""
        self.used.add(name)
        if isinstance(found, Tensor) or isinstance(expected, Tensor):
            found, expected = torch.as_tensor(found).tolist(), torch.as_tensor(expected).tolist()
        passed = found == expected
        note = note if passed else f"found {str(found)[:60]}, expected {str(expected)[:60]}"
        self.rows.append(
            Row(name, 0.0 if passed else float("inf"), 0.0 if passed else float("inf"), "exact", passed, note)
        )

    @property
    def not_compared(self) -> list[str]:
        """Tensors and JSON leaves that were neither used nor compared, excused ones with their reason."""
        quantities = list(self.case.tensors)
        for key, value in self.case.fields.items():
            if key not in DESCRIPTIVE:
                quantities += [path for path, _ in leaves(value, key) if path.rsplit(".", 1)[-1] not in DESCRIPTIVE]
        left = [
            q
            for q in quantities  # a field stands for all below it; tensors have names only
            if q not in self.used and (q in self.case.tensors or not any(q.startswith(f"{u}.") for u in self.used))
        ]
        return [f"{q} ({self.excused[q]})" if q in self.excused else q for q in left]

    @property
    def passed(self) -> bool:
        """Something was compared, and every comparison passed."""
        return bool(self.rows) and all(row.passed for row in self.rows)
