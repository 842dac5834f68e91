"""Golden cases with a value changed, which a comparison has to miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from patchword.parity.cases import Ledger

OFF = 1e-3


def write_case(folder: Path, tensors: dict[str, Tensor], fields: dict[str, Any]) -> Path:
    """Write a case under a name that says nothing of it; returns its JSON."""
    save_file(tensors, folder / "other.safetensors")
    (folder / "other.json").write_text(json.dumps(fields))
    return folder / "other.json"


def off_by_a_little(value: Tensor, entry: int = 0) -> Tensor:
    """The tensor with one of its finite entries changed by 1e-3; the first truth value turned."""
    flat = value.flatten().clone()
    if flat.dtype == torch.bool:
        flat[0] = ~flat[0]
    else:
        flat[int(flat.isfinite().nonzero()[entry])] += OFF
    return flat.view(value.shape)


def misses(ledger: Ledger) -> set[str]:
    """Names of what differed."""
    return {row.name for row in ledger.rows if not row.passed}
